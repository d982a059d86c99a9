"""The batch of a pass, and whether to recompute: chosen so that the GPU's memory is used and not exceeded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from phitune_trainer.memory.estimate import Estimate, estimate
from phitune_trainer.memory.gpus import gib
from phitune_trainer.memory.setup import Content, Setup

USABLE: Final = 0.9
"""Of a GPU's memory: the driver keeps some of what it reports, and an estimate can be too low."""
FULL_PASS_TOKENS: Final = 16_384
"""A pass of so many tokens keeps any GPU busy: a larger one takes more memory and saves no time."""
FEWER_CROPS: Final = 4
"""The recipe's number for the frames of videos."""
MOST_RANKS: Final = 64
"""Of those that a remedy proposes."""
DEFAULT_RANK: Final = 64
"""The recipe's, of adapters."""


@dataclass(frozen=True)
class Choice:
    """What a run does with a GPU's memory, and why."""

    setup: Setup
    estimate: Estimate
    memory: int
    """Bytes of the GPU."""
    kept: Estimate | None
    """Where activations are recomputed by choice: what keeping them would need."""

    @property
    def fits(self) -> bool:
        """Whether the estimate is below what can be used."""
        return _fits(self.estimate, self.memory)

    def least(self, content: Content) -> Estimate:
        """What the smallest pass would need, of one such sample with its activations recomputed."""
        return estimate(replace(self.setup, micro_batch=1, recompute=True, content=content))

    @property
    def reason(self) -> str:
        """A sentence with the numbers."""
        samples = "1 sample" if self.setup.micro_batch == 1 else f"{self.setup.micro_batch} samples"
        needs = f"about {gib(self.estimate.total)} of {gib(self.memory)} GiB"
        if not self.setup.recompute:
            return f"{samples} a pass, activations kept: {needs}"
        why = f", since keeping them needs about {gib(self.kept.total)} GiB" if self.kept else ""
        return f"{samples} a pass, activations recomputed{why}: {needs}"


@dataclass(frozen=True)
class Remedy:
    """One change after which a run fits."""

    change: str
    """In words, with the field where there is one."""
    setup: Setup
    """What the run is then."""
    estimate: Estimate


def choose(
    setup: Setup,
    memory: int,
    *,
    rank_batch: int,
    micro_batch: int | None = None,
    recompute: bool | None = None,
) -> Choice:
    """Choose what is None: samples of a pass, which divide `rank_batch`, and whether to recompute.

    Keeping activations comes first, since recomputing costs a third more work and a larger pass saves little;
    then the largest pass that fits, up to FULL_PASS_TOKENS. Where nothing fits, the smallest is returned.
    """
    sizes = [micro_batch] if micro_batch is not None else _pass_sizes(setup, rank_batch)
    candidates = [
        replace(setup, micro_batch=size, recompute=again)
        for again in ([False, True] if recompute is None else [recompute])
        for size in sizes
    ]
    chosen = next((one for one in candidates if _fits(estimate(one), memory)), candidates[-1])
    kept = None
    if recompute is None and chosen.recompute:
        kept = estimate(replace(chosen, micro_batch=sizes[-1], recompute=False))
    return Choice(chosen, estimate(chosen), memory, kept)


def remedies(choice: Choice, *, fewer_crops: Content) -> list[Remedy]:
    """The changes, one at a time, each of which would let the run fit; the least costly first.

    `fewer_crops`: a sample with FEWER_CROPS.
    """
    found = []
    for change, setup in _changes(choice.setup, choice.memory, fewer_crops):
        changed = estimate(setup)
        if _fits(changed, choice.memory):
            found.append(Remedy(change, setup, changed))
    return found


def _changes(setup: Setup, memory: int, fewer_crops: Content) -> Iterator[tuple[str, Setup]]:
    smallest = replace(setup, micro_batch=1, recompute=True)
    if not setup.recompute:
        yield "training.gradientCheckpointing: auto", replace(setup, recompute=True)
    if setup.micro_batch > 1:
        yield "training.perDeviceBatchSize: 1", replace(setup, micro_batch=1)
    if smallest not in (setup, replace(setup, recompute=True), replace(setup, micro_batch=1)):
        yield "training.perDeviceBatchSize: 1 with training.gradientCheckpointing: auto", smallest
    if setup.method == "full" and (ranks := _enough_ranks(setup, memory)):
        yield f"{ranks} GPUs in all", replace(setup, ranks=ranks)
    if fewer_crops.crops < setup.content.crops:
        yield f"training.numCrops: {FEWER_CROPS}", replace(setup, content=fewer_crops)
    if setup.method == "full" and not setup.freeze_vision:
        yield "freezeVision: true", replace(setup, freeze_vision=True)
    if setup.method == "full":
        setup = replace(setup, method="lora", lora_rank=DEFAULT_RANK, lora_vision=not setup.freeze_vision)
        yield "method: lora", setup
    if setup.method == "lora":
        yield "method: qlora", replace(setup, method="qlora")


def _enough_ranks(setup: Setup, memory: int) -> int | None:
    """The next number of ranks, doubling, over which the optimizer's state fits; None up to MOST_RANKS."""
    ranks = 2 * setup.ranks
    while ranks <= MOST_RANKS:
        if _fits(estimate(replace(setup, ranks=ranks)), memory):
            return ranks
        ranks *= 2
    return None


def _pass_sizes(setup: Setup, rank_batch: int) -> list[int]:
    """Divisors of a rank's samples, the largest first, as far as a pass of that size is of use."""
    most = max(1, FULL_PASS_TOKENS // setup.content.tokens)
    return [size for size in range(min(most, rank_batch), 0, -1) if rank_batch % size == 0]


def _fits(needed: Estimate, memory: int) -> bool:
    return needed.total <= USABLE * memory
