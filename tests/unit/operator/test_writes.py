"""What the operator writes: never over what somebody else has made, and an Event once, however often."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest

from harness.jobs import finetunejob
from harness.operator_view import NOON, UID, subject
from harness.simulated_cluster import SimulatedCluster
from phitune_operator.apply import announce, carry_out
from phitune_operator.kinds import CLAIM, EVENT, Kind, Object, kind_of, name_of
from phitune_operator.kube import ApiError
from phitune_operator.observed import Announcement, Create
from phitune_operator.refusals import NAME_COLLISION, Refusal
from phitune_operator.render import render_job
from phitune_operator.render.gang import with_needs
from phitune_operator.render.jobset import jobset
from phitune_operator.render.trainjob import training_runtime
from phitune_operator.store import Store

RUNTIME = training_runtime(subject(), 1)
OBJECTS = {obj["kind"]: obj for obj in [*render_job(subject()), RUNTIME]}
THEIRS: Object = {"labels": {"app": "theirs"}, "ownerReferences": []}


def job() -> Object:
    made = finetunejob("digits")
    made["metadata"] |= {"namespace": "team", "uid": UID, "resourceVersion": "1"}
    return made


def create(cluster: SimulatedCluster, body: Object) -> Refusal | None:
    kube: Any = cluster
    return asyncio.run(carry_out(kube, Store(), [Create.of(body)], owner=job()))


@pytest.mark.parametrize("kind", OBJECTS)
def test_object_of_somebody_elses_is_left_as_it_is(kind: str) -> None:
    cluster, body = SimulatedCluster(), OBJECTS[kind]
    theirs = copy.deepcopy(body)
    theirs["metadata"] |= THEIRS
    before = copy.deepcopy(cluster.put_new(theirs))
    refusal = create(cluster, body)
    assert refusal is not None
    assert refusal.reason == NAME_COLLISION
    assert f"{kind} {name_of(body)}" in refusal.message
    assert list(cluster.objects.values()) == [before]


@pytest.mark.parametrize("kind", OBJECTS)
def test_object_of_an_earlier_job_of_the_name_is_waited_for_and_never_used(kind: str) -> None:
    cluster, body = SimulatedCluster(), OBJECTS[kind]
    earlier = copy.deepcopy(body)
    earlier["metadata"]["ownerReferences"] = [{"uid": "an-earlier-one", "controller": True}]
    earlier["metadata"]["labels"]["phitune.dev/job-uid"] = "an-earlier-one"
    cluster.put_new(earlier)
    if kind_of(body) == CLAIM:
        assert create(cluster, body) is None, "the volume alone is taken up again"
    else:
        with pytest.raises(ApiError, match="of an earlier job is still being deleted"):
            create(cluster, body)


@pytest.mark.parametrize("kind", OBJECTS)
def test_object_that_an_earlier_pass_made_is_found_again(kind: str) -> None:
    cluster, body = SimulatedCluster(), OBJECTS[kind]
    assert create(cluster, body) is None
    assert create(cluster, body) is None
    assert len(cluster.objects) == 1


def test_a_trainjob_whose_runtime_its_controller_has_not_heard_of_yet_is_tried_again_without_a_word() -> None:
    cluster = SimulatedCluster()
    runtime, trainjob = with_needs(replace(subject(), backend="TrainJob"), 1)
    assert create(cluster, runtime) is None
    with pytest.raises(ApiError) as refused:
        create(cluster, trainjob)
    assert refused.value.conflict
    dict(cluster.moves())["hear of digits-1"]()
    assert create(cluster, trainjob) is None


def test_a_trainjob_waits_for_the_jobset_of_an_earlier_one_and_takes_over_no_other() -> None:
    runtime, trainjob = with_needs(replace(subject(), backend="TrainJob"), 1)
    cluster, below = SimulatedCluster(), jobset(subject(), 1)
    below["metadata"]["labels"]["phitune.dev/job-uid"] = "an-earlier-one"
    earlier = cluster.put_new(below)
    with pytest.raises(ApiError, match="JobSet digits-1 of an earlier job is still being deleted"):
        create(cluster, trainjob)
    cluster.forget(earlier)
    cluster.put_new({**below, "metadata": {**below["metadata"], **THEIRS}})
    refusal = create(cluster, trainjob)
    assert refusal is not None
    assert (refusal.reason, cluster.gangs_made) == (NAME_COLLISION, [])
    assert refusal.message.startswith(f"JobSet {name_of(runtime)} exists and was not made for this job")


class Events(SimulatedCluster):
    """Takes in changes of Events, which have no status."""

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        self.objects[kind, namespace, name].update(patch)
        return self.objects[kind, namespace, name]


def test_event_that_is_posted_again_counts_up() -> None:
    cluster = Events()
    kube: Any = cluster

    async def say(*messages: str) -> None:
        said = [Announcement(reason="NoImage", message=message) for message in messages]
        await announce(kube, job(), said, now=NOON)

    asyncio.run(say("image a cannot be pulled", "image b cannot be pulled"))
    asyncio.run(say("image a cannot be pulled"))
    counted = {event["message"]: event["count"] for event in cluster.of_kind(EVENT)}
    assert counted == {"image a cannot be pulled": 2, "image b cannot be pulled": 1}
