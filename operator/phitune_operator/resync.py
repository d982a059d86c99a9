"""The slow resync: now and then a LIST of every kind finds what a watch did not tell, and heals that.

It asks for metadata alone, whose versions say what is old; objects are read only where something is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from phitune_operator.installed import Installed
from phitune_operator.kinds import CHILD_SELECTOR, FINETUNEJOB, Key, Kind, Object, uid_of
from phitune_operator.kube import ApiError, Kube
from phitune_operator.logs import LOGGER
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store

EVERY = 300.0
"""Seconds between two resyncs."""
ENDED_A_SECOND = 200
"""Jobs that have ended are looked at last after a start, and slowly: one that comes then need not wait."""
WATCH_GRACE = 10.0
"""Seconds that a watch gets to tell what a LIST has shown."""
SILENT_AFTER = 2
"""Resyncs in a row that found something a watch had not told, until the watch is taken for dead."""


class Resync:
    """Lists what the watches watch. `silent` names the kinds whose watch has stopped telling."""

    def __init__(
        self, kube: Kube, store: Store, queue: WorkQueue, namespaces: Sequence[str], installed: Installed
    ) -> None:
        self._kube = kube
        self._store = store
        self._queue = queue
        self._installed = installed
        self._namespaces: Sequence[str | None] = list(namespaces) or [None]
        self._missed: dict[Kind, int] = {}

    @property
    def silent(self) -> list[str]:
        """Kinds whose watch does not tell what happens: the process should be started again."""
        silent = [kind for kind, times in self._missed.items() if times >= SILENT_AFTER]
        return [kind.plural for kind in (*silent, *self._installed.unwatched)]

    async def fill(self) -> None:
        """Fill the store before anything is decided: a plan must see all children. Raises ApiError."""
        await self._installed.find()
        for kind in self._installed.watched:
            await self._take_in(kind, known_before=set())
        for key in self._store.unfinished():
            self._queue.add(key)
        for number, key in enumerate(self._store.ended()):
            self._queue.add(key, after=number / ENDED_A_SECOND)

    async def run(self) -> None:
        """Resync for ever."""
        while True:
            await asyncio.sleep(EVERY)
            for kind in self._installed.watched:
                try:
                    await self.compare(kind)
                except ApiError as error:
                    LOGGER.warning("resync of %s: %s; trying again in %.0f s", kind.plural, error, EVERY)
            await self._look_for_new_kinds()
            # Of a job that has ended, nothing changes by itself but its time to live, which the queue knows.
            for key in self._store.unfinished():
                self._queue.add(key)

    async def _look_for_new_kinds(self) -> None:
        try:
            await self._installed.look_for_new()
        except ApiError as error:
            LOGGER.warning("asking for new kinds: %s; trying again in %.0f s", error, EVERY)

    async def compare(self, kind: Kind) -> None:
        """Find what the watch of a kind has not told, and take it in. Raises ApiError."""
        known_before = self._store.uids(kind)
        listed = [obj async for page in self._pages(kind, is_metadata=True) for obj in page]
        await asyncio.sleep(WATCH_GRACE)
        missed = self._store.lacking(kind, listed, known_before=known_before)
        self._missed[kind] = self._missed.get(kind, 0) + 1 if missed else 0
        if not missed:
            return
        for key in missed | await self._take_in(kind, known_before=self._store.uids(kind)):
            self._queue.add(key)
        level = logging.WARNING if self._missed[kind] > 1 else logging.INFO
        LOGGER.log(level, "the watch of %s had not told about %d job(s)", kind.plural, len(missed))

    async def _take_in(self, kind: Kind, *, known_before: set[str]) -> set[Key]:
        """Make the store agree with a LIST, of which one page at a time is held in memory."""
        found: set[str] = set()
        changed: set[Key] = set()
        async for page in self._pages(kind):
            found.update(map(uid_of, page))
            changed |= self._store.replace(kind, page, known_before=set())
        return changed | self._store.drop(kind, known_before - found)

    async def _pages(self, kind: Kind, *, is_metadata: bool = False) -> AsyncIterator[Sequence[Object]]:
        labels = "" if kind == FINETUNEJOB else CHILD_SELECTOR
        for namespace in self._namespaces:
            async for page in self._kube.pages(kind, namespace, labels=labels, is_metadata=is_metadata):
                yield page
