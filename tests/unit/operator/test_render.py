"""The rendered objects: the same bytes each time, restricted pods, and what trainer and gang rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from harness.operator_view import subject
from phitune_operator import names
from phitune_operator.api import DEFAULT_MODEL
from phitune_operator.kinds import Object, name_of
from phitune_operator.observed import HubAccess
from phitune_operator.render import render_job
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.volume import claim
from phitune_trainer.config import parse_config
from phitune_trainer.yaml_reader import read_document

GPU: Object = {
    "resources": {"gpusPerNode": 8, "cpu": None, "memory": None},
    "training": {"globalBatchSize": 16},
}


def templates(spec: Object | None = None) -> list[Object]:
    """Pod templates of the prepare Job, the master and the workers."""
    *_, prepare, gang = render_job(subject(spec))
    replicas = gang["spec"]["pytorchReplicaSpecs"]
    return [prepare["spec"]["template"], *(replicas[role]["template"] for role in ("Master", "Worker"))]


def test_same_job_gives_the_same_bytes() -> None:
    first, second = (json.dumps(render_job(subject(GPU))) for _ in range(2))
    assert first == second


def test_objects_and_their_names() -> None:
    assert [f"{obj['kind']}/{name_of(obj)}" for obj in render_job(subject())] == [
        "PersistentVolumeClaim/digits-workspace",
        "ConfigMap/digits-config",
        "Job/digits-prepare",
        "PyTorchJob/digits-1",
    ]


def test_config_that_pods_read_is_the_one_decided() -> None:
    config = render_job(subject())[1]
    assert config["immutable"] is True
    assert parse_config(read_document(config["data"]["train.yaml"])) == subject().train


@pytest.mark.parametrize("spec", [None, GPU], ids=["cpu", "gpu"])
def test_every_pod_is_restricted_and_has_no_credentials(spec: Object | None) -> None:
    for template in templates(spec):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_rank_zero_is_labelled_in_the_gang_alone() -> None:
    prepare, master, worker = (template["metadata"]["labels"] for template in templates())
    assert [names.LABEL_RANK in labels for labels in (prepare, master, worker)] == [False, True, False]


def test_one_node_has_no_workers() -> None:
    gang = pytorchjob(subject({"resources": {"nodes": 1}}), 3)
    assert list(gang["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    assert (name_of(gang), gang["spec"]["nprocPerNode"]) == ("digits-3", "1")


def test_gpu_pods_have_a_node_each_of_the_chosen_product() -> None:
    gang = pytorchjob(subject(GPU), 1)
    pod = gang["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert "H100" in json.dumps(pod["affinity"]["nodeAffinity"])
    assert "requiredDuringSchedulingIgnoredDuringExecution" in pod["affinity"]["podAntiAffinity"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "cpu" not in pod["containers"][0]["resources"]["limits"], "a limit would throttle collectives"


def environment(template: Object) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_tokens_come_out_of_secrets_and_only_the_pod_that_fetches_has_them() -> None:
    prepare, *gang = templates(
        {
            "task": "docvqa",
            "model": {"init": None, "name": "team/model", "tokenSecret": "hub"},
            "data": {"generate": None, "name": "team/copy", "tokenSecret": "data-hub"},
        }
    )
    env = environment(prepare)
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert env["PHITUNE_DATA_TOKEN"] == {"secretKeyRef": {"name": "data-hub", "key": "HF_TOKEN"}}
    assert "HF_HUB_OFFLINE" not in env
    assert len(gang) == 2
    for template in gang:
        assert environment(template)["HF_HUB_OFFLINE"] == "1"
        assert "secret" not in json.dumps(template).lower()
        assert "TOKEN" not in json.dumps(template)


def test_the_defaults_of_model_and_data_take_tokens_without_being_named() -> None:
    spec: Object = {
        "task": "docvqa",
        "model": {"init": None, "tokenSecret": "hub"},
        "data": {"generate": None, "tokenSecret": "data-hub"},
    }
    assert subject(spec).train.model.name == DEFAULT_MODEL
    env = environment(templates(spec)[0])
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert env["PHITUNE_DATA_TOKEN"] == {"secretKeyRef": {"name": "data-hub", "key": "HF_TOKEN"}}


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_jobs_own_certificates_go_before_the_operators_under_either_name(variable: str) -> None:
    spec: Object = {"env": [{"name": variable, "value": "/workspace/ca.crt"}]}
    prepare = prepare_job(replace(subject(spec), hub=HubAccess(ca_config_map="ca")))["spec"]["template"]
    env = environment(prepare)
    assert {name: env.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if name in env} == {
        variable: "/workspace/ca.crt"
    }


def test_way_to_the_hub_is_the_operators_unless_the_job_says_another() -> None:
    hub = HubAccess(
        endpoint="https://mirror", proxy="http://proxy:1", no_proxy=".cluster", ca_config_map="ca"
    )
    spec: Object = {"env": [{"name": "HTTPS_PROXY", "value": "http://mine:2"}]}
    prepare = prepare_job(replace(subject(spec), hub=hub))["spec"]["template"]
    env = environment(prepare)
    assert (env["HF_ENDPOINT"], env["HTTPS_PROXY"], env["NO_PROXY"]) == (
        "https://mirror",
        "http://mine:2",
        ".cluster",
    )
    assert env["SSL_CERT_FILE"] == "/etc/phitune-ca/ca.crt"
    assert prepare["spec"]["volumes"][-1]["configMap"]["name"] == "ca"
    assert prepare["spec"]["containers"][0]["volumeMounts"][-1]["mountPath"] == "/etc/phitune-ca"
    gang = pytorchjob(replace(subject(spec), hub=hub), 1)
    assert "mirror" not in json.dumps(gang)


def test_own_variables_win_over_the_users() -> None:
    env = templates({"env": [{"name": "HOME", "value": "/root"}, {"name": "MINE", "value": "1"}]})[1]
    values = {one["name"]: one["value"] for one in env["spec"]["containers"][0]["env"]}
    assert (values["HOME"], values["MINE"]) == ("/tmp", "1")


@pytest.mark.parametrize(
    ("storage", "owned", "modes"),
    [
        pytest.param({}, False, ["ReadWriteMany"], id="kept"),
        pytest.param({"retain": False}, True, ["ReadWriteMany"], id="goes with the job"),
    ],
)
def test_claim_is_owned_only_if_it_is_not_retained(storage: Object, owned: bool, modes: Any) -> None:
    made = claim(subject({"storage": storage}))
    assert made is not None
    assert ("ownerReferences" in made["metadata"], made["spec"]["accessModes"]) == (owned, modes)


def test_no_claim_is_made_beside_the_users() -> None:
    user = subject({"storage": {"size": None, "claimName": "mine"}})
    assert claim(user) is None
    assert user.claim_name == "mine"
