"""The cache of what watches tell, and the order in which jobs are looked at."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from phitune_operator.handlers import take_in
from phitune_operator.kinds import FINETUNEJOB, POD, Key
from phitune_operator.names import LABEL_JOB, LABEL_RANK
from phitune_operator.queue import FIRST_BACKOFF, LONGEST_AFTER_REFUSAL, LONGEST_BACKOFF, WorkQueue, work
from phitune_operator.store import NUM_UNPACKED, Store

KEY = Key("team", "digits")


def pod(version: int, uid: str = "u1", **more: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": "team", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": {LABEL_JOB: "digits"}, "managedFields": ["long"], **more}}


def test_older_news_change_nothing() -> None:
    store = Store()
    assert store.absorb(POD, pod(10)) == KEY
    assert store.absorb(POD, pod(9)) is None
    assert store.absorb(POD, pod(10)) is None
    assert store.children(KEY, POD)[0]["metadata"]["resourceVersion"] == "10"
    assert "managedFields" not in store.children(KEY, POD)[0]["metadata"]


def test_deleted_object_does_not_come_back_with_late_news() -> None:
    store = Store()
    store.absorb(POD, pod(10))
    assert store.absorb(POD, pod(11), deleted=True) == KEY
    assert store.absorb(POD, pod(10)) is None
    assert store.children(KEY, POD) == []


def test_last_words_that_come_with_the_deletion_of_rank_zero_are_kept_as_long_as_the_job() -> None:
    store = Store()
    labels = {LABEL_JOB: "digits", LABEL_RANK: "0"}
    store.absorb(FINETUNEJOB, {"metadata": {"name": "digits", "namespace": "team", "uid": "j"}})
    store.absorb(POD, pod(10, labels=labels))
    gone = {**pod(11, labels=labels), "status": {"phase": "Failed"}}
    assert store.absorb(POD, gone, deleted=True) == KEY
    farewell = store.farewell(KEY)
    assert farewell is not None
    assert farewell["status"] == {"phase": "Failed"}
    store.absorb(FINETUNEJOB, {"metadata": {"name": "digits", "namespace": "team", "uid": "j"}}, deleted=True)
    assert store.farewell(KEY) is None


def test_late_deletion_does_not_touch_the_next_object_of_the_name() -> None:
    store = Store()
    store.absorb(POD, pod(10))
    store.absorb(POD, pod(20, uid="u2"))
    assert store.absorb(POD, pod(15), deleted=True) is None
    assert [obj["metadata"]["uid"] for obj in store.children(KEY, POD)] == ["u2"]


def test_late_news_of_an_earlier_object_of_the_name_do_not_bring_it_back() -> None:
    store = Store()
    store.absorb(POD, pod(20, uid="u2"))
    assert store.absorb(POD, pod(10)) is None
    assert store.absorb(POD, pod(15), deleted=True) is None
    assert [obj["metadata"]["uid"] for obj in store.children(KEY, POD)] == ["u2"]


def test_resync_drops_what_is_gone_and_keeps_what_came_after_the_list() -> None:
    store = Store()
    store.absorb(POD, pod(10))
    known_before = store.uids(POD)
    store.absorb(POD, {**pod(30, uid="u9"), "metadata": {**pod(30, uid="u9")["metadata"], "name": "new"}})
    assert store.replace(POD, [], known_before=known_before) == {KEY}
    assert [obj["metadata"]["name"] for obj in store.children(KEY, POD)] == ["new"]


def test_resync_that_agrees_changes_nothing() -> None:
    store = Store()
    store.absorb(FINETUNEJOB, pod(10))
    assert store.replace(FINETUNEJOB, [pod(10)], known_before=store.uids(FINETUNEJOB)) == set()


def test_metadata_alone_shows_which_jobs_a_watch_has_kept_silent_about() -> None:
    def found(name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(version)}}

    store = Store()
    for name in ("same", "changed", "gone"):
        store.absorb(FINETUNEJOB, found(name, 10))
    known_before = store.uids(FINETUNEJOB)
    store.absorb(FINETUNEJOB, found("came-meanwhile", 30))
    store.absorb(FINETUNEJOB, found("went-meanwhile", 11))
    store.absorb(FINETUNEJOB, found("went-meanwhile", 12), deleted=True)
    listed = [found("same", 10), found("changed", 20), found("new", 20), found("went-meanwhile", 11)]
    lacking = store.lacking(FINETUNEJOB, listed, known_before=known_before)
    assert lacking == {Key("team", name) for name in ("changed", "new", "gone")}
    assert store.drop(FINETUNEJOB, {"gone"}) == {Key("team", "gone")}
    assert store.job(Key("team", "gone")) is None


def test_jobs_are_counted_by_their_newest_phase_until_they_are_deleted() -> None:
    def job(version: int, phase: str | None) -> dict[str, Any]:
        return {**pod(version), **({"status": {"phase": phase}} if phase else {})}

    store, key = Store(), Key("team", "p")
    store.absorb(FINETUNEJOB, job(1, None))
    assert (store.count("Pending"), store.unfinished(), store.ended()) == (1, [key], [])
    store.absorb(FINETUNEJOB, job(2, "Running"))
    store.absorb(FINETUNEJOB, job(3, "Failed"))
    assert (store.count("Pending"), store.count("Running"), store.count("Failed")) == (0, 0, 1)
    assert (store.unfinished(), store.ended()) == ([], [key])
    store.absorb(FINETUNEJOB, job(4, "Failed"), deleted=True)
    assert store.count("Failed") == 0


def test_a_job_that_has_ended_takes_a_tenth_of_the_memory_of_its_objects() -> None:
    def large(number: int) -> dict[str, Any]:
        env = [{"name": f"VARIABLE_{index}", "value": f"value {index} of {number}"} for index in range(60)]
        return {**pod(1, uid=f"u{number}"), "spec": {"containers": [{"env": env}]}}

    def held(take: Callable[[int], object]) -> int:
        tracemalloc.start()
        kept = [take(number) for number in range(NUM_UNPACKED, NUM_UNPACKED + 300)]
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(kept) == 300
        return size

    store = Store()

    def named(number: int) -> dict[str, Any]:
        made = large(number)
        made["metadata"]["name"] = f"p{number}"
        return made

    assert held(lambda number: store.absorb(POD, named(number))) < held(named) / 10
    assert store.children(KEY, POD)[7]["spec"] == large(NUM_UNPACKED + 7)["spec"]


def test_many_triggers_are_one_look_and_one_during_a_look_is_another() -> None:
    async def run() -> None:
        queue = WorkQueue()
        queue.add(KEY, after=100)
        queue.add(KEY)
        queue.add(KEY)
        assert await queue.take() == KEY
        queue.add(KEY)
        other = Key("team", "other")
        queue.add(other)
        assert await queue.take() == other, "nobody looks at a job twice at once"
        queue.done(KEY)
        assert await asyncio.wait_for(queue.take(), 1) == KEY
        assert len(queue) == 0

    asyncio.run(run())


def test_a_job_is_looked_at_when_it_changes_and_once_for_what_its_pods_do_in_one_go() -> None:
    def told(version: int) -> Any:
        return {"type": "MODIFIED", "object": pod(version)}

    async def run() -> None:
        store, queue = Store(), WorkQueue()
        take_in(store, queue, POD, told(1))
        take_in(store, queue, POD, told(2))
        assert (len(queue), queue.depth()) == (1, 0)
        take_in(store, queue, FINETUNEJOB, told(3))
        assert queue.depth() == 1
        assert await queue.take() == Key("team", "p")
        assert await asyncio.wait_for(queue.take(), 1) == KEY
        take_in(store, queue, POD, told(2))
        assert len(queue) == 0, "that was known"

    asyncio.run(run())


def test_what_comes_wakes_one_worker_and_not_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda pause: waits.append(pause) or timeout(pause))

    async def run() -> None:
        queue = WorkQueue()
        workers = [asyncio.create_task(queue.take()) for _ in range(16)]
        await asyncio.sleep(0.01)
        queue.add(KEY)
        await asyncio.sleep(0.01)
        assert sum(worker.done() for worker in workers) == 1
        for worker in workers:
            worker.cancel()

    asyncio.run(run())
    assert len(waits) == 2, "one waited, and the next one does"


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_ends_when_it_is_told_to_whatever_comes_in_that_moment(steps: int) -> None:
    async def scenario() -> bool:
        queue = WorkQueue()

        async def look(_: Key) -> None:
            """Nothing to do."""

        worker = asyncio.create_task(work(queue, look))
        queue.add(Key("team", "later"), after=60)
        await asyncio.sleep(0.01)
        queue.add(KEY)
        for _ in range(steps):
            await asyncio.sleep(0)
        worker.cancel()
        done, _ = await asyncio.wait([worker], timeout=1)
        worker.cancel()
        return bool(done)

    assert asyncio.run(scenario())


def test_failures_wait_longer_each_time_until_one_look_goes_well() -> None:
    async def run() -> None:
        queue = WorkQueue(jitter=lambda: 1.0)
        pauses = [queue.retry(KEY) for _ in range(12)]
        assert pauses[:3] == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF]
        assert pauses[-1] == LONGEST_BACKOFF
        assert queue.retry(KEY, at_most=LONGEST_AFTER_REFUSAL) == LONGEST_AFTER_REFUSAL == 30.0
        queue.forget_failures(KEY)
        assert queue.retry(KEY) == FIRST_BACKOFF

    asyncio.run(run())
