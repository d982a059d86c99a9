"""What changing each field of a job that is there does: refused, at once, or from the next pods on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from harness.operator_view import PREPARED, condition, gang, observed, pod, subject
from phitune_operator.kinds import CONFIG_MAP, JOB, PYTORCHJOB, Kind, Object
from phitune_operator.observed import Create, Delete, Observed, Plan, Settings
from phitune_operator.plan import plan
from phitune_operator.render.config_map import config_map
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.subject import OF_PODS
from phitune_operator.render.volume import claim
from phitune_operator.rules import IMMUTABLE
from phitune_operator.schema import object_schema

TOLERATION = {"key": "a", "operator": "Exists"}
NEXT_PODS: dict[str, Any] = {
    # Fields whose change counts for pods that are yet to come, with a value each.
    "image": "trainer:2",
    "imagePullSecrets": [{"name": "pull"}],
    "env": [{"name": "A", "value": "b"}],
    "podTemplate": {"schedulerName": "volcano"},
    "resources.cpu": "3",
    "resources.memory": "7Gi",
    "resources.sharedMemory": "99Mi",
    "resources.tolerations": [TOLERATION],
    "resources.nodeSelector": {"a": "b"},
    "resources.priorityClassName": "high",
}
AT_ONCE: dict[str, Any] = {
    # Fields whose change counts at once, whatever runs.
    "runPolicy.suspend": True,
    "runPolicy.restartLimit": 0,
    "runPolicy.stallTimeout": "1h",
    "runPolicy.activeDeadline": "1s",
    "runPolicy.ttlAfterFinished": "1s",
}
VOLUME, CONFIG = claim(subject()), config_map(subject())


def nested(path: str, value: Any) -> Object:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def leaves(schema: Object, path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield from leaves(field, here) if "properties" in field else [here]


def paths_of_pods() -> set[str]:
    flat = {to_camel(name) for name, parts in OF_PODS.items() if parts is True}
    return flat | {f"resources.{to_camel(part)}" for part in OF_PODS["resources"]}  # type: ignore[union-attr]


def is_of(path: str, fields: Any) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)


def test_every_field_is_refused_or_counts_at_once_or_for_the_next_pods() -> None:
    fields = list(leaves(object_schema()["properties"]["spec"]))
    assert len(fields) > 60
    ways = {path: [is_of(path, way) for way in (IMMUTABLE, paths_of_pods(), AT_ONCE)] for path in fields}
    assert [path for path, way in ways.items() if sum(way) != 1] == []
    assert paths_of_pods() == {*NEXT_PODS, "queueName"}, "queueName stands in the tests of queues"


def seen(spec: Object, pods: Any, status: Object | None = None, **more: Any) -> Observed:
    """A job whose first gang was made before its spec became this."""
    known = {"claim": VOLUME, "config_map": CONFIG, "gangs": (gang(),), "pods": pods}
    return observed(spec, copy.deepcopy(PREPARED) if status is None else status, **{**known, **more})


def gone(todo: Plan) -> list[Kind]:
    return [action.kind for action in todo.actions if isinstance(action, Delete)]


@pytest.mark.parametrize("path", NEXT_PODS)
def test_change_leaves_pods_that_run_alone_and_says_from_when_it_counts(path: str) -> None:
    todo = plan(seen(nested(path, NEXT_PODS[path]), (pod(0), pod(1))))
    assert todo.actions == ()
    assert "counts from the next attempt on" in condition(todo.status, "Accepted")["message"]
    unchanged = plan(seen({}, (pod(0), pod(1))))
    assert "next attempt" not in condition(unchanged.status, "Accepted")["message"]


@pytest.mark.parametrize("path", NEXT_PODS)
def test_change_replaces_pods_that_have_not_begun(path: str) -> None:
    waiting = (pod(0), replace(pod(1, phase="Pending"), is_ready=False))
    todo = plan(seen(nested(path, NEXT_PODS[path]), waiting))
    assert gone(todo) == [PYTORCHJOB]
    assert todo.status["failure"]["reason"] == "SpecChanged"
    assert "restartsCounted" not in todo.status
    assert gone(plan(seen({}, waiting))) == []


@pytest.mark.parametrize("path", NEXT_PODS)
def test_change_shows_in_the_next_attempt(path: str) -> None:
    ended = {**copy.deepcopy(PREPARED), "attempt": 1}
    ended["conditions"].append({"type": "Restarting", "status": "True", "reason": "Evicted"})

    def next_gang(spec: Object) -> Object:
        made = [act.body for act in plan(seen(spec, (), ended, gangs=())).actions if isinstance(act, Create)]
        (gang_made,) = [body for body in made if body["kind"] == PYTORCHJOB.kind]
        return dict(gang_made["spec"])

    assert next_gang(nested(path, NEXT_PODS[path])) != next_gang({})


def test_change_replaces_a_prepare_pod_that_waits_and_no_other() -> None:
    waiting = replace(pod(0, phase="Pending"), attempt=None, is_ready=False)
    known: Any = {"claim": VOLUME, "config_map": CONFIG, "prepare": prepare_job(subject()) | {"status": {}}}
    known["prepare"]["metadata"]["uid"] = "p"
    changed = nested("resources.nodeSelector", {"a": "b"})
    assert gone(plan(observed(changed, pods=(waiting,), **known))) == [JOB]
    assert gone(plan(observed({}, pods=(waiting,), **known))) == []
    runs = replace(waiting, phase="Running", is_ready=True)
    assert gone(plan(observed(changed, pods=(runs,), **known))) == []


@pytest.mark.parametrize(
    ("path", "phase"), [("runPolicy.suspend", "Suspended"), ("runPolicy.activeDeadline", "Failed")]
)
def test_policy_that_stops_a_job_counts_at_once(path: str, phase: str) -> None:
    status = {**copy.deepcopy(PREPARED), "startTime": "2026-01-01T11:00:00Z"}
    todo = plan(seen(nested(path, AT_ONCE[path]), (pod(0), pod(1)), status))
    assert todo.status["phase"] == phase


def test_change_of_a_policy_makes_no_new_pods() -> None:
    for path in ("runPolicy.restartLimit", "runPolicy.stallTimeout", "runPolicy.ttlAfterFinished"):
        waiting = (pod(0), replace(pod(1, phase="Pending"), is_ready=False))
        assert plan(seen(nested(path, AT_ONCE[path]), waiting)).actions == ()


def test_upgrade_of_the_operator_touches_no_pod_and_a_later_restart_runs_what_was_pinned() -> None:
    """The new version has another image of its own, and would write another config."""
    upgraded = Settings(trainer_image="trainer:of-a-later-version")
    waiting = replace(pod(1, phase="Pending"), is_ready=False)
    for pods in ((pod(0), pod(1)), (pod(0), waiting)):
        assert plan(replace(seen({}, pods), settings=upgraded)).actions == ()
    failed = plan(replace(seen({}, (pod(0, code=1), pod(1, code=1))), settings=upgraded))
    after = seen({}, (), failed.status, gangs=())
    made = {
        action.kind: action.body
        for action in plan(replace(after, settings=upgraded)).actions
        if isinstance(action, Create)
    }
    assert CONFIG_MAP not in made, "the config stays as it was"
    template = made[PYTORCHJOB]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert template["spec"]["containers"][0]["image"] == "trainer:1"
