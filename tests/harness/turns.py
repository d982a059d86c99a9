"""Programs that share a volume, of which one runs at a time, up to its next file operation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from harness.file_operations import Operation


class Turns:
    """Runs programs in threads; who goes on after each operation is what the schedule says.

    A program is one of them with all its threads: while it has the turn, whatever is done is its doing.
    """

    def __init__(self, schedule: Iterator[int], after_each: Callable[[], None]) -> None:
        self._schedule = schedule
        self._after_each = after_each
        self._turn = 0
        self._running: list[int] = []
        self._changed = threading.Condition()
        self.problems: list[BaseException] = []

    def run(self, programs: list[Callable[[], Any]]) -> None:
        """Run all of them to their ends. Raises the first thing that one of them, or `after_each`, raised."""
        self._running = list(range(len(programs)))
        threads = [
            threading.Thread(target=self._run, args=(number, program))
            for number, program in enumerate(programs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.problems:
            raise self.problems[0]

    def before(self, operation: Operation) -> None:
        """Called where an operation is about to be done: gives the turn away and waits for it."""
        with self._changed:
            me = self._turn
            self._after_each()
            self._give_away()
            self._changed.wait_for(lambda: self._turn == me)

    def _run(self, number: int, program: Callable[[], Any]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number)
        try:
            program()
        except BaseException as problem:  # noqa: BLE001 - the thread that waits for all raises it
            self.problems.append(problem)
        with self._changed:
            self._running.remove(number)
            self._give_away()

    def _give_away(self) -> None:
        if self._running:
            wanted = next(self._schedule, self._turn)
            self._turn = wanted if wanted in self._running else self._running[0]
            self._changed.notify_all()
