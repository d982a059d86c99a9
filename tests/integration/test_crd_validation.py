"""What a real API server accepts and refuses: the same table that `phitune render` is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from harness.cluster import REPOSITORY, Cluster, CommandError
from harness.crd import installed_crd
from harness.documents import ACCEPTED, Refused, job
from harness.fuzz import documents, wishful_documents
from harness.planned import outcome
from harness.pods_of_templates import pods_of
from harness.refused import REFUSED
from phitune_operator.kinds import FINETUNEJOB, kind_of
from phitune_operator.validate import validate

pytestmark = pytest.mark.usefixtures("crd")

EXAMPLES = sorted(REPOSITORY.glob("examples/*.yaml"))


@pytest.fixture(scope="module")
def crd(cluster: Cluster) -> Iterator[None]:
    with installed_crd(cluster):
        yield


def dry_run(cluster: Cluster, document: dict[str, Any]) -> str:
    """`kubectl apply` without a trace; what it printed. CommandError if it is refused."""
    return cluster.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(document))


def send(cluster: Cluster, made: dict[str, Any]) -> str:
    """Create an object without a trace, much quicker than kubectl; what the API server says against it."""
    kind = FINETUNEJOB if made.get("kind") not in OTHERS else kind_of(made)
    request = cluster.api.param_serialize(
        "POST",
        f"{kind.path('default')}?dryRun=All&fieldValidation=Strict",
        header_params={"Content-Type": "application/json", "Accept": "application/json"},
        auth_settings=["BearerToken"],
        body=made,
    )
    answer = cluster.api.call_api(*request)
    body = json.loads(answer.read())  # type: ignore[no-untyped-call]
    said: str = body["message"] if answer.status >= 400 else ""
    return said


OTHERS = {"PersistentVolumeClaim", "NetworkPolicy", "ConfigMap", "Job", "PyTorchJob", "Pod"}
"""Kinds that are made for a job, and pods."""


def refusal(cluster: Cluster, text: str) -> str:
    """What `kubectl apply` says of a text that it must refuse."""
    with pytest.raises(CommandError) as refused:
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    return refused.value.stderr


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_good_document_is_accepted(cluster: Cluster, document: dict[str, Any]) -> None:
    dry_run(cluster, document)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.id)
def test_bad_document_is_refused_by_the_name_of_its_field(cluster: Cluster, row: Refused) -> None:
    said = send(cluster, row.document)
    assert said
    field = row.path.split(".")[-1].split("[")[0].split(" ")[0]
    assert field in said or row.path in ("apiVersion", "kind", "spec")


RULES_SAID_IN_FULL = {
    "lora with full": "spec.lora: not with method full",
    "epochs and maxSteps": "spec.training.epochs: not together with spec.training.maxSteps",
    "claim and size": "spec.storage.claimName: not together with spec.storage.size",
    "neither claim nor size": "spec.storage: claimName, a claim that exists, or size",
    "jsonl without data": "spec.data: task jsonl needs spec.data.path",
    "flash with fp16": "spec.training.attention: flash computes in bf16 only",
    "name too long": "metadata.name: must be at most 40 lower-case letters",
    "batch over ranks": "spec.training.globalBatchSize: must divide over nodes",
}


@pytest.mark.parametrize(
    "row", [row for row in REFUSED if row.id in RULES_SAID_IN_FULL], ids=lambda row: row.id
)
def test_rule_is_said_with_the_fields_full_path(cluster: Cluster, row: Refused) -> None:
    assert RULES_SAID_IN_FULL[row.id] in refusal(cluster, json.dumps(row.document))


def test_no_row_of_the_full_messages_is_lost() -> None:
    assert RULES_SAID_IN_FULL.keys() <= {row.id for row in REFUSED}


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_what_is_no_number_is_refused(cluster: Cluster, value: str) -> None:
    text = yaml.safe_dump(job()).replace("learningRate: 0.001", f"learningRate: {value}")
    assert value in text
    assert "unsupported value" in refusal(cluster, text)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_accepted(cluster: Cluster, file: Any) -> None:
    cluster.kubectl("apply", "--dry-run=server", "-f", str(file))


def test_defaults_that_depend_on_nothing_are_filled_in(cluster: Cluster) -> None:
    spec = json.loads(dry_run(cluster, ACCEPTED["smallest"]))["spec"]
    assert spec["freezeVision"] is False
    assert spec["storage"]["retain"] is True
    assert spec["resources"] == {"nodes": 2, "gpusPerNode": 8}
    assert spec["runPolicy"] == {"suspend": False, "restartLimit": 3, "stallTimeout": "40m"}
    assert spec["checkpoint"] == {"keep": 2}
    assert spec["training"]["precision"] == "auto"


def test_defaults_that_depend_on_other_fields_are_left_to_the_operator(cluster: Cluster) -> None:
    spec = json.loads(dry_run(cluster, ACCEPTED["smallest"]))["spec"]
    assert not {"model", "data", "lora"} & spec.keys()
    assert not {"epochs", "globalBatchSize", "learningRate", "warmupSteps"} & spec["training"].keys()


def test_server_and_render_agree_on_random_jobs(cluster: Cluster) -> None:
    num_accepted = 0

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(documents() | wishful_documents())
    def agree(document: dict[str, Any]) -> None:
        nonlocal num_accepted
        problems = validate(document)
        said = send(cluster, document)
        assert bool(said) == bool(problems), (said, problems)
        num_accepted += not problems

    agree()
    assert num_accepted > 20


def test_server_takes_everything_that_comes_of_random_jobs(cluster: Cluster) -> None:
    num_taken = 0

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(documents() | wishful_documents())
    def taken(document: dict[str, Any]) -> None:
        nonlocal num_taken
        if validate(document):
            return
        for made in outcome(document, namespace="default").objects:
            assert not send(cluster, made), made
            num_taken += 1
            for pod in pods_of([made] if made["kind"] == "PyTorchJob" else []):
                pod["spec"].pop("priorityClassName", None)  # there is none, which is not for a schema to see
                assert not send(cluster, pod), pod

    taken()
    assert num_taken > 50
