"""A gang that hangs is told from one that is slow, and from one that cannot be heard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from harness.operator_view import PREPARED, condition, gang, observed, pod
from phitune_operator.kinds import Key
from phitune_operator.names import PROGRESS_PORT
from phitune_operator.observed import Delete
from phitune_operator.plan import plan
from phitune_operator.policies.gang_end import Verdict
from phitune_operator.policies.stall import how_it_stalled
from phitune_operator.progress import ProgressPoller, open_session
from phitune_operator.reports import ProgressReport, read_progress

KEY = Key("team", "digits")
LIMIT = timedelta(minutes=30)
HOST = "127.0.0.83"


def said(**changes: Any) -> ProgressReport:
    known = {"attempt": 1, "state": "training", "step": 7, "totalSteps": 10, "percent": 70.0}
    report = read_progress(json.dumps({**known, "updatedAt": "2026-01-01T12:00:00Z", **changes}))
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("pods", "progress", "silence", "is_stalled"),
    [
        pytest.param((pod(0), pod(1)), said(), timedelta(minutes=29), False, id="slow"),
        pytest.param((pod(0), pod(1)), said(), LIMIT, True, id="hangs"),
        pytest.param((pod(0), pod(1)), None, None, False, id="out of reach"),
        pytest.param((pod(0), pod(1)), None, LIMIT, True, id="takes connections and never answers"),
        pytest.param((pod(0), pod(1)), said(state="loading"), LIMIT, False, id="loads"),
        pytest.param(
            (pod(0), replace(pod(1), is_ready=False)), said(), LIMIT, False, id="not all of it runs"
        ),
        pytest.param((pod(0), pod(1, code=0)), said(), LIMIT, True, id="hangs at its end"),
        pytest.param((pod(0), pod(1, code=1)), said(), LIMIT, False, id="a pod has ended: that is the cause"),
        pytest.param(
            (pod(0), pod(1, deletionTimestamp="2026-01-01T12:02:00Z")), said(), LIMIT, False, id="going away"
        ),
    ],
)
def test_verdict(pods: Any, progress: Any, silence: Any, is_stalled: bool) -> None:
    end = how_it_stalled(pods, progress, silence=silence, limit=LIMIT)
    assert (end is not None) == is_stalled
    if end is not None:
        assert (end.verdict, end.reason, end.pod) == (Verdict.FAULT, "Stalled", pods[0])


def test_restart_names_the_silence_the_limit_and_the_last_step() -> None:
    seen = observed(
        {"runPolicy": {"stallTimeout": "90s"}},
        status=PREPARED,
        claim={"metadata": {"name": "digits-workspace"}},
        gangs=(gang(),),
        pods=(pod(0), pod(1)),
        progress=said(),
        silence=timedelta(seconds=95),
    )
    todo = plan(seen)
    assert todo.status["failure"]["reason"] == "Stalled"
    assert todo.status["failure"]["pod"] == "digits-1-master-0"
    assert todo.status["restartsCounted"] == 1
    message = condition(todo.status, "Restarting")["message"]
    assert "no sign of life for 1m35s (stallTimeout is 1m30s)" in message
    assert "training, at step 7 of 10" in message
    assert [action.name for action in todo.actions if isinstance(action, Delete)] == ["digits-1"]


class RankZero:
    """A process that says what it is told to; None: it takes connections and is silent."""

    def __init__(self) -> None:
        self.words: dict[str, Any] | None = None
        self.hangs = False
        self.num_asked = 0
        self.callers: set[tuple[str, int]] = set()
        """Address and port of whoever asked."""

    async def answer(self, request: web.Request) -> web.Response:
        self.num_asked += 1
        assert request.transport is not None
        self.callers.add(request.transport.get_extra_info("peername"))
        if self.hangs:
            await asyncio.Event().wait()
        if self.words is None:
            raise web.HTTPServiceUnavailable
        return web.json_response(self.words)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/progress", self.answer)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, PROGRESS_PORT).start()
            yield
        finally:
            await runner.cleanup()


def words(**changes: Any) -> dict[str, Any]:
    return said(**changes).model_dump(mode="json", by_alias=True)


class Firewall:
    """A session none of whose connections is made, and how often it was tried."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.tried = 0

    def get(self, *_: Any, **__: Any) -> Any:
        self.tried += 1
        raise self.error


UNUSED: Any = None
REFUSED = aiohttp.ClientConnectorError(UNUSED, OSError("refused"))


@pytest.mark.parametrize(("error", "tried"), [(aiohttp.ConnectionTimeoutError(), 1), (REFUSED, 3)])
def test_who_keeps_the_operator_out_does_not_keep_its_workers_waiting_all_the_time(
    error: Exception, tried: int
) -> None:
    async def run() -> None:
        firewall = Firewall(error)
        poller = ProgressPoller(firewall)  # type: ignore[arg-type]
        for _ in range(3):
            assert await poller.poll(KEY, "a", HOST, at_most_every=0) == (None, None)
        assert firewall.tried == tried
        await poller.poll(KEY, "b", HOST, at_most_every=0)
        assert firewall.tried == tried + 1, "another pod may be within reach"

    asyncio.run(run())


def test_the_next_question_is_due_by_the_last_one_whatever_is_looked_at_between() -> None:
    async def run() -> None:
        rank_zero = RankZero()
        rank_zero.words = words()
        async with rank_zero.listening(), open_session() as session:
            poller = ProgressPoller(session)
            assert poller.due_in(KEY, every=10) == 10, "nobody was asked"
            for _ in range(2):
                await poller.poll(KEY, "a", HOST, at_most_every=10)
                await asyncio.sleep(0.1)
            assert rank_zero.num_asked == 1
            assert 9 < poller.due_in(KEY, every=10) <= 9.8
            assert poller.due_in(KEY, every=0.2) == 0.2, "there is nobody to be asked at once"

    asyncio.run(run())


def test_each_question_is_a_connection_of_its_own_so_that_a_new_network_policy_counts_at_once() -> None:
    async def run() -> None:
        rank_zero = RankZero()
        rank_zero.words = words()
        async with rank_zero.listening(), open_session() as session:
            poller = ProgressPoller(session)
            for _ in range(3):
                report, _ = await poller.poll(KEY, "a", HOST, at_most_every=0)
                assert report is not None
        assert (rank_zero.num_asked, len(rank_zero.callers)) == (3, 3)

    asyncio.run(run())


def test_who_takes_connections_and_never_answers_does_not_keep_workers_waiting_at_each_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phitune_operator.progress.TIMEOUT", 1.0)

    async def run() -> None:
        rank_zero = RankZero()
        rank_zero.hangs = True
        async with rank_zero.listening(), open_session() as session:
            poller = ProgressPoller(session)
            for _ in range(5):
                await poller.poll(KEY, "a", HOST, at_most_every=0)
            assert rank_zero.num_asked == 2, "it may have been busy once"

    asyncio.run(run())


def test_silence_counts_for_who_can_be_reached_and_has_nothing_new_to_say() -> None:
    async def run() -> None:
        rank_zero = RankZero()
        async with open_session() as session:
            poller = ProgressPoller(session)

            async def silence(uid: str = "a") -> float | None:
                await asyncio.sleep(0.1)
                _, known = await poller.poll(KEY, uid, HOST, at_most_every=0)
                return None if known is None else known.total_seconds()

            assert await silence() is None, "nobody listens there yet"
            async with rank_zero.listening():
                rank_zero.words = words()
                assert [await silence(), await silence()] == [None, None], "one old answer tells nothing"
                first = await silence()
                rank_zero.words = None
                second = await silence()
                assert first is not None
                assert second is not None
                assert 0.2 < first < second, "neither the same answer nor none is a sign of life"
                rank_zero.words = words(updatedAt="2026-01-01T11:00:00Z")
                assert await silence() is None, "a clock that was set back is still a sign of life"
                assert [await silence(), (await silence() or 0) > 0] == [None, True]
                assert await silence("b") is None, "another pod at the same address has just been met"
            assert await silence("b") is None, "who cannot be reached may well work"
            async with rank_zero.listening():
                assert [await silence("b"), await silence("b")] == [None, None], (
                    "nor does that time count later"
                )

    asyncio.run(run())
