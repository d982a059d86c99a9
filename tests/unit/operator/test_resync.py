"""The slow resync reads as little as it can, and heals what a watch did not tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from phitune_operator import metadata_list, resync
from phitune_operator.installed import Installed
from phitune_operator.kinds import FINETUNEJOB, POD, Key, Object
from phitune_operator.kube import Kube
from phitune_operator.metrics import Metrics
from phitune_operator.names import LABEL_JOB
from phitune_operator.queue import WorkQueue
from phitune_operator.resync import Resync
from phitune_operator.store import Store


def thing(name: str, version: int = 1, **more: Any) -> Object:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {LABEL_JOB: name.partition("-")[0]},
    }
    return {"metadata": metadata, **more}


def job(name: str, phase: str, version: int = 1) -> Object:
    return thing(name, version, status={"phase": phase})


class Server:
    """Answers LISTs a page of one object at a time, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {}
        self.asked: list[tuple[str, bool]] = []

    async def answer(self, request: web.Request) -> web.Response:
        plural = request.path.rpartition("/")[2]
        if plural == "v1":
            return web.json_response({"resources": [{"name": "pytorchjobs"}]})
        is_metadata = request.headers["Accept"] == metadata_list.CONTENT_TYPE
        self.asked.append((plural, is_metadata))
        objects = self.objects.get(plural, [])
        at = int(request.query.get("continue", 0))
        items = [{"metadata": obj["metadata"]} if is_metadata else obj for obj in objects[at : at + 1]]
        more = str(at + 1) if at + 1 < len(objects) else ""
        return web.json_response({"metadata": {"continue": more}, "items": items})

    def whole(self, plural: str) -> int:
        """How often whole objects were read."""
        return self.asked.count((plural, False))


Test = Callable[[Server, Resync, Store, WorkQueue], Coroutine[Any, Any, None]]


def run(test: Test) -> None:
    async def serve() -> None:
        server = Server()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        kube = Kube(client.ApiClient(client.Configuration(host=url)), Metrics())
        store, queue = Store(), WorkQueue()
        try:
            await test(server, Resync(kube, store, queue, [], Installed(kube)), store, queue)
        finally:
            await kube.close()
            await runner.cleanup()

    asyncio.run(serve())


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "WATCH_GRACE", 0.0)


def test_at_the_start_everything_is_read_page_by_page_and_jobs_that_have_ended_are_looked_at_last() -> None:
    async def test(server: Server, slow: Resync, store: Store, queue: WorkQueue) -> None:
        server.objects["finetunejobs"] = [
            *(job(f"a{number}", "Succeeded") for number in range(3)),
            job("b", "Running"),
        ]
        server.objects["pods"] = [thing("b-0"), thing("b-1")]
        await slow.fill()
        assert len(store.children(Key("team", "b"), POD)) == 2
        assert server.whole("finetunejobs") == 4
        assert await queue.take() == Key("team", "b")
        assert len(queue) == 3

    run(test)


def test_a_resync_that_agrees_reads_metadata_alone_and_finds_nothing() -> None:
    async def test(server: Server, slow: Resync, store: Store, queue: WorkQueue) -> None:
        server.objects["finetunejobs"] = [job("a", "Succeeded"), job("b", "Running")]
        await slow.fill()
        server.asked.clear()
        for _ in range(resync.SILENT_AFTER):
            await slow.compare(FINETUNEJOB)
        assert server.whole("finetunejobs") == 0
        assert slow.silent == []

    run(test)


def test_what_a_watch_did_not_tell_is_read_and_the_watch_taken_for_dead_the_second_time() -> None:
    async def test(server: Server, slow: Resync, store: Store, queue: WorkQueue) -> None:
        server.objects["finetunejobs"] = [job("a", "Running"), job("b", "Running"), job("c", "Running")]
        await slow.fill()
        server.objects["finetunejobs"] = [
            job("a", "Succeeded", version=2),
            job("b", "Running"),
            job("d", "Running"),
        ]
        while len(queue):
            queue.done(await queue.take())
        await slow.compare(FINETUNEJOB)
        assert {await queue.take() for _ in range(3)} == {Key("team", name) for name in "acd"}
        assert sorted(store.jobs()) == [Key("team", name) for name in "abd"]
        assert store.count("Succeeded") == 1
        assert slow.silent == []
        server.objects["finetunejobs"] = []
        await slow.compare(FINETUNEJOB)
        assert slow.silent == ["finetunejobs"]
        assert store.jobs() == []

    run(test)
