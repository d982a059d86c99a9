"""Addresses and names follow from the state folder and the subnet alone."""

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from localkube import plan
from localkube.console import ClusterError
from localkube.gpus import parse
from localkube.plan import Cluster


def cluster(*, nodes: int = 2, subnet: str = "10.200.0.0/16", **fields: object) -> Cluster:
    state = Path("/var/tmp/phitune-cluster/default")
    return Cluster("default", plan.tag_of(state), IPv4Network(subnet), plan.node_names(nodes), **fields)


def test_nodes_are_numbered_from_one():
    first, second = cluster().nodes
    assert (first.name, str(first.address), str(first.pod_subnet)) == (
        "node-1",
        "10.200.255.11",
        "10.200.1.0/24",
    )
    assert (second.name, str(second.address), str(second.pod_subnet)) == (
        "node-2",
        "10.200.255.12",
        "10.200.2.0/24",
    )


def test_no_two_addresses_meet_in_the_largest_cluster():
    largest = cluster(nodes=plan.MAX_NODES)
    machines = [node.address for node in largest.nodes] + [largest.control_address, largest.host_address]
    assert len(set(machines)) == plan.MAX_NODES + 2
    switch = plan.machine_subnet(largest.subnet)
    assert all(address in switch for address in machines)
    assert not any(node.pod_subnet.overlaps(switch) for node in largest.nodes)
    assert len({node.pod_subnet for node in largest.nodes}) == plan.MAX_NODES


def test_adding_a_node_moves_no_other():
    assert cluster(nodes=3).nodes[:2] == cluster(nodes=2).nodes


def test_the_tag_is_stable_differs_by_folder_and_fits_an_interface():
    tags = {plan.tag_of(Path(f"/var/tmp/phitune-cluster/{name}")) for name in ("default", "two", "three")}
    assert len(tags) == 3
    assert plan.tag_of(Path("/somewhere")) == plan.tag_of(Path("/somewhere"))
    assert all(len(tag) <= 15 for tag in tags)


def test_a_record_reads_back_as_the_same_cluster():
    options = {"has_egress": True, "has_audit_log": True, "has_gang_scheduling": True}
    before = cluster(nodes=3, gpus={"node-1": parse("H200:8")}, **options)
    assert Cluster.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_an_unknown_node_is_refused_with_those_that_exist():
    with pytest.raises(ClusterError, match="the nodes are node-1, node-2"):
        cluster().node("node-9")


@pytest.mark.parametrize("count", [0, -1, plan.MAX_NODES + 1])
def test_the_number_of_nodes_has_bounds(count):
    with pytest.raises(ClusterError, match="--nodes: from 1 to 200"):
        plan.node_names(count)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("10.0.0.0/8", "must be a /16", id="too large"),
        pytest.param("10.1.2.0/24", "must be a /16", id="too small"),
        pytest.param("10.1.2.3/16", "host bits set", id="an address"),
        pytest.param("nonsense", "such as 10.200.0.0/16", id="no network at all"),
        pytest.param("10.96.0.0/16", "overlaps the service addresses", id="the services' own"),
    ],
)
def test_a_wrong_subnet_is_refused(text, problem):
    with pytest.raises(ClusterError, match=problem):
        plan.parse_subnet(text)


@pytest.mark.parametrize("name", ["", "Upper", "with space", "-dash", "a/b", "x" * 43])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ClusterError, match="--name"):
        plan.check_name(name)


def test_the_first_free_subnet_meets_no_route():
    taken = [IPv4Network("10.200.3.0/24"), IPv4Network("10.201.0.0/16"), IPv4Network("192.168.0.0/16")]
    assert plan.free_subnet([]) == IPv4Network("10.200.0.0/16")
    assert plan.free_subnet(taken) == IPv4Network("10.202.0.0/16")


def test_a_machine_that_routes_everything_is_told_to_choose():
    with pytest.raises(ClusterError, match="choose one with --subnet"):
        plan.free_subnet([IPv4Network("10.0.0.0/8")])
