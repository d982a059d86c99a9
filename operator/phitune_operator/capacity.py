"""The read of the cluster's GPU nodes and of what pods hold of them, shared by all jobs that seek a place.

Rights used here: list nodes and, in the whole cluster, pods. An operator that serves some namespaces only may
not list the pods of others: then what they hold is not known, and counts as free.
"""

import asyncio
import time

from phitune_operator.kinds import NODE, POD, Object
from phitune_operator.kube import ApiError, Kube
from phitune_operator.placement import Node, gpu_nodes

FRESH = 5.0
"""Seconds for which a read is used again, at least."""
SHARE = 20
"""A read is used again for so many times as long as it took: no more of the time is spent on reading."""
HOLDING = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Selects pods that hold a part of a node."""


class Capacity:
    """The cluster's GPU nodes, as they were a moment ago."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._nodes: tuple[Node, ...] = ()
        self._good_until = 0.0
        self._reading = asyncio.Lock()

    async def nodes(self) -> tuple[Node, ...]:
        """Return them. Raises ApiError."""
        async with self._reading:
            if time.monotonic() >= self._good_until:
                began = time.monotonic()
                nodes = await self._kube.list(NODE)
                self._nodes = gpu_nodes(nodes, await self._pods() if gpu_nodes(nodes, None) else None)
                took = time.monotonic() - began
                self._good_until = time.monotonic() + max(FRESH, SHARE * took)
            return self._nodes

    async def _pods(self) -> list[Object] | None:
        try:
            return await self._kube.list(POD, fields=HOLDING)
        except ApiError as error:
            if error.status == 403:
                return None
            raise
