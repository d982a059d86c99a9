"""A node: namespaces for network and mounts, a control group, and containerd, kubelet and kube-proxy in them.

The mount namespace gives every node its own /var/lib, /var/log and an empty /run, so that all programs find
their usual paths and nothing of a node lies on this machine's. It lives as long as a process in it: killing
all of a node's processes takes its mounts away, as a power cut would.
"""

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from . import cgroups, processes
from .api import Api, Object
from .build import Programs
from .console import ClusterError, Console
from .packages import program
from .paths import Paths, write_atomically
from .plan import CLUSTER_DOMAIN, DNS_ADDRESS, Cluster, Node
from .processes import Daemon, Record
from .shell import SEARCH_PATH, in_network

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
NAMESPACE = "k8s.io"
"""Where the kubelet looks for images and containers within containerd."""


def group(node: Node) -> str:
    """The node's own programs. Its pods are beside it, in `kubepods`."""
    return f"{node.cgroup}/system"


def ensure_runtime(node: Node, paths: Paths, programs: Programs, pause_image: str, console: Console) -> None:
    """The namespaces and containerd: what is needed to take images."""
    if not cgroups.members(node.cgroup):
        # As after a boot. The kubelet would spend seconds on each group that a dead container left.
        cgroups.remove(node.cgroup)
    cgroups.create(group(node))
    cgroups.prefer(group(node))
    _ensure_mounts(node, paths, console)
    _ensure(_containerd(node, paths, programs, pause_image), paths, console)
    ctr = [*_inside(node, paths), programs.path("ctr"), "version"]

    def answers() -> bool:
        # Without a socket there is nobody to ask, and asking would wait. A socket may be a dead one's.
        socket = Path(f"{_process(node, paths)}/root{CONTAINERD_SOCKET}")
        return socket.exists() and subprocess.run(ctr, capture_output=True, check=False).returncode == 0

    name = f"{node.name}-containerd"
    console.wait_for(
        f"containerd of {node.name}",
        answers,
        seconds=30,
        explain=lambda: processes.last_lines(paths.logs, name),
    )


def ensure_kubelet(cluster: Cluster, node: Node, paths: Paths, programs: Programs, console: Console) -> None:
    """The kubelet and kube-proxy, of a node that has its runtime."""
    _ensure(_kubelet(node, paths, programs), paths, console)
    _ensure(_kube_proxy(cluster, node, paths, programs), paths, console)


def _ensure(daemon: Daemon, paths: Paths, console: Console) -> None:
    outcome = processes.ensure(daemon, paths.processes, paths.logs)
    if outcome != "running":
        console.step(f"{daemon.name} {outcome}")


def kill(node: Node) -> int:
    """Everything of the node at once: programs, shims, containers. How many processes there were."""
    return cgroups.kill(node.cgroup)


def holder(node: Node, paths: Paths) -> Record | None:
    """The process that holds the node's mounts, as recorded."""
    return processes.read(paths.processes, f"{node.name}-mounts")


def _process(node: Node, paths: Paths) -> Path:
    """The /proc folder of the process that holds the node's mounts."""
    record = holder(node, paths)
    if record is None or not record.is_alive():
        raise ClusterError(f"{node.name} is not running; `node {node.name} start` or `up` starts it")
    return Path(f"/proc/{record.identity.pid}")


def _mounts(node: Node, paths: Paths) -> Path:
    return _process(node, paths) / "ns" / "mnt"


def _inside(node: Node, paths: Paths) -> list[str | Path]:
    return ["nsenter", f"--mount={_mounts(node, paths)}", "--"]


def command(
    node: Node, paths: Paths, programs: Programs, words: list[str]
) -> tuple[list[str], dict[str, str]]:
    """How to run a command as on the node, and with which environment."""
    enter = in_network(paths.network(node.name), [*_inside(node, paths), *words])
    folders = [str(programs.folder(piece)) for piece in ("containerd", "kubernetes", "cni")]
    environment = {"PATH": ":".join([*folders, SEARCH_PATH]), "CONTAINERD_NAMESPACE": NAMESPACE}
    return [str(word) for word in enter], environment


def _ensure_mounts(node: Node, paths: Paths, console: Console) -> None:
    """Start the process that holds the node's mount namespace, and wait until all is mounted."""
    disk = paths.node(node.name)
    for name in ("lib", "log"):
        (disk / name).mkdir(parents=True, exist_ok=True)
    ready = disk / "mounted"
    script = "\n".join(
        [
            # What is mounted on this machine later is seen on the node; what the node mounts stays there.
            "mount --make-rshared /",
            f"mount --bind '{disk}/lib' /var/lib",
            f"mount --bind '{disk}/log' /var/log",
            "mount -t tmpfs -o mode=755 tmpfs /run",
            "mkdir -p /run/lock",
            f"echo $$ >'{ready}'",
            "exec sleep infinity",
        ]
    )
    daemon = Daemon(
        f"{node.name}-mounts",
        ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-ec", script],
        groups=cgroups.process_files(group(node)),
    )
    if processes.ensure(daemon, paths.processes, paths.logs) == "running":
        return
    record = holder(node, paths)
    assert record is not None
    console.wait_for(
        f"mounts of {node.name}",
        lambda: ready.exists() and ready.read_text().strip() == str(record.identity.pid),
        seconds=10,
        explain=lambda: processes.last_lines(paths.logs, daemon.name),
        every=0.01,
    )


def _daemon(
    node: Node, paths: Paths, name: str, argv: list[str | Path], files: list[Path], path: str = ""
) -> Daemon:
    record = holder(node, paths)
    assert record is not None
    return Daemon(
        f"{node.name}-{name}",
        argv,
        groups=cgroups.process_files(group(node)),
        network=paths.network(node.name),
        mounts=_mounts(node, paths),
        files=files,
        depends=str(record.identity),
        environment={"PATH": f"{path}:{SEARCH_PATH}"} if path else {},
    )


def _containerd(node: Node, paths: Paths, programs: Programs, pause_image: str) -> Daemon:
    folder = paths.config / node.name
    network = folder / "cni" / "10-local.conflist"
    write_atomically(network, json.dumps(cni_config(node), indent=2))
    config = folder / "containerd.toml"
    write_atomically(
        config,
        containerd_config(
            network.parent, programs.folder("cni"), program("runc"), pause_image, paths.registries
        ),
    )
    # containerd finds its shim on the PATH.
    path = str(programs.folder("containerd"))
    argv: list[str | Path] = [programs.path("containerd"), "--config", config, "--log-level", "warn"]
    return _daemon(node, paths, "containerd", argv, [config, network], path)


def containerd_config(networks: Path, plugins: Path, runc: Path, pause_image: str, registries: Path) -> str:
    """containerd's config.toml."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  # The name of an imported image; the default would be pulled.
  sandbox = "{pause_image}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{registries}"

[plugins."io.containerd.cri.v1.runtime"]
  # Lowering an out-of-memory score needs a capability that containers and small machines lack.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{networks}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{runc}"
    SystemdCgroup = false
"""


def cni_config(node: Node) -> Object:
    """A cable from every pod to its node.

    Not a bridge: there, two pods of a node talk past the node's own network stack, and a service's answer
    comes from an address that nobody asked, unless the br_netfilter module is loaded.
    """
    cable = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(node.pod_subnet)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            # Leases end with the node's processes, as after a reboot.
            "dataDir": "/run/cni",
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": node.name, "plugins": [cable, ports]}


def _kubelet(node: Node, paths: Paths, programs: Programs) -> Daemon:
    folder = paths.config / node.name
    resolver = folder / "resolv.conf"
    config = folder / "kubelet.json"
    write_atomically(config, json.dumps(kubelet_config(node, paths.pki, resolver), indent=2))
    kubeconfig = paths.config / f"{node.name}.kubeconfig"
    argv: list[str | Path] = [
        programs.path("kubelet"),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]
    return _daemon(node, paths, "kubelet", argv, [config, kubeconfig, resolver])


def kubelet_config(node: Node, pki: Path, resolver: Path) -> dict[str, Any]:
    """The KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        # Refused otherwise since 1.35.
        "failCgroupV1": False,
        # Turns the failure to set protected sysctls and limits into a warning.
        "featureGates": {"KubeletInUserNamespace": True},
        "failSwapOn": False,
        "clusterDNS": [str(DNS_ADDRESS)],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(resolver),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/{node.name}-server.crt",
        "tlsPrivateKeyFile": f"{pki}/{node.name}-server.key",
        # A full disk must not evict pods, nor delete images that cannot be pulled again.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Whoever has made room goes on at once, and not after five minutes.
        "evictionPressureTransitionPeriod": "15s",
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        # Four beats within the time after which a silent node is Unknown.
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 20,
        # Changed Secrets and ConfigMaps are in the pods after seconds.
        "syncFrequency": "10s",
        "serializeImagePulls": False,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    }


def _kube_proxy(cluster: Cluster, node: Node, paths: Paths, programs: Programs) -> Daemon:
    config = paths.config / node.name / "kube-proxy.json"
    kubeconfig = paths.config / "kube-proxy.kubeconfig"
    write_atomically(config, json.dumps(kube_proxy_config(cluster, node, kubeconfig), indent=2))
    argv: list[str | Path] = [programs.path("kube-proxy"), f"--config={config}"]
    return _daemon(node, paths, "kube-proxy", argv, [config, kubeconfig])


def kube_proxy_config(cluster: Cluster, node: Node, kubeconfig: Path) -> dict[str, Any]:
    """The KubeProxyConfiguration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": str(cluster.subnet),
        "hostnameOverride": node.name,
        # The limits of connection tracking belong to the whole machine: leave them.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def register(cluster: Cluster, node: Node, api: Api) -> None:
    """The Node, before its kubelet runs: so its pod addresses and GPU labels are there from the start."""
    gpus = cluster.gpus.get(node.name)
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": gpus.labels() if gpus else {}},
        "spec": {"podCIDR": str(node.pod_subnet), "podCIDRs": [str(node.pod_subnet)]},
    }
    api.patch(f"/api/v1/nodes/{node.name}", body, "apply")


def is_ready(object_: Object, since: float = 0.0) -> bool:
    """Whether a Node object says Ready, and has said so at or after a moment."""
    for condition in object_.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "True":
            # Written in whole seconds.
            return datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() >= int(since)
    return False
