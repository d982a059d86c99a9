"""How many floating-point operations it takes to train a batch, by the model's formula."""

from phitune_trainer.config import TrainConfig
from phitune_trainer.flops import Amounts, Trained, amounts_of, model_flops
from phitune_trainer.model import Batch
from phitune_trainer.model.pixels import grid_of
from phitune_trainer.model_config import ModelConfig


def trained_of(config: TrainConfig) -> Trained:
    """What a config has a run train."""
    return Trained(
        method=config.method,
        freeze_vision=config.freeze_vision,
        lora_rank=0 if config.lora is None else config.lora.rank,
        lora_vision=config.lora is not None and config.lora.vision,
    )


def batch_flops(batch: Batch, *, config: ModelConfig, trained: Trained) -> int:
    """Forward and backward pass as MFU counts them (flops.py)."""
    return model_flops(config, trained, amounts_in(batch, config))


def amounts_in(batch: Batch, config: ModelConfig) -> Amounts:
    """What of a batch goes through the model; pictures that were embedded before do not go through CLIP."""
    known = batch.embedded or (None,) * len(batch.pictures)
    pairs = zip(batch.pictures, known, strict=True)
    grids = [grid_of(picture, config.vision.image_size) for picture, rows in pairs if rows is None]
    return amounts_of(
        [(segment.prefix, segment.branches) for segment in batch.segments],
        crops=sum(1 + rows * columns for rows, columns in grids),
        picture_tokens=batch.num_picture_tokens - sum(len(rows) for rows in known if rows is not None),
        label_tokens=batch.num_label_tokens,
    )
