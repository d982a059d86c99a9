"""Loading what a run leaves, to use it: a base model, merged weights, an adapter, or a checkpoint.

What is loaded computes what the run computed: adapters stay beside the weights, since merged into weights of
16 bits they are rounded. The commands `phitune evaluate` and `phitune predict` call it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from phitune_trainer.checkpoint.files import (
    MANIFEST,
    TRAINER,
    DamagedCheckpoint,
    StateReader,
    check,
    read_trainer,
)
from phitune_trainer.config import TrainConfig, load_config, parse_config
from phitune_trainer.errors import UserError
from phitune_trainer.methods import Method, prepare_method
from phitune_trainer.methods.adapter_folder import ABOUT, is_for_four_bits
from phitune_trainer.methods.lora import load_adapter
from phitune_trainer.model import Phi3V, load_model
from phitune_trainer.model_config import read_json
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.trained_crops import trained_crops

Kind = Literal["model", "adapter", "checkpoint"]

ADAPTER_CONFIG: Final = "adapter_config.json"
_MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Located:
    """A folder that can be loaded, and what it needs beside it."""

    folder: Path
    kind: Kind
    model_dir: Path
    """Model folder that it stands on, itself if it is one: has the tokenizer and the processor's settings."""
    run: TrainConfig | None
    """Config of the run whose folder it is in."""
    is_checked: bool = False
    """Whether the files of a checkpoint have been compared with its manifest just now."""

    def settings_digest(self) -> str:
        """SHA-256 of what decides the answers beside the weights, such as an adapter's alpha."""
        files = [self.model_dir / "config.json"]
        if self.kind == "adapter":
            files += [self.folder / ADAPTER_CONFIG, self.folder / ABOUT]
        digest = hashlib.sha256()
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
        if self.kind == "checkpoint" and self.run is not None:
            digest.update(f"{self.run.method} {self.run.lora}".encode())
        return digest.hexdigest()

    @property
    def num_crops(self) -> int | None:
        """Most crops of a picture that it was trained with; None where nothing tells. ModelFilesError."""
        if self.run is not None:
            return self.run.training.num_crops
        return trained_crops(self.folder)

    @property
    def asked_crops(self) -> int | None:
        """With how many it is asked: an adapter that does not say, as its base. None where nothing tells."""
        return self.num_crops or trained_crops(self.model_dir)

    @property
    def about(self) -> str:
        """What it is, in words."""
        on = "" if self.kind == "model" else f" on {self.model_dir}"
        return f"{self.kind} {self.folder}{on}"


def locate(folder: Path, base: Path | None = None) -> Located:
    """Find out what lies in a folder, without loading it.

    `base` is the base model of an adapter or a checkpoint, where it is not the one of its run. Raises
    UserError: what was found, what was expected, and what to do; ConfigError where its run's config is
    damaged.
    """
    kind, run = kind_of(folder), find_run(folder)
    if kind == "model":
        if base is not None:
            raise UserError(f"{folder}: is a whole model, so that no base model is needed")
        return Located(folder=folder, kind=kind, model_dir=folder, run=run)
    if kind == "checkpoint":
        run = run or _config_in(folder)
    base = base or (run.model_dir if run is not None else _named_base(folder))
    return Located(folder=folder, kind=kind, model_dir=base, run=run)


def load_trained(located: Located, *, dtype: torch.dtype, attention: str) -> Phi3V:
    """The model as it was trained, on the CPU. Raises UserError or ModelFilesError.

    The base of QLoRA is quantised as in training: beside other weights its adapters are another model. That
    happens when the model is next moved to a device, the CPU too.
    """
    return load_method(located, dtype=dtype, attention=attention).model


def load_method(located: Located, *, dtype: torch.dtype, attention: str) -> Method:
    """The same with its adapters, if any, as PEFT sees them: what can be exported."""
    if located.kind == "checkpoint":
        assert located.run is not None
        if not located.is_checked:
            _check(located.folder)
        return _load_checkpoint(located.folder, located.model_dir, located.run, dtype, attention)
    model, peft_model = load_model(located.model_dir, dtype=dtype, attention=attention), None
    if located.kind == "adapter":
        if is_for_four_bits(located.folder):
            from phitune_trainer.methods.qlora import quantize  # here, because bitsandbytes takes seconds

            quantize(model)
        peft_model = load_adapter(model, located.folder)
    return Method(model, peft_model, located.about)


def kind_of(folder: Path) -> Kind:
    """What lies in a folder, by its files. UserError where it is nothing that can be loaded."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a model, an adapter or a checkpoint was expected")
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / TRAINER).is_file() or (folder / MANIFEST).is_file():
        return "checkpoint"
    if (folder / "config.json").is_file():
        return "model"
    raise UserError(f"{folder}: {_what_it_is(folder)}")


def find_run(folder: Path) -> TrainConfig | None:
    """The config of the run whose folder this is in, its paths as they are on this machine; None without.

    ConfigError where that config is damaged.
    """
    layout = find_layout(folder)
    return None if layout is None else _moved(load_config(layout.config), layout)


def find_layout(folder: Path) -> RunLayout | None:
    """The run whose folder this is in, or is."""
    for parent in (folder, *folder.resolve().parents):
        layout = RunLayout(parent.resolve())
        if layout.config.is_file() and layout.incarnations.is_dir():
            return layout
    return None


def _moved(config: TrainConfig, layout: RunLayout) -> TrainConfig:
    """The config with the volume where the run lies now: it may be mounted elsewhere than in the pods."""
    parts = ("runs", config.run.namespace, config.run.name, config.run.uid[:8])
    if layout.path.parts[-len(parts) :] != parts:
        return config  # copied out of its volume: what else was on that is not beside it
    return config.model_copy(update={"run": config.run.model_copy(update={"workspace": str(layout.volume)})})


def _named_base(adapter: Path) -> Path:
    """The base model that an adapter names, where it is a folder here."""
    settings = read_json(adapter / ADAPTER_CONFIG)
    named = settings.get("base_model_name_or_path")
    if isinstance(named, str) and Path(named).is_dir():
        return Path(named)
    raise UserError(
        f"{adapter}: is an adapter, and does not say where its base model lies; name that one too (--base)"
    )


def _config_in(checkpoint: Path) -> TrainConfig:
    """The config of the run that saved a checkpoint. UserError where it holds none."""
    try:
        return parse_config(read_trainer(checkpoint)["config"], str(checkpoint / TRAINER))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{checkpoint / TRAINER}: damaged ({error}); choose another checkpoint") from error


def _check(checkpoint: Path) -> None:
    try:
        check(checkpoint)
    except DamagedCheckpoint as problem:
        raise UserError(f"{problem}; choose another checkpoint of this run") from problem


def _load_checkpoint(
    folder: Path, base: Path, config: TrainConfig, dtype: torch.dtype, attention: str
) -> Method:
    method = prepare_method(load_model(base, dtype=dtype, attention=attention), config)
    trained = {name: one for name, one in method.model.named_parameters() if one.requires_grad}
    saved = StateReader(folder)
    if differing := sorted(saved.parameters() ^ trained.keys()):
        raise UserError(
            f"{folder}: was saved over another base model than {base} ({len(differing)} parameters differ, "
            f"such as {differing[0]}); name the right one with --base"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved("weight", name, 0, parameter.numel()).view_as(parameter))
    return method


def _what_it_is(folder: Path) -> str:
    """Why a folder cannot be loaded, and what could be instead."""
    expected = (
        "expected a model (config.json and safetensors files), an adapter (adapter_config.json) or a "
        "checkpoint of a run (trainer.json)"
    )
    run = folder.parent if folder.name == "export" else folder
    inside = [run / "export" / "merged", run / "export" / "adapter"]
    inside += sorted(run.glob("incarnations/*/checkpoints/step-*"), reverse=True)
    if found := [str(path) for path in inside if path.is_dir()]:
        return f"is the folder of a run; name one of: {', '.join(found[:_MOST_NAMES])}"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"has {', '.join(names[:_MOST_NAMES]) or 'nothing'}{more}; {expected}"
