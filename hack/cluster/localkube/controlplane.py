"""etcd, the API server, the controllers and the scheduler: in one network namespace, on the usual ports."""

import json
from collections.abc import Sequence
from pathlib import Path

from . import cgroups, processes
from .api import Api
from .build import Programs
from .console import ClusterError, Console
from .paths import Paths, write_atomically
from .plan import API_PORT, CLUSTER_DOMAIN, SERVICE_SUBNET, Cluster
from .processes import Daemon

NODE_MONITOR_GRACE = "20s"
"""A node that is silent for so long is Unknown. The default of 50 s makes tests of node loss slow."""
GANG_SCHEDULING = "--feature-gates=GenericWorkload=true,GangScheduling=true"
"""For all three: PodGroups are served, let go when no pod uses them any more, and heeded."""


def ensure(cluster: Cluster, paths: Paths, programs: Programs, console: Console) -> None:
    """Start what is not running, in order, and wait until the API server answers."""
    cgroups.create(cluster.control_cgroup)
    cgroups.prefer(cluster.tag)
    cgroups.prefer(cluster.control_cgroup)
    for daemon in (etcd(cluster, paths, programs), apiserver(cluster, paths, programs)):
        outcome = processes.ensure(daemon, paths.processes, paths.logs)
        if outcome != "running":
            console.step(f"{daemon.name} {outcome}")
    api = Api.of(cluster, paths)

    def is_ready() -> bool:
        for name in ("etcd", "kube-apiserver"):
            record = processes.read(paths.processes, name)
            if record is None or not record.is_alive():
                raise ClusterError(f"{name} ended\n{processes.last_lines(paths.logs, name)}")
        return api.is_ready()

    console.wait_for(
        "the API server",
        is_ready,
        seconds=90,
        explain=lambda: processes.last_lines(paths.logs, "kube-apiserver"),
    )
    console.step(f"the API server answers on {cluster.server}")
    for daemon in (controller_manager(cluster, paths, programs), scheduler(cluster, paths, programs)):
        outcome = processes.ensure(daemon, paths.processes, paths.logs)
        if outcome != "running":
            console.step(f"{daemon.name} {outcome}")


def _daemon(
    cluster: Cluster,
    paths: Paths,
    programs: Programs,
    name: str,
    flags: Sequence[str],
    files: Sequence[Path] = (),
) -> Daemon:
    return Daemon(
        name,
        [programs.path(name), *flags],
        groups=cgroups.process_files(cluster.control_cgroup),
        network=paths.control_network,
        files=files,
    )


def etcd(cluster: Cluster, paths: Paths, programs: Programs) -> Daemon:
    """The store."""
    flags = [
        f"--data-dir={paths.etcd}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        # The data is thrown away with the cluster, so it need not survive a power cut.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    return _daemon(cluster, paths, programs, "etcd", flags)


def apiserver(cluster: Cluster, paths: Paths, programs: Programs) -> Daemon:
    """The API server."""
    pki = paths.pki
    flags = [
        f"--advertise-address={cluster.control_address}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        # Pod Security is among the plugins that are on without being named.
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        # Without these no APIService that is backed by a pod becomes available.
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        # No kube-proxy runs here: webhooks and APIServices are called at their pods' addresses.
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        "--profiling=false",
    ]
    if cluster.has_gang_scheduling:
        flags += [GANG_SCHEDULING, "--runtime-config=scheduling.k8s.io/v1alpha2=true"]
    files: list[Path] = []
    if cluster.has_audit_log:
        policy = paths.config / "audit-policy.json"
        write_atomically(policy, json.dumps(audit_policy(), indent=2))
        files.append(policy)
        flags += [f"--audit-policy-file={policy}", f"--audit-log-path={paths.logs}/audit.log"]
    return _daemon(cluster, paths, programs, "kube-apiserver", flags, files)


def audit_policy() -> dict[str, object]:
    """Who did what to which object, once a request is answered; not the objects themselves."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def controller_manager(cluster: Cluster, paths: Paths, programs: Programs) -> Daemon:
    """The controllers."""
    kubeconfig = paths.config / "kube-controller-manager.kubeconfig"
    flags = [
        f"--kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={paths.pki}/ca.crt",
        f"--service-account-private-key-file={paths.pki}/service-accounts.key",
        f"--cluster-signing-cert-file={paths.pki}/ca.crt",
        f"--cluster-signing-key-file={paths.pki}/ca.key",
        f"--cluster-cidr={cluster.subnet}",
        # Nodes are registered with their pod addresses, which follow from the plan.
        "--allocate-node-cidrs=false",
        f"--node-monitor-grace-period={NODE_MONITOR_GRACE}",
        "--node-monitor-period=2s",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        *([GANG_SCHEDULING] if cluster.has_gang_scheduling else []),
    ]
    return _daemon(cluster, paths, programs, "kube-controller-manager", flags, [kubeconfig])


def scheduler(cluster: Cluster, paths: Paths, programs: Programs) -> Daemon:
    """The scheduler."""
    kubeconfig = paths.config / "kube-scheduler.kubeconfig"
    flags = [f"--kubeconfig={kubeconfig}", "--bind-address=127.0.0.1", "--leader-elect=false"]
    if cluster.has_gang_scheduling:
        # With nothing else to do, it would try a gang that waits again and again, without a pause.
        flags.append(f"{GANG_SCHEDULING},SchedulerPopFromBackoffQ=false")
    return _daemon(cluster, paths, programs, "kube-scheduler", flags, [kubeconfig])
