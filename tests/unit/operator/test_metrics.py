"""What Prometheus reads of an operator that works."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client

from harness.ports import free_port
from phitune_operator.health import Health
from phitune_operator.kinds import FINETUNEJOB, Key
from phitune_operator.kube import ApiError, Kube
from phitune_operator.metrics import Metrics
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store


def value(text: str, sample: str) -> float:
    """The value of one sample, such as name{label="x"}."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])


def job(name: str, phase: str | None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1"}
    return {"metadata": metadata, **({"status": {"phase": phase}} if phase else {})}


def test_jobs_are_counted_by_phase_and_the_queue_by_what_is_due() -> None:
    async def run() -> str:
        store, queue, metrics = Store(), WorkQueue(), Metrics()
        for name, phase in (("a", "Running"), ("b", "Running"), ("c", None)):
            store.absorb(FINETUNEJOB, job(name, phase))
        queue.add(Key("team", "a"))
        queue.add(Key("team", "b"), after=60)
        metrics.watch(store, queue)
        metrics.heard(FINETUNEJOB)
        return metrics.text().decode()

    text = asyncio.run(run())
    assert value(text, 'phitune_operator_jobs{phase="Running"}') == 2
    assert value(text, 'phitune_operator_jobs{phase="Pending"}') == 1
    assert value(text, 'phitune_operator_jobs{phase="Failed"}') == 0
    assert value(text, "phitune_operator_queue_depth") == 1
    assert 0 <= value(text, 'phitune_operator_watch_event_age_seconds{kind="finetunejobs"}') < 60


def test_a_restart_counts_once_with_its_cause() -> None:
    def restarting(status: str, reason: str) -> dict[str, Any]:
        return {"conditions": [{"type": "Restarting", "status": status, "reason": reason}]}

    metrics = Metrics()
    assert value(metrics.text().decode(), 'phitune_operator_restarts_total{cause="Evicted"}') == 0
    metrics.status_written({}, restarting("True", "Evicted"))
    metrics.status_written(restarting("True", "Evicted"), restarting("True", "Evicted"))
    metrics.status_written(restarting("True", "Evicted"), restarting("False", "Restarted"))
    metrics.status_written(restarting("False", "Restarted"), restarting("True", "Fault"))
    text = metrics.text().decode()
    assert value(text, 'phitune_operator_restarts_total{cause="Evicted"}') == 1
    assert value(text, 'phitune_operator_restarts_total{cause="Fault"}') == 1
    assert "Restarted" not in text


async def answer(request: web.Request) -> web.Response:
    """An API server that knows no job but `digits`, and no kind of object to list."""
    if request.path.endswith("/digits"):
        return web.json_response({"metadata": {"name": "digits"}})
    return web.json_response({"reason": "NotFound", "message": "there is none"}, status=404)


def test_calls_to_the_api_server_are_counted_by_verb_and_code() -> None:
    async def run() -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        metrics = Metrics()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        kube = Kube(client.ApiClient(client.Configuration(host=url)), metrics)
        try:
            assert await kube.get(FINETUNEJOB, "team", "digits") is not None
            assert await kube.get(FINETUNEJOB, "team", "other") is None
            with pytest.raises(ApiError):
                await kube.list(FINETUNEJOB)
            await runner.cleanup()
            with pytest.raises(ApiError, match="did not answer"):
                await kube.get(FINETUNEJOB, "team", "digits")
        finally:
            await kube.close()
        return metrics.text().decode()

    text = asyncio.run(run())
    name = "phitune_operator_api_request_seconds_count"
    counted = {("get", 200): 1, ("get", 404): 1, ("list", 404): 1, ("get", 0): 1}
    for (verb, code), times in counted.items():
        assert value(text, f'{name}{{code="{code}",verb="{verb}"}}') == times


def test_metrics_are_read_where_the_probes_are() -> None:
    async def run() -> tuple[str, str]:
        port = free_port()
        runner = await Health(Metrics()).serve(port)
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.headers["Content-Type"], await response.text()
        finally:
            await runner.cleanup()

    kind, text = asyncio.run(run())
    assert kind.startswith("text/plain; version=0.0.4")
    assert "# TYPE phitune_operator_reconcile_seconds histogram" in text
