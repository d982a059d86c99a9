"""What a run leaves for others to use, at its end and by `phitune export`: whole weights, or the adapter.

Each is a folder that appears whole: the files, a model card, and phitune.json, which says what it is of.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phitune_trainer.config import TrainConfig
from phitune_trainer.folders import building
from phitune_trainer.methods import Method
from phitune_trainer.methods.adapter_folder import ABOUT, save_adapter, write_about
from phitune_trainer.model import Phi3V, save_model
from phitune_trainer.model.save import ignore
from phitune_trainer.model_card import FILE, Kind
from phitune_trainer.run_layout import RunLayout, sync_folder
from phitune_trainer.trained_crops import about_crops, write_settings


def export(
    method: Method,
    config: TrainConfig,
    layout: RunLayout,
    *,
    card: Callable[[Kind], str],
    source: str,
    on_written: Callable[[Path], None],
) -> dict[str, str]:
    """Write what the config asks for and return where it lies: paths on the volume, by kind.

    Call it once, on one rank, after training: merging adapters changes the model. `source`, `on_written`: see
    `write_export`.
    """
    wanted: list[Kind] = []
    if method.peft_model is not None and config.export.adapter:
        wanted.append("adapter")
    if config.export.merged:
        wanted.append("merged")
    for kind in wanted:
        write_export(
            kind,
            method,
            config.method,
            layout.export / kind,
            base=config.model_dir,
            base_name=config.model.name,
            num_crops=config.training.num_crops,
            card=card(kind),
            source=source,
            on_written=on_written,
        )
    return {kind: layout.on_volume(layout.export / kind) for kind in wanted}


def write_export(
    kind: Kind,
    method: Method,
    name: str,
    folder: Path,
    *,
    base: Path,
    base_name: str | None,
    num_crops: int | None,
    card: str,
    source: str,
    on_written: Callable[[Path], None] = ignore,
) -> None:
    """Write one export, in the place of an older one, whole or not at all. "merged" changes the model.

    `name` is that of the method; `base` the folder whose configuration, tokenizer and processor files go
    along with whole weights, `base_name` what an adapter calls it: a repository of the hub. `num_crops` are
    those of a picture in the training, None where they are not known. `source` tells the weights from all
    others; `on_written` is told of each file of weights. What it holds beside the model is the largest file.
    """
    with building(folder, replace=True) as aside:
        if kind == "adapter":
            save_adapter(method.peft_model, aside, name, base=base_name)
        else:
            save_model(merge(method, name), aside, source=base, on_written=on_written)
        if num_crops is not None:
            write_settings(aside, base, num_crops)
        write_about(aside, name, kind=kind, source=source, **about_crops(num_crops))
        (aside / FILE).write_text(card, encoding="utf-8")
    sync_folder(folder.parent)


def read_about(folder: Path) -> dict[str, Any]:
    """What phitune.json of an export says; empty where there is none that can be understood."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def merge(method: Method, name: str) -> Phi3V:
    """The model as whole weights: adapters, if any, merged in, 4-bit weights made ordinary ones."""
    if method.peft_model is None:
        return method.model
    if name == "qlora":
        from phitune_trainer.methods.qlora import dequantize  # here, because bitsandbytes takes seconds

        return dequantize(method.model, method.peft_model)
    merged: Phi3V = method.peft_model.merge_and_unload()
    return merged
