"""Samples of a pass, recomputation, place of the optimizer: so that a GPU's memory is used, not exceeded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from phitune_trainer.memory.estimate import Estimate, estimate, host_bytes
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
    on_gpu: Estimate | None
    """Where the optimizer is offloaded by choice: what the smallest pass would need with it on the GPU."""

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
        activations = "activations recomputed" if self.setup.recompute else "activations kept"
        if self.kept:
            activations += f", since keeping them needs about {gib(self.kept.total)} GiB"
        optimizer = ""
        if self.setup.offload:
            optimizer = f"; optimizer on the host (about {gib(host_bytes(self.setup))} GiB for each GPU)"
        if self.on_gpu:
            optimizer += f", since with it on the GPU at least {gib(self.on_gpu.total)} GiB are needed"
        needs = f"about {gib(self.estimate.total)} of {gib(self.memory)} GiB"
        return f"{samples} a pass, {activations}{optimizer}: {needs}"


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
    offload: bool | None = None,
) -> Choice:
    """Choose what is None: samples of a pass, which divide `rank_batch`, whether to recompute, and whether
    the optimizer is on the host.

    The optimizer stays on the GPU if anything fits with it there, since a host takes longer for its step.
    Then keeping activations comes first, since recomputing costs a third more work and a larger pass saves
    little; then the largest pass that fits, up to FULL_PASS_TOKENS. Where nothing fits, what needs least is
    returned.
    """
    sizes = [micro_batch] if micro_batch is not None else _pass_sizes(setup, rank_batch)
    can_offload = offload is None and setup.method == "full"
    candidates = [
        replace(setup, micro_batch=size, recompute=again, offload=on_host)
        for on_host in ([False, True] if can_offload else [bool(offload)])
        for again in ([False, True] if recompute is None else [recompute])
        for size in sizes
    ]
    needs = {one: estimate(one) for one in candidates}
    smallest = min(candidates, key=lambda one: needs[one].total)
    chosen = next((one for one in candidates if _fits(needs[one], memory)), smallest)
    kept = on_gpu = None
    if recompute is None and chosen.recompute:
        kept = needs[replace(chosen, micro_batch=sizes[-1], recompute=False)]
    if offload is None and chosen.offload:
        on_gpu = min((needs[one] for one in candidates if not one.offload), key=lambda need: need.total)
    return Choice(chosen, needs[chosen], memory, kept, on_gpu)


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
    if setup.method == "full" and not setup.offload:
        yield "training.offloadOptimizer: auto", replace(setup, offload=True)
    if fewer_crops.crops < setup.content.crops:
        yield f"training.numCrops: {FEWER_CROPS}", replace(setup, content=fewer_crops)
    if setup.method == "full" and not setup.freeze_vision:
        yield "freezeVision: true", replace(setup, freeze_vision=True)
    if setup.method == "full":
        on_vision = not setup.freeze_vision
        setup = replace(setup, method="lora", offload=False, lora_rank=DEFAULT_RANK, lora_vision=on_vision)
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
