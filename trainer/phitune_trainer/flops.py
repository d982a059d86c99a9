"""Floating-point operations that training needs by the model's formula, however it computes them. No torch.

The product of an (m, k) and a (k, n) matrix counts 2 m k n; all else is small beside that and does not count.

`model_flops` is what MFU is reckoned with. It counts as the published recipe's figures of utilisation do, so
that ours can be compared with them: logits at every token, half of the square of causal attention, CLIP's
layers but for the last on the crops that there are; a backward pass is twice a forward pass where weights are
trained, and once where the gradient only passes through. Recomputation does not count, nor does what 4-bit
weights cost to unpack. A DocVQA sample of 2443 tokens and 17 crops: 25.69 TFLOP forward (language 19.36, CLIP
6.22, projector 0.11), 77.1 to train it fully, 64.4 with vision frozen, 54.5 with LoRA of rank 64.

`necessary_flops` is what a benchmark holds the work against that is done: logits only where a label is, whole
squares of attention, whose two products have two gradients each, whatever is trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phitune_trainer.config import Method
from phitune_trainer.model_config import ModelConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run trains of the model."""

    method: Method
    freeze_vision: bool = False
    lora_rank: int = 0
    lora_vision: bool = False

    @property
    def vision(self) -> bool:
        """Whether gradients reach CLIP and the projector."""
        return not self.freeze_vision if self.method == "full" else self.lora_vision


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What goes through the model: sums over samples."""

    tokens: int
    """Of the text layers, picture tokens included; what branches share counts once."""
    pairs: int
    """Queries and keys that see each other in causal attention."""
    squares: int
    """The same without causality: the square of each sequence, what branches share counted once."""
    crops: int
    """That hold picture, global views included."""
    picture_tokens: int
    label_tokens: int


@dataclass(frozen=True)
class _Forward:
    """One forward pass by part."""

    text: int
    """Matrices of the text layers."""
    text_attention: int
    head: int
    clip: int
    """Matrices of CLIP's layers, and the patches' convolution."""
    clip_attention: int
    projector: int

    @property
    def language(self) -> int:
        return self.text + self.text_attention + self.head

    @property
    def vision(self) -> int:
        return self.clip + self.clip_attention + self.projector


def amounts_of(
    segments: Iterable[tuple[int, Sequence[int]]], *, crops: int, picture_tokens: int, label_tokens: int
) -> Amounts:
    """Of a packed row: each segment is (tokens of its prefix, tokens of each of its branches)."""
    rows = [(prefix, tuple(branches)) for prefix, branches in segments]
    doubled = [prefix**2 + sum(one * (2 * prefix + one) for one in branches) for prefix, branches in rows]
    return Amounts(
        tokens=sum(prefix + sum(branches) for prefix, branches in rows),
        pairs=sum(doubled) // 2,
        squares=sum(prefix**2 + sum(one * (prefix + one) for one in branches) for prefix, branches in rows),
        crops=crops,
        picture_tokens=picture_tokens,
        label_tokens=label_tokens,
    )


def model_flops(config: ModelConfig, trained: Trained, amounts: Amounts) -> int:
    """Forward and backward pass as the recipe counts them: what MFU is reckoned with."""
    forward = _forward(config, amounts, logits=amounts.tokens, pairs=amounts.pairs)
    if trained.method == "full":
        return 3 * forward.language + (3 if trained.vision else 1) * forward.vision
    adapters = 3 * _adapters(config, trained, amounts, logits=amounts.tokens)
    return 2 * forward.language + (2 if trained.vision else 1) * forward.vision + adapters


def necessary_flops(config: ModelConfig, trained: Trained, amounts: Amounts) -> int:
    """Forward and backward pass with nothing computed that is not used, but for causality.

    A layer whose input needs no gradient counts as the others do.
    """
    forward = _forward(config, amounts, logits=amounts.label_tokens, pairs=amounts.squares)
    matrices = 3 if trained.method == "full" else 2
    language = matrices * (forward.text + forward.head) + 3 * forward.text_attention
    vision = forward.vision
    if trained.vision:
        vision = matrices * (forward.clip + forward.projector) + 3 * forward.clip_attention
    return language + vision + 3 * _adapters(config, trained, amounts, logits=amounts.label_tokens)


def _forward(config: ModelConfig, amounts: Amounts, *, logits: int, pairs: int) -> _Forward:
    hidden, vision = config.hidden_size, config.vision
    layer = 4 * hidden**2 + 3 * hidden * config.intermediate_size
    positions = amounts.crops * vision.num_positions
    clip_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    patches = amounts.crops * vision.side**2
    projector = vision.merged_size * hidden + hidden**2
    return _Forward(
        text=2 * amounts.tokens * config.num_layers * layer,
        text_attention=4 * pairs * config.num_layers * hidden,
        head=2 * logits * hidden * config.vocab_size,
        clip=2 * positions * _clip_layers(vision) * clip_layer
        + 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size,
        clip_attention=4 * positions * vision.num_positions * _clip_layers(vision) * vision.hidden_size,
        projector=2 * amounts.picture_tokens * projector,
    )


def _adapters(config: ModelConfig, trained: Trained, amounts: Amounts, *, logits: int) -> int:
    """One forward pass of the adapters: beside each matrix rank x (inputs + outputs) weights."""
    if trained.method == "full":
        return 0
    hidden, wide, vision = config.hidden_size, config.intermediate_size, config.vision
    text = amounts.tokens * config.num_layers * (8 * hidden + 3 * wide)
    head = logits * (hidden + config.vocab_size)
    if not trained.vision:
        return 2 * trained.lora_rank * (text + head)
    clip_layer = 8 * vision.hidden_size + 2 * (vision.hidden_size + vision.intermediate_size)
    clip = amounts.crops * vision.num_positions * _clip_layers(vision) * clip_layer
    projector = amounts.picture_tokens * (vision.merged_size + 3 * hidden)
    return 2 * trained.lora_rank * (text + head + clip + projector)


def _clip_layers(vision: VisionConfig) -> int:
    """The last layer is never run."""
    return vision.num_layers - 1
