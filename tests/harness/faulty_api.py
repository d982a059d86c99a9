"""A proxy between an operator and the API server that does to it what a bad day does.

It counts the operator's writes and can end the operator before or after any of them; it answers in the API
server's place, or late; it lets watches fall silent with their connections open.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from aiohttp import web

from harness.cluster import Cluster

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
PASSED_ON = ("Accept", "Authorization", "Content-Type", "User-Agent")


class ApiProxy:
    """Listens on a port of this machine, in a thread of its own, between `start` and `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        settings = cluster.api.configuration
        self._upstream: str = settings.host
        self._tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.writes: Counter[str] = Counter()
        """Writes that came, by namespace."""
        self.on_write: Callable[[str, int, str], bool] = lambda namespace, number, moment: False
        """Asked with namespace, number of the write in it (from 1), and "before" or "after" it is done.

        It says whether nobody is there any more to be answered.
        """
        self.answer: Callable[[web.Request], web.Response | float | None] = lambda request: None
        """What a request gets in the API server's place: a response, a delay in seconds, or nothing."""
        self.num_untold = 0
        """What the watches that fell silent had to tell."""
        self._num_silences = 0
        self.port = 0

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        """Close every connection."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def silence(self) -> None:
        """Let every watch that is open now tell nothing more, and stay open."""
        self._num_silences += 1

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        application = web.Application(client_max_size=16 * 2**20)
        application.add_routes([web.route("*", "/{path:.*}", self._handle)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        instead = self.answer(request)
        if isinstance(instead, web.Response):
            return instead
        if instead is not None:
            await asyncio.sleep(instead)
        namespace, number = namespace_of(request.path), 0
        is_write = request.method in WRITES and "/leases" not in request.path
        if is_write:
            self.writes[namespace] += 1
            number = self.writes[namespace]
            if self.on_write(namespace, number, "before"):
                raise web.HTTPServiceUnavailable
        async with self._asked(request) as answer:
            if "watch" in request.query:
                return await self._stream(request, answer)
            body = await answer.read()
            if is_write and self.on_write(namespace, number, "after"):
                raise web.HTTPServiceUnavailable
            return web.Response(status=answer.status, body=body, headers=kind_of_answer(answer))

    @asynccontextmanager
    async def _asked(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        body = await request.read()
        url = f"{self._upstream}{request.rel_url}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None, timeout=timeout
            ) as answer:
                yield answer
        except aiohttp.ClientConnectorError as error:  # so says a load balancer, too
            raise web.HTTPBadGateway(text=str(error)) from error

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        told = web.StreamResponse(status=answer.status, headers=kind_of_answer(answer))
        num_silences = self._num_silences
        # Whoever watches may go at any time, and the API server may end.
        with suppress(ConnectionError, aiohttp.ClientError):
            await told.prepare(request)
            async for line in answer.content:
                if num_silences == self._num_silences:
                    await told.write(line)
                else:
                    self.num_untold += 1
        return told


def namespace_of(path: str) -> str:
    """The namespace that a path is in; empty if it is in none."""
    before, found, after = path.partition("/namespaces/")
    return after.partition("/")[0] if found and before else ""


def kind_of_answer(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers that say how to read an answer."""
    return {"Content-Type": answer.headers.get("Content-Type", "application/json")}


def refusal(code: int, reason: str) -> web.Response:
    """An answer as the API server words its refusals."""
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(status_of(code, reason), status=code, headers=headers)


def cut_off(code: int, reason: str) -> web.Response:
    """A watch that ends with such a refusal; that its version is too old is said in the stream."""
    if code != 410:
        return refusal(code, reason)
    return web.json_response({"type": "ERROR", "object": status_of(code, reason)})


def status_of(code: int, reason: str) -> dict[str, object]:
    """The API server's object for a refusal."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return {**status, "message": f"{reason}, by the proxy"}
