"""A real control plane on this machine's loopback, without kubelets: kwok plays the nodes and their pods.

Every program is a child of this process and ends with it, however it ends. What is not measured has no
limits: controllers, scheduler and training-operator may ask as often as they like.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchrows.row import NotMeasured
from operatorbench.stages import stages

WEBHOOK_CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")  # noqa: S108 - it reads them nowhere else
"""Where the training-operator waits for certificates; no webhook of it is installed here."""
ADMIN, OPERATOR = "admin", "operator"
OPERATOR_USER = "system:serviceaccount:phitune-system:phitune"
"""Not an administrator's, whom the API server never makes wait."""
CONTROLLERS = "job-controller,persistentvolume-binder-controller,serviceaccount-controller"
"""Those that a FineTuneJob needs; nothing is deleted here, and no Service leads anywhere."""
FAKE_NODE = {"kwok.x-k8s.io/node": "fake"}
UNHURRIED = {"GOGC": "400", "GOMEMLIMIT": "6GiB"}
"""Programs in Go may use more memory, and so spend less of the cores that all share on collecting it."""
START_SECONDS = 90.0


@dataclass
class ControlPlane:
    """The running programs, and how to reach the API server."""

    folder: Path
    programs: Mapping[str, Path]
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, Sequence[str | Path]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """Certificate to trust, which the API server has made for itself."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def audit_log(self) -> Path:
        """A line for each write of the operator."""
        return self.folder / "audit.log"

    def token(self, user: str) -> str:
        """What a user is known by."""
        return f"token-of-{user}"

    def kubeconfig(self, user: str) -> Path:
        """How a user's programs reach the API server."""
        path = self.folder / f"{user}.kubeconfig"
        server = {"server": self.server, "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": server}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
            "current-context": "bench",
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def start(self, name: str) -> None:
        """Start a program that was stopped, or that is new."""
        self.processes[name] = spawn(self.commands[name], self.folder / f"{name}.log", os.environ | UNHURRIED)

    def stop(self, name: str) -> None:
        """End a program and wait for it."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End all programs, the API server and its store last."""
        for name in reversed(list(self.processes)):
            self.stop(name)

    def check(self) -> None:
        """Raise NotMeasured where a program has ended by itself, with its last words."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise NotMeasured(f"{name} ended with {process.returncode}\n{self.last_lines(name)}")

    def last_lines(self, name: str, count: int = 8) -> str:
        """The end of a program's log."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-count:]
        return "\n".join(f"  {line[:400]}" for line in lines)


def spawn(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in the background. Our end is its end, too: even a killed benchmark leaves nothing."""
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


@contextmanager
def control_plane(folder: Path, programs: Mapping[str, Path]) -> Iterator[ControlPlane]:
    """Start etcd and the API server; the others come with `start_controllers`, once their kinds are there."""
    etcd_port, peer_port, api_port = free_ports(3)
    plane = ControlPlane(folder, programs, api_port)
    _write_users(folder, plane)
    _make_service_account_keys(folder)
    plane.commands |= {
        "etcd": _etcd(plane, etcd_port, peer_port),
        "kube-apiserver": _apiserver(plane, etcd_port),
        "kube-controller-manager": _controller_manager(plane),
        "kube-scheduler": _scheduler(plane),
        "training-operator": _training_operator(plane),
        "kwok": _kwok(plane),
    }
    try:
        plane.start("etcd")
        plane.start("kube-apiserver")
        _wait_for_certificate(plane)
        yield plane
    finally:
        plane.stop_all()
        shutil.rmtree(WEBHOOK_CERTIFICATES.parent, ignore_errors=True)


def start_controllers(plane: ControlPlane) -> None:
    """Start what acts on objects."""
    WEBHOOK_CERTIFICATES.mkdir(parents=True, exist_ok=True)
    for file in ("tls.crt", "tls.key"):
        shutil.copy(plane.folder / f"webhook-{file}", WEBHOOK_CERTIFICATES / file)
    for name in ("kube-controller-manager", "kube-scheduler", "training-operator", "kwok"):
        plane.start(name)
    time.sleep(1.0)
    plane.check()


def _wait_for_certificate(plane: ControlPlane) -> None:
    """The API server makes one at its start."""
    deadline = time.monotonic() + START_SECONDS
    while not plane.authority.exists():
        plane.check()
        if time.monotonic() > deadline:
            raise NotMeasured(f"no API server in {START_SECONDS:.0f} s")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _write_users(folder: Path, plane: ControlPlane) -> None:
    operator_groups = "system:serviceaccounts,system:serviceaccounts:phitune-system,system:authenticated"
    users = [
        f"{plane.token(ADMIN)},admin,1,system:masters",
        f'{plane.token(OPERATOR)},{OPERATOR_USER},2,"{operator_groups}"',
    ]
    (folder / "users.csv").write_text("\n".join(users) + "\n", encoding="utf-8")
    writes = ["create", "update", "patch", "delete", "deletecollection"]
    rules = [{"level": "Metadata", "users": [OPERATOR_USER], "verbs": writes}, {"level": "None"}]
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": rules,
    }
    (folder / "audit-policy.json").write_text(json.dumps(policy), encoding="utf-8")


def _make_service_account_keys(folder: Path) -> None:
    key = folder / "service-accounts.key"
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    _openssl("ec", "-in", str(key), "-pubout", "-out", str(folder / "service-accounts.pub"))
    subject = ["-subj", "/CN=training-operator.kubeflow.svc", "-days", "2", "-nodes"]
    files = ["-keyout", str(folder / "webhook-tls.key"), "-out", str(folder / "webhook-tls.crt")]
    _openssl("req", "-x509", "-newkey", "rsa:2048", *subject, *files)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _etcd(plane: ControlPlane, port: int, peer_port: int) -> list[str | Path]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        plane.programs["etcd"],
        f"--data-dir={plane.folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--quota-backend-bytes=8589934592",
        # The disk is not what is measured, and the data is thrown away.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(plane: ControlPlane, etcd_port: int) -> list[str | Path]:
    folder = plane.folder
    return [
        plane.programs["kube-apiserver"],
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={plane.port}",
        f"--cert-dir={folder}/certificates",
        f"--token-auth-file={folder}/users.csv",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder}/service-accounts.pub",
        f"--service-account-signing-key-file={folder}/service-accounts.key",
        "--authorization-mode=RBAC",
        f"--audit-policy-file={folder}/audit-policy.json",
        f"--audit-log-path={plane.audit_log}",
        "--audit-log-mode=blocking",
        "--profiling=false",
    ]


def _controller_manager(plane: ControlPlane) -> list[str | Path]:
    return [
        plane.programs["kube-controller-manager"],
        f"--kubeconfig={plane.kubeconfig(ADMIN)}",
        f"--service-account-private-key-file={plane.folder}/service-accounts.key",
        f"--controllers={CONTROLLERS}",
        "--leader-elect=false",
        "--secure-port=0",
        "--concurrent-job-syncs=20",
        "--kube-api-qps=5000",
        "--kube-api-burst=10000",
    ]


def _scheduler(plane: ControlPlane) -> list[str | Path]:
    connection = {"kubeconfig": str(plane.kubeconfig(ADMIN)), "qps": 5000, "burst": 10000}
    content = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": connection,
        "leaderElection": {"leaderElect": False},
    }
    path = plane.folder / "scheduler.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return [plane.programs["kube-scheduler"], f"--config={path}", "--secure-port=0"]


def _training_operator(plane: ControlPlane) -> list[str | Path]:
    (webhook_port,) = free_ports(1)
    return [
        "env",
        "MY_POD_NAMESPACE=kubeflow",
        plane.programs["training-operator"],
        f"--kubeconfig={plane.kubeconfig(ADMIN)}",
        "--enable-scheme=pytorchjob",
        "--metrics-bind-address=0",
        "--health-probe-bind-address=0",
        f"--webhook-server-port={webhook_port}",
        "--kube-api-qps=5000",
        "--kube-api-burst=10000",
        "--controller-threads=16",
    ]


def _kwok(plane: ControlPlane) -> list[str | Path]:
    """Pods get addresses of the loopback, so that this process can answer for all of them.

    Each control plane has a network of its own: another benchmark may run beside it.
    """
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "nodePlayStageParallelism": 4,
            "podPlayStageParallelism": 16,
            "podsOnNodeSyncParallelism": 16,
        },
    }
    path = plane.folder / "kwok.yaml"
    path.write_text("\n---\n".join(map(json.dumps, [options, *stages()])), encoding="utf-8")
    ((name, value),) = FAKE_NODE.items()
    return [
        plane.programs["kwok"],
        f"--kubeconfig={plane.kubeconfig(ADMIN)}",
        f"--config={path}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={name}={value}",
        "--node-lease-duration-seconds=0",
        "--node-ip=127.0.0.1",
        f"--cidr=127.{64 + plane.port % 128}.0.1/16",
        "--server-address=",
    ]


def environment(kubeconfig: Path) -> dict[str, str]:
    """This process's environment, with a cluster."""
    return {**os.environ, "KUBECONFIG": str(kubeconfig)}
