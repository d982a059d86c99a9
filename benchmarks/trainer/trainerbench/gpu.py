"""The rows that need a GPU: an H200 is what their bars are for."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchrows.row import Bar, NotMeasured, Row, Workplace
from trainerbench.alone import alone
from trainerbench.full_model import full_model
from trainerbench.memory import GIB

if TYPE_CHECKING:
    from trainerbench.gpu_steps import Measured

METHODS = ("full", "frozen", "lora", "qlora")


def mfu(method: str, work: Workplace) -> float:
    """FLOPs of the model's formula a second / the GPU's peak. NotMeasured where that is not known."""
    measured = _measure(work, method)
    if measured.mfu is None:
        raise NotMeasured("the peak of this GPU is not known; add it to phitune_trainer/peak_flops.py")
    return measured.mfu


def speedup(method: str, work: Workplace) -> float:
    """Seconds of a step of the recipe's way / of ours, in one process."""
    measured = _measure(work, method, with_recipe=True)
    assert measured.recipe is not None
    work.say(f"the recipe's way {measured.recipe:.2f} s, ours {measured.seconds:.2f} s a step (medians)")
    return measured.recipe / measured.seconds


def estimate_error(work: Workplace) -> float:
    """The largest relative difference of the memory model's peak from the GPU's, over the methods."""
    differences = []
    for method in METHODS:
        measured = _measure(work, method)
        estimated = measured.choice.estimate.total
        differences.append(abs(estimated - measured.used) / measured.used)
        work.say(f"{method}: estimated {estimated / GIB:.1f}, used {measured.used / GIB:.1f} GiB")
    return max(differences)


def memory(method: str, gib: int, work: Workplace) -> float:
    """GiB that torch holds at the peak where it may hold no more than `gib`, at 16 crops."""
    return _measure(work, method, cap=gib * GIB).reserved / GIB


def _measure(
    work: Workplace, method: str, *, cap: int | None = None, with_recipe: bool = False
) -> "Measured":
    measured = alone(_measure_alone, full_model(work.say), method, cap, with_recipe)
    work.say(f"{method}: {measured.seconds:.2f} s a step; {measured.choice.reason}")
    return measured


def _measure_alone(folder: object, method: str, cap: int | None, with_recipe: bool) -> "Measured":
    from pathlib import Path

    from trainerbench.gpu_steps import measure_steps

    return measure_steps(Path(str(folder)), method, cap=cap, with_recipe=with_recipe)


def _row(name: str, unit: str, bar: Bar, summary: str, measure: Callable[[Workplace], float]) -> Row:
    return Row(name=name, unit=unit, bar=bar, summary=summary, measure=measure, needs_gpu=True)


ROWS = (
    *(
        _row(
            f"mfu_{method}",
            "of the peak",
            Bar(sign=">=", limit=0.40 if method == "qlora" else 0.50),
            f"model FLOPs utilisation, {method}, full size",
            partial(mfu, method),
        )
        for method in METHODS
    ),
    *(
        _row(
            f"gpu_speedup_{method}",
            "times",
            Bar(sign=">=", limit=2.0),
            f"a step of the recipe's way / ours, {method}, full size",
            partial(speedup, method),
        )
        for method in ("full", "lora")
    ),
    _row(
        "memory_estimate_error",
        "relative",
        Bar(sign="<=", limit=0.10),
        "largest difference of the memory model's peak from a GPU's",
        estimate_error,
    ),
    *(
        _row(
            f"{method}_memory_gib",
            "GiB",
            Bar(sign="<=", limit=gib),
            f"peak of {method} with torch held to {gib} GiB, 16 crops",
            partial(memory, method, gib),
        )
        for method, gib in (("qlora", 12), ("lora", 24))
    ),
)
