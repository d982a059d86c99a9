"""What the command line asks for, on top of what is recorded."""

from ipaddress import IPv4Network

import pytest

from localkube.console import ClusterError
from localkube.extras import with_needs
from localkube.gpus import parse
from localkube.plan import Cluster
from localkube.up import Wishes, plan

TAG = "phitune-123456"
SUBNET = IPv4Network("10.210.0.0/16")


def recorded(**fields: object) -> Cluster:
    return Cluster("default", TAG, SUBNET, ("node-1", "node-2"), **fields)


def wishes(**fields: object) -> Wishes:
    return Wishes(name="default", **fields)


def test_a_new_cluster_has_two_nodes_and_the_first_free_subnet():
    made = plan(wishes(), None, TAG, [IPv4Network("10.200.0.0/16")])
    assert made.node_names == ("node-1", "node-2")
    assert made.subnet == IPv4Network("10.201.0.0/16")


def test_a_new_cluster_has_what_is_asked_for():
    made = plan(wishes(num_nodes=3, subnet=SUBNET, has_egress=True), None, TAG, [])
    assert (len(made.nodes), made.subnet, made.has_egress, made.has_audit_log) == (3, SUBNET, True, False)
    assert plan(wishes(has_gang_scheduling=True), made, TAG, []).has_gang_scheduling


def test_saying_nothing_changes_nothing():
    options = {"has_egress": True, "has_audit_log": True, "has_gang_scheduling": True}
    before = recorded(gpus={"node-1": parse("H200:8")}, **options)
    assert plan(wishes(), before, TAG, []) == before


def test_an_extra_stays_once_it_is_installed():
    before = plan(wishes(extras=["kueue"]), None, TAG, [])
    assert plan(wishes(), before, TAG, []).extras == ("kueue",)
    assert plan(wishes(extras=["jobset"]), before, TAG, []).extras == ("jobset", "kueue")


def test_trainer_brings_the_jobset_that_it_needs():
    assert with_needs(["trainer"]) == ["jobset", "trainer"]
    assert with_needs(["jobset", "trainer", "kwok"]) == ["jobset", "trainer", "kwok"]


def test_a_running_cluster_grows():
    assert plan(wishes(num_nodes=4), recorded(), TAG, []).node_names[2:] == ("node-3", "node-4")


def test_a_running_cluster_does_not_shrink():
    with pytest.raises(ClusterError, match="has 2; `down` comes before fewer"):
        plan(wishes(num_nodes=1), recorded(), TAG, [])


def test_a_running_cluster_keeps_its_addresses():
    with pytest.raises(ClusterError, match=r"--subnet: the running cluster has 10\.210\.0\.0/16"):
        plan(wishes(subnet=IPv4Network("10.220.0.0/16")), recorded(), TAG, [])


def test_gpus_add_to_those_of_other_nodes():
    before = recorded(gpus={"node-1": parse("H200:8")})
    after = plan(wishes(gpus={"node-2": parse("Tesla-T4:1")}), before, TAG, [])
    assert {name: gpus.product for name, gpus in after.gpus.items()} == {
        "node-1": "NVIDIA-H200",
        "node-2": "Tesla-T4",
    }


def test_gpus_of_a_node_that_is_not_there_are_refused():
    with pytest.raises(ClusterError, match="no node 'node-3'"):
        plan(wishes(gpus={"node-3": parse("Tesla-T4:1")}), recorded(), TAG, [])
