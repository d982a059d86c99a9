"""The read of the cluster's nodes and of what pods hold of them, shared by all jobs that seek a place.

Rights used here: list nodes and, in the whole cluster, pods. An operator that serves some namespaces only may
not list the pods of others: then what they hold is not known, and counts as free.

Nodes and pods are read page by page, and nothing is kept of them but what counts: those of a large cluster
are more than an operator has memory for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple

from phitune_operator.kinds import NODE, POD
from phitune_operator.kube import ApiError, Kube
from phitune_operator.nodes import Node, read_nodes
from phitune_operator.usage import Usage, count

FRESH = 5.0
"""Seconds for which a read is used again, at least."""
SHARE = 20
"""A read is used again for so many times as long as it took: no more of the time is spent on reading."""
REFUSED_PAUSE = 300.0
"""Seconds until pods are asked for again where that was forbidden: rights hardly ever change."""
HOLDING = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Selects pods that hold a part of a node."""


class Reading(NamedTuple):
    """Nodes as they were a moment ago."""

    nodes: tuple[Node, ...]
    at: float
    """When the read began, in seconds of the monotonic clock."""


class Capacity:
    """The cluster's nodes, as they were a moment ago."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._shared = _Shared(self._read)
        self._refused_until = 0.0

    async def nodes(self) -> Reading:
        """Return all of them, and what pods hold of them. Raises ApiError."""
        return await self._shared.read()

    async def _read(self) -> tuple[Node, ...]:
        nodes = [node async for page in self._kube.pages(NODE) for node in read_nodes(page, None)]
        usage = await self._usage()
        if usage is None:
            return tuple(nodes)
        return tuple(replace(node, usage=usage.get(node.name, Usage())) for node in nodes)

    async def _usage(self) -> dict[str, Usage] | None:
        if time.monotonic() < self._refused_until:
            return None
        usage: dict[str, Usage] = {}
        try:
            async for page in self._kube.pages(POD, fields=HOLDING):
                count(usage, page)
        except ApiError as error:
            if error.status == 403:
                self._refused_until = time.monotonic() + REFUSED_PAUSE
                return None
            raise
        return usage


class _Shared:
    """One read for all who ask at about the same time."""

    def __init__(self, read: Callable[[], Awaitable[tuple[Node, ...]]]) -> None:
        self._read = read
        self._last = Reading((), 0.0)
        self._good_until = 0.0
        self._reading = asyncio.Lock()

    async def read(self) -> Reading:
        async with self._reading:
            if time.monotonic() >= self._good_until:
                began = time.monotonic()
                self._last = Reading(await self._read(), began)
                ended = time.monotonic()
                self._good_until = ended + max(FRESH, SHARE * (ended - began))
            return self._last
