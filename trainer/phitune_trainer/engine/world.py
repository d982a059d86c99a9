"""The processes that train together, as one of them sees them.

Small agreements (counts, flags, errors, objects) travel over gloo on the CPU, so that on GPUs they never
make the host wait for the device; gradients travel over the device's own backend.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from phitune_trainer.endings import user_message
from phitune_trainer.errors import Superseded, UserError

T = TypeVar("T")

COLLECTIVE_TIMEOUT_SECONDS = 1800
"""How long a rank waits for the others. Ranks wait in a collective while rank 0 alone checks (SHA-256) or
exports many GB on a slow volume. A rank that dies closes its connections, which is noticed at once: only a
rank that hangs is waited for so long."""


@dataclass(frozen=True)
class RankEnvironment:
    """What the launcher tells one rank."""

    rank: int
    size: int
    local_rank: int


def read_rank_environment() -> RankEnvironment:
    """RANK, WORLD_SIZE and LOCAL_RANK, as the launcher sets them; torch reads MASTER_ADDR and MASTER_PORT."""
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = os.environ.get(name, "")
        if not text.isdecimal():
            raise UserError(
                f"{name}={text!r} in the environment: a whole number is needed. Start the trainer with "
                f"`python3 -m phitune_trainer.launch`, which sets it"
            )
        numbers[name] = int(text)
    return RankEnvironment(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"])


@dataclass(frozen=True)
class World:
    """This rank among the others. Every method is collective: all ranks call it in the same order."""

    rank: int
    size: int
    device: torch.device
    volume: Path | None = None
    """The user's volume: what cannot be written there is theirs to mend."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, counts: Sequence[int]) -> list[int]:
        """Each count summed over all ranks."""
        totals = torch.tensor(list(counts), dtype=torch.int64)
        dist.all_reduce(totals)
        return [int(total) for total in totals]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over all ranks, in place, on its device; nothing waits for the result."""
        dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order; pickled, for the ranks' own small objects only."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, known to all; its problems are raised on all ranks."""
        value = self.together(lambda: action() if self.is_first else None)
        return self.gather(value)[0]  # type: ignore[return-value]

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` on every rank; its result here, if it went well on all of them.

        A user error on any rank is raised on every rank as UserError, so that all of them (and with them
        all pods) end for the same reason; Superseded likewise. Other exceptions end this rank, and the
        others notice.
        """
        value: T | None = None
        problem: Exception | None = None
        try:
            value = action()
        except Superseded as error:
            problem = error
        except Exception as error:
            message = user_message(error, self.volume)
            if message is None:
                raise
            problem = UserError(message)
        for known in self.gather(problem):
            if known is not None:
                raise known
        return value  # type: ignore[return-value]


def join_world(kind: Literal["cpu", "cuda"], volume: Path | None = None) -> World:
    """Meet the other ranks. UserError where there is no GPU for this rank, or an unusable environment."""
    environment = read_rank_environment()
    device = torch.device("cpu")
    if kind == "cuda":
        if environment.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {environment.rank} needs GPU {environment.local_rank} of this machine, but torch sees "
                f"{torch.cuda.device_count()}; lower resources.gpusPerNode, or use 0 to train on the CPU"
            )
        device = torch.device("cuda", environment.local_rank)
        torch.cuda.set_device(device)
    seconds = int(os.environ.get("PHITUNE_COLLECTIVE_TIMEOUT_SECONDS", COLLECTIVE_TIMEOUT_SECONDS))
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    return World(environment.rank, environment.size, device, volume)


@contextmanager
def alone(device: torch.device) -> Iterator[World]:
    """A world of this process only, for what needs no launcher."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield World(0, 1, device)
    finally:
        leave_world()


def leave_world() -> None:
    """Close the connections to the other ranks, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
