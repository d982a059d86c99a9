"""What a node's programs are configured with."""

import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from localkube import node as nodes
from localkube.plan import Cluster

CLUSTER = Cluster("default", "phitune-123456", IPv4Network("10.200.0.0/16"), ("node-1", "node-2"))
SECOND = CLUSTER.nodes[1]


def test_pods_take_their_addresses_from_their_node():
    cable, ports = nodes.cni_config(SECOND)["plugins"]
    assert cable["ipam"]["ranges"] == [[{"subnet": "10.200.2.0/24"}]]
    assert (cable["type"], ports["type"]) == ("ptp", "portmap")


def test_pods_keep_their_address_between_nodes():
    assert nodes.cni_config(SECOND)["plugins"][0]["ipMasq"] is False


def test_the_kubelet_keeps_its_pods_in_its_nodes_control_group():
    config = nodes.kubelet_config(SECOND, Path("/pki"), Path("/resolv.conf"))
    assert config["cgroupRoot"] == "/phitune-123456/node-2"
    assert nodes.group(SECOND) == "phitune-123456/node-2/system"


def test_a_kubelet_serves_with_its_own_certificate():
    config = nodes.kubelet_config(SECOND, Path("/pki"), Path("/resolv.conf"))
    assert config["tlsCertFile"] == "/pki/node-2-server.crt"
    assert config["authentication"]["anonymous"] == {"enabled": False}


def test_the_proxy_tells_pods_from_others_by_the_clusters_subnet():
    config = nodes.kube_proxy_config(CLUSTER, SECOND, Path("/kubeconfig"))
    assert (config["clusterCIDR"], config["hostnameOverride"]) == ("10.200.0.0/16", "node-2")


def test_the_runtimes_configuration_is_toml_that_names_what_is_ours():
    text = nodes.containerd_config(
        Path("/networks"),
        Path("/plugins"),
        Path("/usr/sbin/runc"),
        "localhost/pause:1",
        Path("/registries"),
    )
    config = tomllib.loads(text)
    runtime = config["plugins"]["io.containerd.cri.v1.runtime"]
    assert config["version"] == 3
    images = config["plugins"]["io.containerd.cri.v1.images"]
    assert images["registry"] == {"config_path": "/registries"}
    assert runtime["cni"] == {"bin_dirs": ["/plugins"], "conf_dir": "/networks"}
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/usr/sbin/runc"
    assert config["plugins"]["io.containerd.cri.v1.images"]["pinned_images"] == {
        "sandbox": "localhost/pause:1"
    }


def node_object(status: str, *, heartbeat: str = "2030-01-01T12:00:00Z") -> dict[str, object]:
    conditions = [
        {"type": "MemoryPressure", "status": "True", "lastHeartbeatTime": heartbeat},
        {"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat},
    ]
    return {"status": {"conditions": conditions}}


NOON = 1893499200.0
"""2030-01-01 12:00 UTC."""


@pytest.mark.parametrize(
    ("object_", "since", "is_ready"),
    [
        pytest.param(node_object("True"), 0.0, True, id="ready"),
        pytest.param(node_object("False"), 0.0, False, id="not ready"),
        pytest.param(node_object("Unknown"), 0.0, False, id="silent"),
        pytest.param({}, 0.0, False, id="no status yet"),
        pytest.param(node_object("True"), NOON + 0.9, True, id="said in the second that the kubelet began"),
        pytest.param(node_object("True"), NOON + 1.0, False, id="said by a kubelet that is gone"),
    ],
)
def test_ready_is_what_the_present_kubelet_says(object_, since, is_ready):
    assert nodes.is_ready(object_, since) is is_ready
