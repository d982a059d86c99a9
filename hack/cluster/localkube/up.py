"""Bringing a cluster up, or what is missing of one: every step looks first and does only what lacks."""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

from . import addons, controlplane, egress, extras, images, network, packages, pki, processes, volumes
from . import node as nodes
from .api import Api, Object
from .build import Programs
from .console import ClusterError, Console
from .gpus import LABELS, RESOURCE, Gpus
from .images import OwnImages
from .locks import alone
from .paths import Paths, write_atomically
from .plan import Cluster, Node, free_subnet, node_names, tag_of


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; None keeps what a running cluster has."""

    name: str
    num_nodes: int | None = None
    subnet: IPv4Network | None = None
    gpus: Mapping[str, Gpus] = field(default_factory=dict)
    has_egress: bool | None = None
    has_audit_log: bool | None = None
    has_gang_scheduling: bool | None = None
    extras: Collection[str] = ()
    """Added to what a running cluster has."""


DEFAULT_NODES = 2


def plan(wishes: Wishes, before: Cluster | None, tag: str, taken: Sequence[IPv4Network]) -> Cluster:
    """The cluster to have: what is recorded, changed by what is asked for."""
    names = None if wishes.num_nodes is None else node_names(wishes.num_nodes)
    if before is None:
        cluster = Cluster(
            wishes.name,
            tag,
            wishes.subnet or free_subnet(taken),
            names or node_names(DEFAULT_NODES),
        )
    else:
        cluster = before
        if wishes.subnet not in (None, before.subnet):
            raise ClusterError(
                f"--subnet: the running cluster has {before.subnet}; take it `down` to change that", 2
            )
        if names is not None:
            if len(names) < len(before.node_names):
                raise ClusterError(
                    f"--nodes: the running cluster has {len(before.node_names)}; `down` comes before fewer",
                    2,
                )
            cluster = replace(cluster, node_names=names)
    for name in wishes.gpus:
        cluster.node(name)
    return replace(
        cluster,
        gpus={**cluster.gpus, **wishes.gpus},
        has_egress=cluster.has_egress if wishes.has_egress is None else wishes.has_egress,
        has_audit_log=cluster.has_audit_log if wishes.has_audit_log is None else wishes.has_audit_log,
        has_gang_scheduling=(
            cluster.has_gang_scheduling if wishes.has_gang_scheduling is None else wishes.has_gang_scheduling
        ),
        extras=tuple(name for name in extras.INSTALLERS if name in (*cluster.extras, *wishes.extras)),
    )


def record(wishes: Wishes, paths: Paths, console: Console) -> Cluster:
    """Decide the plan, write it down and take its addresses, before anybody else can choose the same."""
    if paths.state.exists() and not paths.record.exists() and any(paths.state.iterdir()):
        raise ClusterError(f"{paths.state} is neither empty nor a cluster's: give --state another folder", 2)
    paths.state.mkdir(parents=True, exist_ok=True)
    tag = tag_of(paths.state)
    # Any folder that all share would do; the addresses are this machine's, and so is /run.
    with alone(Path("/run"), console):
        before = paths.load()
        cluster = plan(wishes, before, tag, network.routed_networks() if before is None else [])
        paths.save(cluster)
        made = network.ensure(cluster, paths)
    console.step(f"network {cluster.subnet}: " + (f"made {', '.join(made)}" if made else "in place"))
    return cluster


def up(wishes: Wishes, paths: Paths, programs: Programs, console: Console) -> Cluster:
    """Make the cluster run as wished."""
    packages.ensure(console)
    cluster = record(wishes, paths, console)
    with alone(paths.state, console):
        _settle_egress(cluster, console)
        pki.ensure(cluster, paths)
        _write_resolvers(cluster, paths)
        _link_programs(paths, programs)
        volumes.prepare(paths)
        console.step("certificates and kubeconfigs are written")
        _start(cluster, paths, programs, console)
    return cluster


def _settle_egress(cluster: Cluster, console: Console) -> None:
    if cluster.has_egress:
        if egress.ensure(cluster):
            console.step("pods reach what this machine reaches")
    elif egress.remove(cluster.tag):
        console.step("the way out is closed")


def _start(cluster: Cluster, paths: Paths, programs: Programs, console: Console) -> None:
    """The API server on one side and the nodes' runtimes and images on the other do not need each other."""
    api = Api.of(cluster, paths)
    archives = images.write_own(paths, programs, cluster.extras)
    with ThreadPoolExecutor() as pool:
        control = pool.submit(_start_control, cluster, paths, programs, console, api)
        machines = [
            pool.submit(_start_runtime, node, paths, programs, archives, console) for node in cluster.nodes
        ]
        try:
            for job in [control, *machines]:
                job.result()
        except BaseException:
            # Also for Ctrl-C: nobody goes on making what is about to be taken away.
            console.stop()
            raise
    for node in cluster.nodes:
        nodes.ensure_kubelet(cluster, node, paths, programs, console)
    wait_until_ready(cluster.nodes, api, paths, console)
    for node in cluster.nodes:
        offer_gpus(cluster, node, api)
    addons.wait_until_available(cluster, api, console)


def _start_control(cluster: Cluster, paths: Paths, programs: Programs, console: Console, api: Api) -> None:
    controlplane.ensure(cluster, paths, programs, console)
    for node in cluster.nodes:
        nodes.register(cluster, node, api)
    addons.apply(cluster, paths, programs, console)
    outcome = processes.ensure(volumes.daemon(cluster, paths), paths.processes, paths.logs)
    if outcome != "running":
        console.step(f"volumes {outcome}")


def _start_runtime(
    node: Node, paths: Paths, programs: Programs, archives: Sequence[Path], console: Console
) -> None:
    nodes.ensure_runtime(node, paths, programs, OwnImages.of(programs).pause, console)
    images.load(archives, [node], paths, programs, console)


def wait_until_ready(wanted: Sequence[Node], api: Api, paths: Paths, console: Console) -> None:
    """Until these nodes are Ready, by the word of the kubelets that run now, not of one that died."""
    names = {node.name for node in wanted}

    def is_ready(item: Object) -> bool:
        record = processes.read(paths.processes, f"{item['metadata']['name']}-kubelet")
        return record is not None and nodes.is_ready(item, since=time.time() - record.identity.seconds())

    def unready() -> set[str]:
        return names - {item["metadata"]["name"] for item in api.items("/api/v1/nodes") if is_ready(item)}

    def explain() -> str:
        return "\n".join(processes.last_lines(paths.logs, f"{name}-kubelet") for name in sorted(unready()))

    console.wait_for("all nodes Ready", lambda: not unready(), seconds=90, explain=explain)
    console.step(f"Ready: {', '.join(sorted(names))}")


def offer_gpus(cluster: Cluster, node: Node, api: Api) -> None:
    """Labels and capacity as planned. The kubelet keeps what it did not set itself, until it starts anew."""
    gpus = cluster.gpus.get(node.name)
    labels: Mapping[str, str | None] = gpus.labels() if gpus else dict.fromkeys(LABELS)
    count = str(gpus.count) if gpus else None
    path = f"/api/v1/nodes/{node.name}"
    current = api.get(path)
    if gpus is None and RESOURCE not in current["status"].get("capacity", {}):
        return
    api.patch(path, {"metadata": {"labels": dict(labels)}})
    amounts: Object = {RESOURCE: count}
    api.patch(f"{path}/status", {"status": {"capacity": amounts, "allocatable": amounts}})


def start_node(cluster: Cluster, node: Node, paths: Paths, programs: Programs, console: Console) -> None:
    """Bring one node back, as after a power cut."""
    if network.is_cut(node, paths):
        raise ClusterError(f"{node.name} has no network: `node {node.name} heal`, then start it")
    nodes.ensure_runtime(node, paths, programs, OwnImages.of(programs).pause, console)
    nodes.ensure_kubelet(cluster, node, paths, programs, console)
    api = Api.of(cluster, paths)
    wait_until_ready([node], api, paths, console)
    offer_gpus(cluster, node, api)


def _write_resolvers(cluster: Cluster, paths: Paths) -> None:
    """What pods with dnsPolicy Default ask: nobody, unless there is a way out."""
    servers = egress.upstream_resolvers() if cluster.has_egress else []
    for node in cluster.nodes:
        write_atomically(
            paths.config / node.name / "resolv.conf", "".join(f"nameserver {server}\n" for server in servers)
        )


def _link_programs(paths: Paths, programs: Programs) -> None:
    paths.bin.mkdir(exist_ok=True)
    for name in ("kubectl", "helm"):
        link, target = paths.bin / name, programs.path(name)
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
