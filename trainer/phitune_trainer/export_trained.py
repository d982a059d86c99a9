"""Exports of what lies on a disk, by `phitune export`: of a run, one of its checkpoints, or an adapter.

On the CPU, with one model in memory, in the precision that the run would export.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from phitune_trainer.card_facts import facts_of_adapter, facts_of_run, scores_of_checkpoint
from phitune_trainer.checkpoint.files import MANIFEST, DamagedCheckpoint, check
from phitune_trainer.errors import UserError
from phitune_trainer.export import read_about, write_export
from phitune_trainer.folders import is_filled
from phitune_trainer.incarnation import choose_origin
from phitune_trainer.load_trained import Located, find_layout, load_method, locate
from phitune_trainer.methods.adapter_folder import is_for_four_bits
from phitune_trainer.model.files import read_header
from phitune_trainer.model.load import check_model, weight_files
from phitune_trainer.model.read import PRECISIONS, STORED
from phitune_trainer.model_card import Facts, Kind, model_card
from phitune_trainer.result import read_result
from phitune_trainer.run_layout import RunLayout, step_of
from phitune_trainer.trained_crops import about_crops
from phitune_trainer.transfer import Say, size

_ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"


def find_trained(folder: Path, base: Path | None, say: Say) -> Located:
    """What is to be exported: of the folder of a run the newest checkpoint that is whole. UserError."""
    layout = RunLayout(folder.resolve())
    if not (layout.config.is_file() and layout.incarnations.is_dir()):
        return locate(folder, base)
    after_all = max(layout.incarnation_numbers(), default=0) + 1
    origin, passed_over = choose_origin(layout, after_all, check, DamagedCheckpoint)
    for problem in passed_over:
        say(f"damaged and not used: {problem}")
    if origin is None:
        raise UserError(
            f"{folder}: this run has no checkpoint that is whole; name its export/adapter, if there is one"
        )
    checkpoint = layout.incarnation(origin.incarnation).checkpoint(origin.step)
    return replace(locate(checkpoint, base), is_checked=True)


def choose_kind(located: Located, asked: Kind | None) -> Kind:
    """The kind of export: what was asked for, else whole weights. UserError where it cannot be had."""
    if located.kind == "model" and asked == "adapter":
        raise UserError(f"{located.folder}: is a whole model, in which no adapter is left to export")
    if asked == "adapter" and located.run is not None and located.run.method == "full":
        raise UserError(f"{located.folder}: method full trains no adapter; export it with --merged")
    return asked or "merged"


def is_export(folder: Path) -> bool:
    """Whether a folder is an export of this project."""
    return "source" in read_about(folder)


def export_trained(located: Located, kind: Kind, out: Path, *, force: bool, say: Say) -> None:
    """Write the export unless it is there.

    UserError where something else is, unless that is another export and `force` is set.
    """
    source = source_of(located)
    if is_filled(out):
        same = {"kind": kind, "source": source, **about_crops(located.num_crops)}
        if read_about(out).items() >= same.items():
            say(f"{out} is there already, and is this export")
            return
        if not is_export(out):
            raise UserError(
                f"{out}: holds something that is no export, so it is not replaced; choose another"
            )
        if not force:
            raise UserError(f"{out}: holds another export; choose another folder, or replace it with --force")
    dtype = stored_dtype(located)
    if kind == "merged":
        _check_room(out, check_model(located.model_dir) * dtype.itemsize)
    say(f"loading {located.about}")
    method = load_method(located, dtype=dtype, attention="sdpa")
    method.model.to("cpu")  # 4-bit weights are made now
    name = _method_of(located)
    what = "the adapter" if kind == "adapter" else "whole weights"
    say(f"writing {what} to {out}, {str(dtype).removeprefix('torch.')}")
    write_export(
        kind,
        method,
        name,
        out,
        base=located.model_dir,
        base_name=located.run.model.name if located.run else None,
        num_crops=located.num_crops,
        card=model_card(facts_of(located, str(dtype).removeprefix("torch.")), kind),
        source=source,
        on_written=lambda path: say(f"  {path.name}  {size(path.stat().st_size)}"),
    )


def facts_of(located: Located, dtype: str) -> Facts:
    """What the card says of it."""
    if located.run is None:
        return facts_of_adapter(
            located.folder,
            located.model_dir,
            method=_method_of(located),
            num_crops=located.num_crops,
            dtype=dtype,
        )
    layout = find_layout(located.folder)
    checkpoint = _checkpoint_of(located, layout)
    return facts_of_run(
        located.run,
        layout,
        step=None if checkpoint is None else step_of(checkpoint),
        scores=None if checkpoint is None or layout is None else scores_of_checkpoint(layout, checkpoint),
        dtype=dtype,
    )


def _checkpoint_of(located: Located, layout: RunLayout | None) -> Path | None:
    """The checkpoint, it may be gone, that has just these weights; None where that is not known."""
    if located.kind == "checkpoint":
        return located.folder.resolve()
    if layout is None or located.folder.resolve() != layout.export / "adapter":
        return None
    result = read_result(layout)
    return None if result is None else layout.volume / result["lastCheckpoint"]["path"]


def source_of(located: Located) -> str:
    """Tells these weights, as they are used on their base model, from all others. UserError."""
    marked = located.folder / (MANIFEST if located.kind == "checkpoint" else _ADAPTER_WEIGHTS)
    if not marked.is_file():
        raise UserError(f"{marked}: not found; copy {located.folder} again, or choose another one")
    with marked.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{located.model_dir.resolve()} {located.settings_digest()}".encode())
    return f"{located.kind} {digest.hexdigest()}"


def stored_dtype(located: Located) -> torch.dtype:
    """The precision of whole weights: that of the run, else that of the base model's files."""
    if located.run is not None:
        return PRECISIONS[located.run.training.precision]
    header = read_header(weight_files(located.model_dir)[0])
    return STORED[next(iter(header.values())).dtype]


def _check_room(out: Path, num_bytes: int) -> None:
    """UserError where the weights do not fit beside what is there, an export that is replaced included."""
    there = next(folder for folder in out.resolve().parents if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < num_bytes:
        raise UserError(f"{out}: needs {size(num_bytes)}, and {size(free)} are free; choose another disk")


def _method_of(located: Located) -> str:
    if located.run is not None:
        return located.run.method
    return "qlora" if is_for_four_bits(located.folder) else "lora"
