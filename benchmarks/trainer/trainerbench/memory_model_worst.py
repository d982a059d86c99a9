"""How far the memory model is from torch's own count, on the full-size model."""

import itertools

from trainerbench.alone import alone
from trainerbench.row import Bar, Row, Workplace

RANKS = 8
RANK = 64
TEXT_TOKENS, LABEL_TOKENS = 100, 40


def measure(work: Workplace) -> float:
    """Largest relative difference over methods, recomputation or not, 1 and 4 samples a pass."""
    cases = itertools.product(("full", "frozen", "lora"), (False, True), (1, 4))
    differences = []
    for method, recompute, samples in cases:
        estimated, tracked = alone(compare, method, recompute, samples)
        differences.append(abs(estimated - tracked) / tracked)
        work.say(
            f"{method}, activations {'recomputed' if recompute else 'kept'}, {samples} a pass: "
            f"estimated {estimated / 2**30:.2f}, tracked {tracked / 2**30:.2f} GiB, {differences[-1]:.1%}"
        )
    return max(differences)


def compare(method: str, recompute: bool, samples: int) -> tuple[int, int]:
    """Bytes of all tensors at the peak: by the memory model, and by torch's tracker."""
    import warnings

    from phitune_trainer.memory import Setup, estimate
    from phitune_trainer.model_config import full_config
    from trainerbench.tracked_memory import page, shape_of, tracked_peak

    warnings.filterwarnings("ignore", message="Expected a tensor or a traceable wrapper-subclass")
    config = full_config()
    sample, content = page(config, text_tokens=TEXT_TOKENS, label_tokens=LABEL_TOKENS)
    is_lora = method == "lora"
    setup = Setup(
        shape=shape_of(config),
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
    return estimated.tensors - estimated.buffers, tracked_peak(config, setup, sample)


ROW = Row(
    name="memory_model_worst",
    unit="relative",
    bar=Bar(sign="<=", limit=0.10),
    summary="largest difference of the memory model's peak from torch's tracker, full-size model",
    measure=measure,
)
