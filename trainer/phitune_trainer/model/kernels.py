"""The kinds of attention that a model can be built with, by their names in the configuration."""

from dataclasses import dataclass
from functools import partial

from phitune_trainer.model.attention import Kernel, Pack, PackedAttention, eager, sdpa
from phitune_trainer.model.flash import FlashAttention


@dataclass(frozen=True)
class Attention:
    """One kind of attention."""

    crops: Kernel
    """For CLIP, whose crops all have one shape."""
    row: Pack
    """For the packed row of text."""


ATTENTIONS = {
    "sdpa": Attention(sdpa, partial(PackedAttention, kernel=sdpa)),
    "eager": Attention(eager, partial(PackedAttention, kernel=eager)),
    # Equal shapes need nothing of variable length: where flash attention runs, sdpa uses it for them.
    "flash": Attention(sdpa, FlashAttention),
}


def attention_named(name: str) -> Attention:
    """The attention of a name in ATTENTIONS. Raises ValueError that lists them for any other name."""
    if name not in ATTENTIONS:
        raise ValueError(
            f"attention: {name!r} is not available here; use one of {', '.join(sorted(ATTENTIONS))}"
        )
    return ATTENTIONS[name]
