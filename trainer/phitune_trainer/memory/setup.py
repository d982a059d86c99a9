"""What a run does, as far as its memory depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from phitune_trainer.config import Attention, Method, Precision, Task, TrainConfig
from phitune_trainer.model_config import ModelConfig, full_config, tiny_config

PUBLISHED: Final = full_config()
"""Phi-3.5-vision; also what a model of unknown size is taken for."""

PICTURES: Final[Mapping[Task, int]] = {
    "docvqa": 1,
    "nlvr2": 2,
    "hatefulMemes": 1,
    "ucf101": 8,
    "jsonl": 1,
}
"""Pictures of a sample: the recipe's tasks have a fixed number; one is assumed of a user's own data. Where
there are more, a start may run out of memory (out_of_memory.py)."""

TEXT_TOKENS: Final = 256
"""Tokens of a sample beside its pictures, trained or not. A page of DocVQA with its 3.87 questions has about
100; assumed, so that the largest samples fit too."""

PAGE_QUESTIONS: Final = 8
"""Questions of a page of DocVQA that share its picture: 3.87 in the mean; assumed, of a page with many."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Sizes of one sample."""

    tokens: int
    """Tokens of the row, picture tokens included."""
    crops: int
    """Crops that CLIP sees, global views included."""
    picture_tokens: int
    label_tokens: int
    branches: int = 0
    """Questions that go on from the same pictures, each as if alone; 0 where a sample is one sequence."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One rank's part of a run. Packing changes nothing here: rows are always packed, never padded."""

    model: ModelConfig = PUBLISHED
    method: Method
    freeze_vision: bool = False
    lora_rank: int = 0
    lora_vision: bool = False
    lora_dropout: bool = False
    precision: Precision = "bf16"
    attention: Attention = "sdpa"
    ranks: int = 1
    """Over which ZeRO-2 spreads gradients and optimizer state."""
    offload: bool = False
    """ZeRO-2 keeps the optimizer's state in the host's memory, and takes its step there."""
    content: Content
    micro_batch: int = 1
    """Samples of a pass."""
    recompute: bool = True
    """Keep only the inputs of the layers, and compute a layer again in the backward pass."""

    @property
    def trains_vision(self) -> bool:
        """Whether gradients reach CLIP and the projector."""
        return not self.freeze_vision if self.method == "full" else self.lora_vision

    @property
    def element_bytes(self) -> int:
        """Bytes of a number in the precision of the computation."""
        return 4 if self.precision == "fp32" else 2


def content_of(config: TrainConfig, *, num_crops: int | None = None) -> Content:
    """The largest sample to expect: every picture with all its crops in one column, and TEXT_TOKENS.

    `num_crops` instead of the config's own.
    """
    training, vision = config.training, model_of(config).vision
    crops = training.num_crops if num_crops is None else num_crops
    pictures = PICTURES[config.task]
    picture_tokens = min(pictures * vision.image_tokens(crops, 1), training.max_length)
    return Content(
        tokens=min(picture_tokens + TEXT_TOKENS, training.max_length),
        crops=pictures * (crops + 1),
        picture_tokens=picture_tokens,
        label_tokens=min(TEXT_TOKENS, training.max_length),
        branches=PAGE_QUESTIONS if config.task == "docvqa" else 0,
    )


def setup_of(config: TrainConfig) -> Setup:
    """What a config asks of each device, at the largest sample to expect."""
    training, lora = config.training, config.lora
    return Setup(
        model=model_of(config),
        method=config.method,
        freeze_vision=config.freeze_vision,
        lora_rank=0 if lora is None else lora.rank,
        lora_vision=lora is not None and lora.vision,
        lora_dropout=lora is not None and lora.dropout > 0,
        precision=training.precision,
        attention=training.attention,
        ranks=config.world.size,
        content=content_of(config),
        micro_batch=training.samples_per_pass,
        offload=training.offload_optimizer,
        recompute=training.gradient_checkpointing,
    )


def model_of(config: TrainConfig) -> ModelConfig:
    """Sizes of the model: those of a model made here, else the published ones."""
    return tiny_config() if config.model.init == "tiny" else PUBLISHED
