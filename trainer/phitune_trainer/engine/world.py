"""The processes that train together, as one of them sees them.

Small agreements (counts, flags, errors, objects) travel over gloo on the CPU, so that on GPUs they never
make the host wait for the device; gradients travel over the device's own backend.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from phitune_trainer.endings import ending_of, is_late, is_peer_lost, user_error
from phitune_trainer.engine.heartbeat import Heartbeat, Loss
from phitune_trainer.errors import Interrupted, RankLost, Superseded, UserError
from phitune_trainer.processes import LISTENER_VARIABLE

T = TypeVar("T")

COLLECTIVE_TIMEOUT_SECONDS = 1800
"""How long a rank waits for the others. Ranks wait in a collective while rank 0 alone writes a file of an
export, of up to 2 GB, to a slow volume. A rank that dies closes its connections, which is noticed at once:
only a rank that hangs is waited for so long. PHITUNE_COLLECTIVE_TIMEOUT_SECONDS sets another number."""
_BACKSTOP_SECONDS = 60
"""So much later the collective itself fails, where the heartbeat has not ended the rank."""


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
    """The user's volume: what may not be written or read there is theirs to mend."""
    heartbeat: Heartbeat | None = None
    """What tells which of the other ranks is missing; None where there is no other."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, counts: Sequence[int]) -> list[int]:
        """Each count summed over all ranks."""
        totals = torch.tensor(list(counts), dtype=torch.int64)
        self._arrive()
        dist.all_reduce(totals)
        return [int(total) for total in totals]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over all ranks, in place, on its device; nothing waits for the result."""
        self._arrive()
        dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order; pickled, for the ranks' own small objects only."""
        values: list[Any] = [None] * self.size
        self._arrive()
        dist.all_gather_object(values, value)
        return values

    def from_first(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, known to all; its problems are raised on all ranks."""
        values: list[Any] = [self.together(lambda: action() if self.is_first else None)]
        self._arrive()
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[no-any-return]

    def from_first_at_length(self, action: Callable[[Callable[[], object]], T]) -> T:
        """`from_first` for what takes longer than a rank is waited for.

        `action` gets a function to call whenever it has come further: the others then wait anew.
        """

        def in_turns() -> T | None:
            if not self.is_first:
                while self.sum([0])[0]:
                    pass
                return None
            try:
                value = action(lambda: self.sum([1]))
            except Exception:
                self.sum([0])
                raise
            self.sum([0])
            return value

        done = self.together(in_turns)
        return self.from_first(lambda: done)  # type: ignore[return-value]

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
            problem = user_error(error, self.volume)
            if problem is None:
                raise
        for known in self.gather(problem):
            if known is not None:
                raise known
        return value  # type: ignore[return-value]

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Within this block the loss of another rank is RankLost or CollectiveTimeout, which names it.

        It is Interrupted where that rank was asked to stop while nothing could be lost. What ends this rank
        within the block is told to the others.
        """
        if self.heartbeat is None:
            yield
            return
        try:
            yield
        except (Exception, Interrupted) as error:
            if is_peer_lost(error):
                if (loss := self.heartbeat.find_loss(is_late=is_late(error))) is not None:
                    raise loss.error() from error
            elif isinstance(error, Interrupted):
                self.tell_of_stop(str(error))
            else:
                self._tell(ending_of(error, self.volume)[2], is_stop=False)
            raise

    def tell_of_stop(self, message: str) -> None:
        """Tell the others, before this rank ends, that it was asked to and that nothing is lost with it."""
        self._tell(message, is_stop=True)

    def _tell(self, message: str, *, is_stop: bool) -> None:
        if self.heartbeat is not None:
            name = f"rank {self.rank} (host {socket.gethostname()})"
            self.heartbeat.tell(Loss(message=f"{name} ended: {message}", is_stop=is_stop))

    def _arrive(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.arrive()


def join_world(
    kind: Literal["cpu", "cuda"],
    volume: Path | None = None,
    *,
    last_step: Callable[[], int] = lambda: 0,
    give_up: Callable[[Loss], object] = lambda _: None,
) -> World:
    """Meet the other ranks.

    `last_step` gives the last optimizer step of this one, for the others to name. `give_up` is called in a
    thread, with the ranks that are missing, where this one has waited too long for them.

    UserError where there is no GPU for this rank, or an unusable environment. RankLost where others do not
    come.
    """
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
    patience = _collective_timeout()
    timeout = timedelta(seconds=patience + _BACKSTOP_SECONDS)
    store = _open_store(environment, timeout)
    heartbeat = None
    if environment.size > 1:
        heartbeat = Heartbeat(
            _connect(timeout),
            rank=environment.rank,
            size=environment.size,
            host=socket.gethostname(),
            first_host=os.environ["MASTER_ADDR"],
            last_step=last_step,
            patience=patience,
            give_up=give_up,
        )
    world = World(environment.rank, environment.size, device, volume, heartbeat)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    with world.naming_the_lost():
        dist.init_process_group(
            backend, store=store, rank=environment.rank, world_size=environment.size, timeout=timeout
        )
    return world


def _collective_timeout() -> int:
    text = os.environ.get("PHITUNE_COLLECTIVE_TIMEOUT_SECONDS", str(COLLECTIVE_TIMEOUT_SECONDS))
    if not text.isdecimal() or not int(text):
        raise UserError(
            f"PHITUNE_COLLECTIVE_TIMEOUT_SECONDS={text!r} in the environment: a whole number of seconds is "
            f"needed"
        )
    return int(text)


def _open_store(environment: RankEnvironment, timeout: timedelta) -> TCPStore:
    """The store through which the ranks find each other: rank 0 keeps it, the others connect to it."""
    if environment.rank:
        return _connect(timeout)
    listener = os.environ.get(LISTENER_VARIABLE)
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=True,
        wait_for_workers=False,
        timeout=timeout,
        master_listen_fd=None if listener is None else int(listener),
    )


def _connect(timeout: timedelta) -> TCPStore:
    """A connection to rank 0's store. RankLost if there is none within the time."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except dist.DistError as error:
        waited = f"within {timeout.total_seconds():g} s"
        raise RankLost(f"rank 0 ({host}, port {port}) has not come {waited}") from error


@contextmanager
def alone(device: torch.device) -> Iterator[World]:
    """A world of this process only, for what needs no launcher."""
    store = HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield World(0, 1, device)
    finally:
        leave_world()


def leave_world(world: World | None = None) -> None:
    """Close the connections to the other ranks, if there are any."""
    if world is not None and world.heartbeat is not None:
        world.heartbeat.close()
    if dist.is_initialized():
        dist.destroy_process_group()
