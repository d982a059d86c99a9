"""The API server, as the benchmark's own client: fast enough not to be what is measured."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from benchrows.row import NotMeasured

Object = dict[str, Any]
Item = TypeVar("Item")
AT_ONCE = 16
"""Requests under way at a time."""
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Api:
    """A client with an administrator's rights."""

    def __init__(self, session: aiohttp.ClientSession, server: str, context: ssl.SSLContext) -> None:
        self._session = session
        self._server = server
        self._context = context

    async def call(
        self, method: str, path: str, body: Object | None = None, *, content_type: str = "application/json"
    ) -> Object:
        """One request. Raises NotMeasured with the server's words where it is refused."""
        headers = {"Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        url = f"{self._server}{path}"
        async with self._session.request(
            method, url, data=data, headers=headers, ssl=self._context
        ) as response:
            text = await response.text()
            if response.status >= 300:
                raise NotMeasured(f"{method} {path}: {response.status} {text[:500]}")
        answer: Object = json.loads(text)
        return answer

    async def create(self, path: str, body: Object) -> Object:
        """Make an object."""
        return await self.call("POST", path, body)

    async def merge(self, path: str, patch: Object) -> Object:
        """Merge a patch into an object."""
        return await self.call("PATCH", path, patch, content_type=MERGE)

    async def apply(self, path: str, body: Object) -> Object:
        """Server-side apply, which also makes what is not there."""
        return await self.call("PATCH", f"{path}?fieldManager=bench&force=true", body, content_type=APPLY)

    async def get(self, path: str) -> Object:
        """One object, or one list."""
        return await self.call("GET", path)

    async def is_ready(self) -> bool:
        """Whether the API server answers and says that it is ready."""
        try:
            async with self._session.get(f"{self._server}/readyz", ssl=self._context) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def watch(self, path: str, *, version: str) -> AsyncIterator[Object]:
        """What happens to the objects of a path after a version of its list, for as long as one listens."""
        query = f"?watch=true&resourceVersion={version}&timeoutSeconds=3600"
        limit = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            f"{self._server}{path}{query}", ssl=self._context, timeout=limit
        ) as response:
            async for line in response.content:
                yield json.loads(line)


@asynccontextmanager
async def connect(server: str, authority: Path, token: str) -> AsyncIterator[Api]:
    """A client that trusts the API server's own certificate, which must be there."""
    context = ssl.create_default_context(cafile=str(authority))
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {token}"}
    # A line of a watch is a whole object.
    async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=2**22) as session:
        yield Api(session, server, context)


async def each(
    items: Iterable[Item], do: Callable[[Item], Awaitable[object]], *, at_once: int = AT_ONCE
) -> None:
    """Do something with every item, with so many at a time; the first failure ends the rest."""
    waiting = iter(items)

    async def serve() -> None:
        for item in waiting:
            await do(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(serve())
