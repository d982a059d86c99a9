"""What a finished run leaves for others to use: export/merged and export/adapter on the volume."""

from collections.abc import Callable
from pathlib import Path

from phitune_trainer.config import TrainConfig
from phitune_trainer.folders import building
from phitune_trainer.methods import Method
from phitune_trainer.methods.adapter_folder import save_adapter
from phitune_trainer.model import Phi3V, save_model
from phitune_trainer.run_layout import RunLayout, sync_folder


def export(method: Method, config: TrainConfig, layout: RunLayout) -> dict[str, str]:
    """Write what the config asks for and return where it lies: paths on the volume, by kind.

    Call it once, on one rank, after training: merging adapters changes the model.
    """
    artifacts = {}
    layout.export.mkdir(parents=True, exist_ok=True)
    if method.peft_model is not None and config.export.adapter:
        adapter = method.peft_model
        _publish(layout.export / "adapter", lambda folder: save_adapter(adapter, folder, config.method))
        artifacts["adapter"] = layout.on_volume(layout.export / "adapter")
    if config.export.merged:
        model = merge(method, config.method)
        _publish(layout.export / "merged", lambda folder: save_model(model, folder, source=config.model_dir))
        artifacts["merged"] = layout.on_volume(layout.export / "merged")
    return artifacts


def merge(method: Method, name: str) -> Phi3V:
    """The model as whole weights: adapters, if any, merged in, 4-bit weights made ordinary ones."""
    if method.peft_model is None:
        return method.model
    if name == "qlora":
        from phitune_trainer.methods.qlora import dequantize  # here, because bitsandbytes takes seconds

        return dequantize(method.model, method.peft_model)
    merged: Phi3V = method.peft_model.merge_and_unload()
    return merged


def _publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder aside and put it in place whole, instead of an older one."""
    with building(folder, replace=True) as aside:
        write(aside)
    sync_folder(folder.parent)
