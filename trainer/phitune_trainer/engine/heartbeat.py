"""Which of a run's ranks are there: each tells the others that it lives, and how far it has come.

A collective that fails says that some other rank is gone or late, not which one. So a thread of every rank
leaves signs of life in the store that rank 0 keeps. After a failure they are read twice: a rank without a new
one is dead or frozen; one that lives, but has come to fewer collectives, is the one that the others wait for.
The first rank to find this out tells the others, so that all name the same one.

Not every wait fails by itself in time: on GPUs the host waits for the device. So a second thread watches how
long this rank waits, and ends it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import count

from torch.distributed import Store  # type: ignore[attr-defined]

from phitune_trainer.errors import CollectiveTimeout, Interrupted, RankLost

_BEAT_SECONDS = 0.5
_SILENT_BEATS = 6
"""A rank that leaves no sign for so many beats is taken for dead or frozen, once a connection has broken."""
_SILENT_BEATS_UNBROKEN = 20
"""The same while all connections stand: a process may be too busy for its threads for a while."""
_ANSWER_SECONDS = 2 * _SILENT_BEATS_UNBROKEN * _BEAT_SECONDS
"""A store that has not answered for so long is frozen, and rank 0 with it."""
_SPREAD_SECONDS = 3 * _BEAT_SECONDS
"""By then every living rank has read what was told, and rank 0 may take the store away."""
_VERDICT = "verdict"


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What one rank last said of itself."""

    host: str
    beat: int = 0
    """Counts up while the process lives."""
    arrived: int = 0
    """Collectives that it has come to: the same ones on every rank, in the same order."""
    step: int = 0
    """The last optimizer step that it took part in; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Who is missing, in words."""

    message: str
    is_stop: bool = False
    """It was asked to stop, and left nothing behind that others could save."""
    is_late: bool = False
    """It lives."""

    def error(self) -> Interrupted | RankLost | CollectiveTimeout:
        """What ends the ranks that were waiting for it."""
        if self.is_stop:
            return Interrupted(self.message)
        return CollectiveTimeout(self.message) if self.is_late else RankLost(self.message)


def judge(
    before: Mapping[int, Sign], after: Mapping[int, Sign], *, rank: int, size: int, step: int, is_late: bool
) -> Loss | None:
    """Judge the signs of all ranks at two moments for `rank`; None where no other one is to blame.

    `step`: the last one of `rank`. The missing one took part in it too, if it came so far before it could say
    so. `is_late`: `rank` has waited as long as is allowed.
    """
    if absent := [rank for rank in range(size) if rank not in after]:
        return Loss(message="; ".join(f"rank {rank} has not come" for rank in absent))
    furthest = max(sign.arrived for sign in after.values())
    silent = [rank for rank in after if rank in before and after[rank].beat == before[rank].beat]
    is_late = is_late and after[rank].arrived == furthest
    late = [
        rank
        for rank in after
        # Who has moved since is on its way again, and its last sign is older than the others' word of it.
        if is_late and rank in before and before[rank].arrived == after[rank].arrived < furthest
    ]
    what = "gives no sign of life" if silent else "lives, but the others wait for it in vain"
    found = [_missing(rank, after[rank].host, what, max(step, after[rank].step)) for rank in silent or late]
    return Loss(message="; ".join(found), is_late=not silent) if found else None


class Heartbeat:
    """The signs of one rank, and what it learns of the others'.

    `store` must be a connection that nothing else uses: a thread waits in it, for ever where rank 0 is
    frozen. `last_step` gives the last optimizer step of this rank. Where it has not come to a collective for
    `patience` seconds and others are to blame, `give_up` is called with them, in a thread; it ends the
    process.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        size: int,
        host: str,
        first_host: str,
        last_step: Callable[[], int],
        patience: float,
        give_up: Callable[[Loss], object],
    ) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._host = host
        self._first_host = first_host
        self._last_step = last_step
        self._patience = patience
        self._give_up = give_up
        self._num_arrived = 0
        self._arrived_at = time.monotonic()
        self._beats = count(1)
        self._loss: Loss | None = None
        self._errand: Callable[[], Loss | None] | None = None
        self._one_errand = threading.Lock()
        self._is_done = threading.Event()
        self._is_store_gone = False
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def arrive(self) -> None:
        """Note that this rank now comes to a collective."""
        self._num_arrived += 1
        self._arrived_at = time.monotonic()

    def find_loss(self, *, is_late: bool) -> Loss | None:
        """Who is missing, after a collective has failed; None where that cannot be said. Takes seconds.

        `is_late`: it failed because its time was up.
        """
        return self._send(lambda: self._call_the_roll(is_late=is_late))

    def tell(self, loss: Loss) -> None:
        """Tell the others why this rank is about to end, so that they need not find out."""
        self._send(lambda: loss)

    def close(self) -> None:
        """Leave no more signs: the store may go."""
        self._is_closed.set()
        self._thread.join(_ANSWER_SECONDS)

    def _send(self, errand: Callable[[], Loss | None]) -> Loss | None:
        """Let the thread carry out `errand` unless the loss is known, tell all ranks, and return it."""
        with self._one_errand:
            self._is_done.clear()
            self._errand = errand
            if not self._is_store_gone and not self._is_done.wait(_ANSWER_SECONDS):
                return self._first_is_lost("gives no sign of life")
        if self._is_store_gone and self._loss is None:
            return self._first_is_lost("is gone")
        if self._rank == 0 and self._loss is not None:
            self._is_closed.wait(_SPREAD_SECONDS)
        return self._loss

    def _watch(self) -> None:
        num_known = 0
        while not self._is_closed.wait(_BEAT_SECONDS):
            waited = time.monotonic() - self._arrived_at
            num_known += self._loss is not None
            if waited > self._patience:
                loss = self.find_loss(is_late=True)
            else:
                # Told by another one. A wait for a broken connection ends by itself, not one for a device.
                is_stuck = (
                    num_known > _SILENT_BEATS_UNBROKEN and waited > _SILENT_BEATS_UNBROKEN * _BEAT_SECONDS
                )
                loss = self._loss if is_stuck else None
            if loss is not None and not self._is_closed.is_set():
                self._give_up(loss)
                return

    def _run(self) -> None:
        try:
            self._beat()
            while not self._is_closed.wait(_BEAT_SECONDS):
                self._beat()
                if (errand := self._errand) is not None:
                    if self._loss is None and (found := errand()) is not None:
                        self._loss = self._publish(found)
                    self._errand = None
                    self._is_done.set()
        except RuntimeError:  # rank 0 is gone, and has taken the store with it
            self._is_store_gone = True
            self._is_done.set()

    def _beat(self) -> None:
        sign = Sign(
            host=self._host, beat=next(self._beats), arrived=self._num_arrived, step=self._last_step()
        )
        self._store.set(f"sign/{self._rank}", json.dumps(asdict(sign)))
        if self._loss is None and self._store.check([_VERDICT]):
            self._loss = Loss(**json.loads(self._store.get(_VERDICT)))

    def _call_the_roll(self, *, is_late: bool) -> Loss | None:
        before, arrived = self._signs(), self._num_arrived
        for _ in range(_SILENT_BEATS_UNBROKEN if is_late else _SILENT_BEATS):
            self._is_closed.wait(_BEAT_SECONDS)
            self._beat()
        if self._loss is not None:
            return self._loss
        if self._is_closed.is_set() or self._num_arrived != arrived:
            return None  # whoever was waited for has come after all
        return judge(
            before,
            self._signs(),
            rank=self._rank,
            size=self._size,
            step=self._last_step(),
            is_late=is_late,
        )

    def _signs(self) -> dict[int, Sign]:
        keys = {rank: f"sign/{rank}" for rank in range(self._size)}
        return {
            rank: Sign(**json.loads(self._store.get(key)))
            for rank, key in keys.items()
            if self._store.check([key])
        }

    def _publish(self, loss: Loss) -> Loss:
        """Tell it to all ranks; what another has told first stands."""
        first = self._store.compare_set(_VERDICT, "", json.dumps(asdict(loss)))
        return Loss(**json.loads(first))

    def _first_is_lost(self, what: str) -> Loss:
        return Loss(message=_missing(0, self._first_host, what, self._last_step()))


def _missing(rank: int, host: str, what: str, step: int) -> str:
    last = f"its last step was {step}" if step else "it has come to no step yet"
    return f"rank {rank} (host {host}) {what}; {last}"
