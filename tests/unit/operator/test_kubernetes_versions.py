"""What we make has no field that a version of Kubernetes lacks, or takes for something else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import yaml

from harness.cluster import REPOSITORY, Object
from harness.documents import ACCEPTED
from harness.kubernetes_versions import MINORS, is_known, problems, problems_of_part
from harness.operator_view import NOON, observed, subject
from harness.planned import outcome
from phitune_cli.finetune.helper_pod import manifest
from phitune_operator.apply import announce
from phitune_operator.kinds import JOBSET, PYTORCHJOB, TRAINING_RUNTIME, TRAINJOB, Kind
from phitune_operator.kube import Kube
from phitune_operator.leader import Leadership
from phitune_operator.observed import Announcement
from phitune_operator.render.gang import RENDERERS, with_needs

EACH_MINOR = pytest.mark.parametrize("minor", MINORS)
CRD = REPOSITORY / "crds" / "phitune.dev_finetunejobs.yaml"
FUNCTIONS = {
    *("all", "exists", "filter", "has", "map", "matches", "size", "startsWith", "string", "sum", "duration"),
    *("compareTo", "quantity"),  # since 1.28
}
"""What rules in a CRD may call in all of these versions, as far as ours do."""


@cache
def definition() -> Object:
    return dict(yaml.safe_load(CRD.read_text(encoding="utf-8")))


@cache
def all_made() -> list[Object]:
    return [*made_for_jobs(), *written_by_the_way()]


def made_for_jobs() -> Iterator[Object]:
    """All that is made for the jobs that we know to be accepted, and gangs of every kind."""
    for name, document in ACCEPTED.items():
        if name != "pod template":  # a tenant's own nonsense, passed on as it is
            yield from outcome(document).objects
    for backend in RENDERERS:
        yield from with_needs(replace(subject(), backend=backend), 1)


class Listener:
    """An API server where nothing is yet, and that remembers what is made."""

    def __init__(self) -> None:
        self.made: list[Object] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> None:
        return None

    async def create(self, kind: Kind, body: Object) -> Object:
        self.made.append(body)
        return body


def written_by_the_way() -> list[Object]:
    """An Event, the Lease, and the plugin's pod."""
    listener = Listener()
    kube = cast(Kube, listener)

    async def write() -> None:
        await announce(kube, observed().raw, [Announcement(reason="A", message="b")], now=NOON)
        await Leadership(kube, "phitune-system", "phitune", "me").acquire(lambda: None)

    asyncio.run(write())
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    beside = [{"spec": {"nodeName": "node-1", "tolerations": [toleration]}}]
    helper = manifest("helper", "mine", "trainer:1", pull_secrets=["pull"], beside=beside)
    return [*listener.made, helper]


def parts(document: Object) -> Iterator[tuple[str, Any]]:
    """What a gang holds of Kubernetes' own: type and value."""
    yield "ObjectMeta", document["metadata"]
    spec = document["spec"]
    match document["kind"]:
        case PYTORCHJOB.kind:
            yield from (("PodTemplateSpec", one["template"]) for one in spec["pytorchReplicaSpecs"].values())
        case JOBSET.kind:
            yield from (("JobTemplateSpec", one["template"]) for one in spec["replicatedJobs"])
        case TRAINING_RUNTIME.kind:
            yield from parts({**spec["template"], "kind": JOBSET.kind})
        case kind:
            assert kind == TRAINJOB.kind  # it names a runtime, and holds nothing


@EACH_MINOR
def test_all_that_the_operator_makes_means_the_same(minor: str) -> None:
    kinds = set()
    for document in all_made():
        kinds.add(document["kind"])
        if is_known(document):
            assert problems(document, minor) == []
        else:
            assert [
                said for name, part in parts(document) for said in problems_of_part(part, name, minor)
            ] == []
    assert kinds == {
        *("PersistentVolumeClaim", "ConfigMap", "NetworkPolicy", "Job"),
        *("PyTorchJob", "JobSet", "TrainJob", "TrainingRuntime"),
        *("Event", "Lease", "Pod"),
    }


@EACH_MINOR
def test_custom_resource_definition_means_the_same(minor: str) -> None:
    assert problems(definition(), minor) == []


def test_rules_of_the_custom_resource_call_functions_that_the_oldest_version_has() -> None:
    rules = re.findall(r"rule: (.*?)\n +(?:- |[a-z]+:|\w)", CRD.read_text(encoding="utf-8"), re.DOTALL)
    called = {name for rule in rules for name in re.findall(r"(\w+)\(", rule)}
    assert called == FUNCTIONS


def test_oldest_version_that_is_checked_is_the_oldest_that_the_chart_installs_on() -> None:
    chart = yaml.safe_load((REPOSITORY / "charts/phitune/Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={MINORS[0]}.0-0"


POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a"},
    "spec": {"containers": [{"name": "a"}]},
}


@pytest.mark.parametrize(
    ("spec", "minor", "said"),
    [
        pytest.param({"resources": {}}, "1.31", "Pod.spec.resources is not in 1.31", id="too new"),
        pytest.param({"resources": {}}, "1.32", "Pod.spec.resources is alpha in 1.32", id="behind a gate"),
        pytest.param({"hostname": 5}, "1.30", "Pod.spec.hostname is 5", id="another type"),
        pytest.param({"priority": True}, "1.30", "Pod.spec.priority is True", id="no integer"),
        pytest.param({"containers": None}, "1.30", "Pod.spec.containers is None", id="nothing"),
        pytest.param(
            {"containers": [{"image": "b"}]},
            "1.30",
            "Pod.spec.containers[0].name is needed in 1.30",
            id="needed",
        ),
    ],
)
def test_a_version_that_would_not_take_a_pod_as_it_is_meant_is_named(
    spec: Object, minor: str, said: str
) -> None:
    assert problems(POD, minor) == []
    assert problems({**POD, "spec": {**POD["spec"], **spec}}, minor) == [said]
