"""What a model card says of an export, gathered from its run: no environment, no token, no absolute path."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.tasks import held_out_split, hub_sources
from phitune_trainer.engine import ADAM_BETAS, ADAM_EPS, MAX_GRAD_NORM
from phitune_trainer.evaluate.kept import read_metrics
from phitune_trainer.hub_record import fetched_commit
from phitune_trainer.model.files import PUBLISHED_CODE
from phitune_trainer.model_card import Facts
from phitune_trainer.model_config import read_json
from phitune_trainer.run_layout import RunLayout, step_of

_PACKAGES: Final = ("phitune", "torch", "peft", "bitsandbytes", "transformers", "safetensors")
_CROPS: Final = "crops of a picture, at most"


def facts_of_run(
    config: TrainConfig,
    layout: RunLayout | None,
    *,
    step: int | None,
    scores: Mapping[str, Any] | None,
    dtype: str,
) -> Facts:
    """The facts of a run's weights after `step` steps; `scores` is the metrics.json of those weights."""
    model, held_out = config.model, held_out_split(config)
    return Facts(
        name=config.run.name,
        method=config.method,
        task=config.task,
        base=model.name,
        base_words=_base_words(config),
        base_revision=None if model.name is None else model.revision or "main",
        base_commit=None if model.name is None else fetched_commit(config.model_dir, model.name),
        dtype=dtype,
        step=step,
        started_from=config.resume_from,
        datasets=() if config.data.path else tuple(source.repo for source in hub_sources(config)),
        data={} if layout is None else _identity(layout),
        scored_on=None if held_out is None else held_out.about,
        scores=scores,
        hyperparameters=_hyperparameters(config),
        versions=versions(),
        has_published_code=has_published_code(config.model_dir),
    )


def facts_of_adapter(folder: Path, base: Path, *, method: str, num_crops: int | None, dtype: str) -> Facts:
    """The facts of an adapter that lies in no run: what its own settings say, and no more."""
    settings = read_json(folder / "adapter_config.json")
    names = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    return Facts(
        name=folder.resolve().name,
        method=method,
        base_words=f"the model in the folder {base.resolve().name}",
        dtype=dtype,
        hyperparameters={
            **{f"LoRA {ours}": settings[its] for ours, its in names.items() if its in settings},
            **({} if num_crops is None else {_CROPS: num_crops}),
        },
        versions=versions(),
        has_published_code=has_published_code(base),
    )


def scores_of_checkpoint(layout: RunLayout, checkpoint: Path) -> dict[str, Any] | None:
    """metrics.json of the evaluation of a checkpoint's weights; None where they were not scored.

    The start that saved them scored them, or one that continued from just this checkpoint. ModelFilesError
    where what such a start wrote down is damaged.
    """
    step, saved_by = step_of(checkpoint), int(checkpoint.resolve().parents[1].name)
    assert step is not None, f"{checkpoint} is named after no step"
    for number in layout.incarnation_numbers():
        start = layout.incarnation(number)
        if number < saved_by or not start.start.is_file():
            continue
        continues = read_json(start.start).get("from") == {"incarnation": saved_by, "step": step}
        if (number == saved_by or continues) and (metrics := read_metrics(start.evaluation(step))):
            return metrics
    return None


def has_published_code(folder: Path) -> bool:
    """Whether all Python files of the published model lie in a folder."""
    return all((folder / name).is_file() for name in PUBLISHED_CODE)


def versions() -> dict[str, str]:
    """What this process has of the packages that matter to weights."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _base_words(config: TrainConfig) -> str | None:
    if config.model.init is not None:
        return f"random weights (size {config.model.init}, seed {config.training.seed})"
    return None if config.model.path is None else f"the model in {config.model.path} on the run's volume"


def _identity(layout: RunLayout) -> dict[str, object]:
    """What the run wrote down of its training data; empty where it did not come so far."""
    if not layout.data.is_file():
        return {}
    found: dict[str, object] = json.loads(layout.data.read_text(encoding="utf-8"))
    return found


def _yes(config: TrainConfig) -> str:
    trained = not config.freeze_vision if config.lora is None else config.lora.vision
    return "yes" if trained else "no"


def _hyperparameters(config: TrainConfig) -> dict[str, object]:
    training, lora = config.training, config.lora
    length = f"{training.epochs} epochs" if training.epochs is not None else f"{training.max_steps} steps"
    rows: dict[str, object] = {"method": config.method, "vision part trained": _yes(config)}
    if lora is not None:
        rows |= {
            "LoRA rank": lora.rank,
            "LoRA alpha": lora.alpha,
            "LoRA dropout": lora.dropout,
        }
    return rows | {
        "length": length,
        "samples a step": training.global_batch_size,
        "learning rate (peak)": training.learning_rate,
        "schedule": f"{training.schedule}, {training.warmup_steps} warm-up steps",
        "optimizer": f"AdamW, betas {ADAM_BETAS}, eps {ADAM_EPS:g}",
        "weight decay": training.weight_decay,
        "gradient clipped to norm": MAX_GRAD_NORM,
        _CROPS: training.num_crops,
        "tokens of a sample, at most": training.max_length,
        "precision": training.precision,
        "seed": training.seed,
        "processes": f"{config.world.size} on {config.world.device}",
    }
