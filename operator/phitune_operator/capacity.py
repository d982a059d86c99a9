"""The read of the cluster's GPU nodes and of what pods hold of them, shared by all jobs that seek a place.

Rights used here: list nodes and, in the whole cluster, pods. An operator that serves some namespaces only may
not list the pods of others: then what they hold is not known, and counts as free.

Nodes and pods are read page by page, and nothing is kept of them but what counts: those of a large cluster
are more than an operator has memory for.
"""

import asyncio
import time
from dataclasses import replace

from phitune_operator.kinds import NODE, POD
from phitune_operator.kube import ApiError, Kube
from phitune_operator.placement import Node, gpu_nodes
from phitune_operator.usage import Usage, count

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
                nodes = [node async for page in self._kube.pages(NODE) for node in gpu_nodes(page, None)]
                usage = await self._usage() if nodes else None
                if usage is not None:
                    nodes = [replace(node, usage=usage.get(node.name, Usage())) for node in nodes]
                self._nodes = tuple(nodes)
                took = time.monotonic() - began
                self._good_until = time.monotonic() + max(FRESH, SHARE * took)
            return self._nodes

    async def _usage(self) -> dict[str, Usage] | None:
        usage: dict[str, Usage] = {}
        try:
            async for page in self._kube.pages(POD, fields=HOLDING):
                count(usage, page)
        except ApiError as error:
            if error.status == 403:
                return None
            raise
        return usage
