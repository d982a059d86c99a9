"""The slow resync: a LIST of every kind now and then heals what a watch did not tell, and notices that."""

import asyncio
import logging
from collections.abc import Sequence

from phitune_operator.kinds import CHILD_SELECTOR, FINETUNEJOB, WATCHED, Kind, Object
from phitune_operator.kube import ApiError, Kube
from phitune_operator.logs import LOGGER
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store

EVERY = 300.0
"""Seconds between two resyncs."""
WATCH_GRACE = 10.0
"""Seconds that a watch gets to tell what a LIST has shown."""
SILENT_AFTER = 2
"""Resyncs in a row that found something a watch had not told, until the watch is taken for dead."""


class Resync:
    """Lists what the watches watch. `silent` names the kinds whose watch has stopped telling."""

    def __init__(self, kube: Kube, store: Store, queue: WorkQueue, namespaces: Sequence[str]) -> None:
        self._kube = kube
        self._store = store
        self._queue = queue
        self._namespaces: Sequence[str | None] = list(namespaces) or [None]
        self._missed: dict[Kind, int] = {}

    @property
    def silent(self) -> list[str]:
        """Kinds whose watch does not tell what happens: the process should be started again."""
        return [kind.plural for kind, times in self._missed.items() if times >= SILENT_AFTER]

    async def fill(self) -> None:
        """Fill the store before anything is decided: a plan must see all children. Raises ApiError."""
        for kind in WATCHED:
            self._store.replace(kind, await self._list(kind), known_before=set())
        for key in self._store.jobs():
            self._queue.add(key)

    async def run(self) -> None:
        """Resync for ever."""
        while True:
            await asyncio.sleep(EVERY)
            for kind in WATCHED:
                try:
                    await self._compare(kind)
                except ApiError as error:
                    LOGGER.warning("resync of %s: %s; trying again in %.0f s", kind.plural, error, EVERY)
            for key in self._store.jobs():
                self._queue.add(key)

    async def _compare(self, kind: Kind) -> None:
        known_before = self._store.uids(kind)
        listed = await self._list(kind)
        await asyncio.sleep(WATCH_GRACE)
        missed = self._store.replace(kind, listed, known_before=known_before)
        self._missed[kind] = self._missed.get(kind, 0) + 1 if missed else 0
        for key in missed:
            self._queue.add(key)
        if missed:
            level = logging.WARNING if self._missed[kind] > 1 else logging.INFO
            LOGGER.log(level, "the watch of %s had not told about %d job(s)", kind.plural, len(missed))

    async def _list(self, kind: Kind) -> list[Object]:
        labels = "" if kind == FINETUNEJOB else CHILD_SELECTOR
        objects: list[Object] = []
        for namespace in self._namespaces:
            objects += await self._kube.list(kind, namespace, labels=labels)
        return objects
