"""How far the memory model is from torch's own count, on the full-size model."""

import itertools
import os
from collections.abc import Sequence

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import side_by_side

RANKS = 8
RANK = 64
TEXT_TOKENS, LABEL_TOKENS = 100, 40


def measure(work: Workplace) -> float:
    """Largest relative difference over methods, recomputation or not, 1 and 4 samples a pass."""
    cases = list(itertools.product(("full", "frozen", "lora"), (False, True), (1, 4)))
    hands = len(os.sched_getaffinity(0))
    shares = [cases[hand::hands] for hand in range(hands) if cases[hand::hands]]
    differences = []
    for share, found in zip(shares, side_by_side(compare_each, *shares), strict=True):
        for (method, recompute, samples), (estimated, tracked) in zip(share, found, strict=True):
            differences.append(abs(estimated - tracked) / tracked)
            work.say(
                f"{method}, activations {'recomputed' if recompute else 'kept'}, {samples} a pass: "
                f"estimated {estimated / 2**30:.2f}, tracked {tracked / 2**30:.2f} GiB, "
                f"{differences[-1]:.1%}"
            )
    assert len(differences) == len(cases)
    return max(differences)


def compare_each(cases: Sequence[tuple[str, bool, int]]) -> list[tuple[int, int]]:
    """What `compare` finds of each case."""
    return [compare(*case) for case in cases]


def compare(method: str, recompute: bool, samples: int) -> tuple[int, int]:
    """Bytes of all tensors at the peak: by the memory model, and by torch's tracker."""
    import warnings

    from phitune_trainer.memory import Setup, estimate
    from phitune_trainer.model_config import full_config
    from trainerbench.tracked_memory import page, tracked_peak

    warnings.filterwarnings("ignore", message="Expected a tensor or a traceable wrapper-subclass")
    config = full_config()
    sample, content = page(config, text_tokens=TEXT_TOKENS, label_tokens=LABEL_TOKENS)
    is_lora = method == "lora"
    setup = Setup(
        model=config,
        method="lora" if is_lora else "full",
        freeze_vision=method == "frozen",
        lora_rank=RANK if is_lora else 0,
        lora_vision=is_lora,
        ranks=RANKS,
        content=content,
        micro_batch=samples,
        recompute=recompute,
    )
    estimated = estimate(setup)
    return estimated.tensors - estimated.buffers, tracked_peak(setup, sample)


ROW = Row(
    name="memory_model_worst",
    unit="relative",
    bar=Bar(sign="<=", limit=0.10),
    summary="largest difference of the memory model's peak from torch's tracker, full-size model",
    measure=measure,
)
