"""Who reaches whom: the pods of a job, of another job, the operator, Prometheus, the hub, the cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from harness.network import Peer, lets_through
from harness.operator_view import PREPARED, observed, subject
from harness.simulated_cluster import SimulatedCluster
from phitune_operator import names
from phitune_operator.apply import carry_out
from phitune_operator.kinds import NETWORK_POLICY, Key, Object
from phitune_operator.main import network_access
from phitune_operator.observed import Create, NetworkAccess, Settings
from phitune_operator.plan import plan
from phitune_operator.render.network_policy import network_policies
from phitune_operator.store import Store

ACCESS = NetworkAccess(operator_namespace="phitune-system", prometheus_namespace="monitoring")
ONE = replace(subject(), network=ACCESS)
OTHER = replace(ONE, name="other", uid="another-uid")
POLICIES = [*network_policies(ONE), *network_policies(OTHER)]


def pod_of(job: Mapping[str, str], namespace: str = "team") -> Peer:
    return Peer(namespace, job)


MASTER = pod_of(ONE.labels(role=names.ROLE_TRAINER, attempt="1", rank="0"))
WORKER = pod_of(ONE.labels(role=names.ROLE_TRAINER, attempt="1"))
PREPARE = pod_of(ONE.labels(role=names.ROLE_PREPARE))
STRANGER = pod_of(OTHER.labels(role=names.ROLE_TRAINER, attempt="1"))
NEIGHBOUR = Peer("team", {"app": "web"})
OPERATOR = Peer("phitune-system", {"app.kubernetes.io/name": "phitune-operator"})
IN_ITS_NAMESPACE = Peer("phitune-system", {"app": "web"})
PRETENDER = Peer("team", {"app.kubernetes.io/name": "phitune-operator"})
PROMETHEUS = Peer("monitoring", {"app": "prometheus"})
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
API_SERVER = Peer(address="10.0.0.1")
HUB = Peer(address="18.155.68.1")
CREDENTIALS = {
    "AWS, Azure, Google": Peer(address="169.254.169.254"),
    "EKS, of pods": Peer(address="169.254.170.23"),
    "Azure's wire server": Peer(address="168.63.129.16"),
    "Alibaba": Peer(address="100.100.100.200"),
    "AWS, IPv6": Peer(address="fd00:ec2::254"),
    "EKS, of pods, IPv6": Peer(address="fd00:ec2::23"),
    "Google, IPv6": Peer(address="fd20:ce::254"),
}


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        pytest.param(WORKER, MASTER, 23456, id="a rank to rank 0"),
        pytest.param(MASTER, WORKER, 45000, id="rank 0 to a rank, at a port that NCCL chose"),
        pytest.param(OPERATOR, MASTER, names.PROGRESS_PORT, id="the operator to rank 0's progress"),
        pytest.param(PROMETHEUS, MASTER, names.PROGRESS_PORT, id="Prometheus to rank 0's metrics"),
        pytest.param(MASTER, DNS, 53, id="a rank to DNS"),
        pytest.param(PREPARE, DNS, 53, id="prepare to DNS"),
        pytest.param(PREPARE, HUB, 443, id="prepare to the hub"),
        pytest.param(PREPARE, NEIGHBOUR, 8080, id="prepare to a mirror in the cluster"),
    ],
)
def test_what_a_job_needs_is_let_through(source: Peer, target: Peer, port: int) -> None:
    assert lets_through(POLICIES, source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        pytest.param(STRANGER, MASTER, 23456, id="a rank of another job to rank 0"),
        pytest.param(STRANGER, MASTER, names.PROGRESS_PORT, id="a rank of another job to the progress"),
        pytest.param(NEIGHBOUR, MASTER, names.PROGRESS_PORT, id="a pod of the namespace to the progress"),
        pytest.param(IN_ITS_NAMESPACE, MASTER, names.PROGRESS_PORT, id="a neighbour of the operator"),
        pytest.param(PRETENDER, MASTER, names.PROGRESS_PORT, id="a pod labelled like the operator"),
        pytest.param(OPERATOR, MASTER, 23456, id="the operator to the ranks' own ports"),
        pytest.param(PROMETHEUS, MASTER, 23456, id="Prometheus to the ranks' own ports"),
        pytest.param(PREPARE, MASTER, 23456, id="prepare to rank 0"),
        pytest.param(MASTER, PREPARE, 8080, id="rank 0 to prepare"),
        pytest.param(OPERATOR, PREPARE, names.PROGRESS_PORT, id="the operator to prepare"),
        pytest.param(MASTER, API_SERVER, 443, id="a rank to the API server"),
        pytest.param(MASTER, HUB, 443, id="a rank to the hub"),
        pytest.param(MASTER, NEIGHBOUR, 8080, id="a rank to a pod of the namespace"),
        pytest.param(MASTER, DNS, 443, id="a rank to another port of what serves DNS"),
    ],
)
def test_nothing_else_is(source: Peer, target: Peer, port: int) -> None:
    assert not lets_through(POLICIES, source, target, port)


@pytest.mark.parametrize("cloud", CREDENTIALS)
@pytest.mark.parametrize("source", [pytest.param(MASTER, id="a rank"), pytest.param(PREPARE, id="prepare")])
def test_no_pod_gets_at_the_credentials_of_its_node(source: Peer, cloud: str) -> None:
    assert not lets_through(POLICIES, source, CREDENTIALS[cloud], 80)


def test_prometheus_reads_nothing_where_none_is_named() -> None:
    alone = replace(ONE, network=replace(ACCESS, prometheus_namespace=""))
    policies = network_policies(alone)
    assert lets_through(policies, OPERATOR, MASTER, names.PROGRESS_PORT)
    assert not lets_through(policies, PROMETHEUS, MASTER, names.PROGRESS_PORT)


@pytest.mark.parametrize("address", ["10.96.0.10", "fd00:10:96::a"])
def test_names_are_asked_for_where_the_operators_own_resolver_asks(address: str) -> None:
    resolver = (
        f"search team.svc.cluster.local\nnameserver {address}\nnameserver no.address\noptions ndots:5\n"
    )
    access = network_access({"PHITUNE_OPERATOR_NAMESPACE": "phitune-system"}, resolver)
    assert access is not None
    policies = network_policies(replace(ONE, network=access))
    cache_on_node = Peer(address=address)
    for pod in (MASTER, PREPARE):
        assert lets_through(policies, pod, cache_on_node, 53, "UDP")
    assert not lets_through(policies, MASTER, cache_on_node, 443)
    assert not lets_through(POLICIES, MASTER, cache_on_node, 53, "UDP")


def test_no_pod_can_start_before_the_policies_whatever_its_job_begins_with() -> None:
    policies = [("NetworkPolicy", "digits-prepare"), ("NetworkPolicy", "digits-trainer")]
    claim, gang = ("PersistentVolumeClaim", "digits-workspace"), ("PyTorchJob", "digits-1")
    config, prepare = ("ConfigMap", "digits-config"), ("Job", "digits-prepare")

    def made(**more: Any) -> list[tuple[str, str]]:
        seen = replace(observed(**more), settings=Settings(trainer_image="trainer:1", network=ACCESS))
        bodies = [action.body for action in plan(seen).actions if isinstance(action, Create)]
        return [(one["kind"], one["metadata"]["name"]) for one in bodies]

    assert made() == [claim, *policies, prepare]
    assert made(prepared_by=Key("team", "other")) == [claim, config, *policies, gang]
    is_prepared, running = PREPARED["conditions"]
    cut_short = {**PREPARED, "conditions": [is_prepared, {**running, "reason": "Creating"}]}
    assert made(status=cut_short) == [claim, config, *policies, gang]


def test_every_policy_goes_when_its_job_goes() -> None:
    assert len(POLICIES) == 4
    for policy in POLICIES:
        (owner,) = policy["metadata"]["ownerReferences"]
        assert owner["controller"]


def test_without_the_charts_value_no_job_gets_one() -> None:
    assert network_access({}) is None
    assert network_policies(subject()) == []
    assert network_access({"PHITUNE_OPERATOR_NAMESPACE": "a", "PHITUNE_PROMETHEUS_NAMESPACE": "b"}) == (
        NetworkAccess(operator_namespace="a", prometheus_namespace="b")
    )


def test_what_no_watch_tells_of_is_not_kept_in_memory() -> None:
    cluster, store = SimulatedCluster(), Store()
    made = [Create.of(policy) for policy in network_policies(ONE)]
    owner: Object = {"metadata": {"namespace": "team", "name": "digits", "uid": ONE.uid}}
    for _ in range(2):  # and again, when they are there
        assert asyncio.run(carry_out(cluster, store, made, owner=owner)) is None  # type: ignore[arg-type]
    assert len(cluster.of_kind(NETWORK_POLICY)) == 2
    assert not store.uids(NETWORK_POLICY)
