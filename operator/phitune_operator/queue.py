"""Which jobs to look at, and when: one entry a job, the earliest time wins, failures wait longer each time.

Any number of triggers for one job become one look; a job is never looked at twice at once; a trigger that
comes during a look leads to another one after it.
"""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Awaitable, Callable

from phitune_operator.kinds import Key

FIRST_BACKOFF = 1.0
"""Seconds before the second try after a failure; doubles with each further one."""
LONGEST_BACKOFF = 300.0
LONGEST_AFTER_REFUSAL = 30.0
"""What refuses a write, such as a quota, can change at any time without a word to us."""


class WorkQueue:
    """Keys of jobs, each due at one time of the event loop's clock."""

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._jitter = jitter

    def __len__(self) -> int:
        return len(self._due)

    def depth(self) -> int:
        """Return how many jobs are due and wait for their turn."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Ask for a look at the job in so many seconds, or earlier if that was asked for already."""
        due = asyncio.get_running_loop().time() + after
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        self._wake.set()

    def retry(self, key: Key, *, at_most: float = LONGEST_BACKOFF) -> float:
        """Ask for another look after a failure; returns in how many seconds it comes."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(FIRST_BACKOFF * 2.0 ** min(failures, 16), at_most) * (0.5 + self._jitter() / 2)
        self.add(key, after=pause)
        return pause

    def forget_failures(self, key: Key) -> None:
        """Begin again with the shortest pause: the job was looked at without a failure."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for the next job that is due and that nobody is looking at; give it back with `done`."""
        # One worker waits for what comes, the others for their turn: a trigger wakes one, not all of them.
        async with self._turn:
            while True:
                now = asyncio.get_running_loop().time()
                while self._heap and self._heap[0][0] <= now:
                    due, key = heapq.heappop(self._heap)
                    if self._due.get(key) != due or key in self._busy:
                        continue
                    del self._due[key]
                    self._busy.add(key)
                    return key
                self._wake.clear()
                pause = self._heap[0][0] - now if self._heap else None
                # Not wait_for, which in Python 3.11 may swallow the cancellation that ends a worker.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    def done(self, key: Key) -> None:
        """Say that the look is over; a trigger that came meanwhile is served next."""
        self._busy.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], key))
            self._wake.set()


async def work(queue: WorkQueue, look: Callable[[Key], Awaitable[None]]) -> None:
    """Serve the queue for ever; `look` never raises."""
    while True:
        key = await queue.take()
        try:
            await look(key)
        finally:
            queue.done(key)
