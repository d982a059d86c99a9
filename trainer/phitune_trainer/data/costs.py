"""What the samples of a run cost to train, measured before it starts.

Measuring opens every picture, which `prepare` does once for all runs on a volume that see the same samples
alike; the ranks read what it wrote. Where nothing fits the data, because the ranks were started without it,
all samples count the same.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable
from pathlib import Path

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.run_layout import make_folders, write_atomically

_VERSION = 1

_CLIP_SHARE = 0.31
"""A picture token costs so much more than a text token, for CLIP: as much as 46 text tokens a crop, and a
picture has one for about 149 of its tokens. Of the published sizes; only the balance depends on it."""
_ATTENTION_LENGTH = 38_000
"""Tokens of a sequence whose attention costs as much as the matrices of the text layers."""


def cost_of(num_tokens: int, num_picture_tokens: int) -> int:
    """What a sample costs to train, in tokens' worth of the text layers' matrices.

    `num_tokens`: all of them, those of its pictures among them.
    """
    return round(num_tokens * (1 + num_tokens / _ATTENTION_LENGTH) + _CLIP_SHARE * num_picture_tokens)


def costs_file(config: TrainConfig) -> Path:
    """Where the costs of the training samples are kept, by all that they depend on."""
    folders = [str(config.model_dir), str(config.data_dir), config.data.train, config.data.image_root]
    depends_on = [config.task, *folders, config.training.num_crops, config.training.max_length]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    return Path(config.run.workspace) / "costs" / f"{key}.json"


def write_costs(file: Path, samples: TrainingSamples, costs: Iterable[int]) -> None:
    """Keep the costs of all samples, in their order, with what tells these samples from others."""
    listed = list(costs)
    assert len(listed) == len(samples), f"{len(listed)} costs for {len(samples)} samples"
    make_folders(file.parent)
    write_atomically(
        file, json.dumps({"version": _VERSION, "data": dict(samples.identity()), "costs": listed})
    )


def read_costs(file: Path, samples: TrainingSamples) -> "array[int] | None":
    """The costs of all samples; None where there is no whole file of these very samples."""
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["version"] != _VERSION or record["data"] != dict(samples.identity()):
            return None
        costs = array("q", record["costs"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # damaged: the run can do without
    return costs if len(costs) == len(samples) else None
