"""A cluster of 1,000 GPUs with our operator in it, and what the rows do there with jobs."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchrows.row import NotMeasured, Workplace
from localkube import build
from localkube.console import ClusterError
from operatorbench import operator
from operatorbench.api import Api, Object, connect, each
from operatorbench.controlplane import (
    ADMIN,
    OPERATOR_USER,
    START_SECONDS,
    ControlPlane,
    control_plane,
    start_controllers,
)
from operatorbench.jobs import GANGS, JOBS, NAMESPACE, PODS, job, node, volume
from operatorbench.operator import Operator
from operatorbench.writes import AuditLog
from phitune_operator import names

REPOSITORY = Path(__file__).resolve().parents[3]
NUM_NODES = 130
"""Of eight GPUs each: no job of the benchmark waits for one."""
PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "training-operator",
    "kwok",
)
FIRST = "the-first"


@dataclass
class Gangs:
    """When the first PyTorchJob of each job came into being, by a watch."""

    born: dict[str, float] = field(default_factory=dict)
    """By the job's name; of `time.monotonic`."""

    async def follow(self, api: Api, version: str) -> None:
        """Watch for ever."""
        async for event in api.watch(GANGS, version=version):
            if event["type"] == "ADDED":
                labels = event["object"]["metadata"].get("labels") or {}
                self.born.setdefault(labels.get(names.LABEL_JOB, ""), time.monotonic())


@dataclass
class Scene:
    """The cluster, the client of it, and the operator while it runs."""

    plane: ControlPlane
    api: Api
    work: Workplace
    audit: AuditLog
    operator: Operator | None = None

    async def start_operator(self) -> Operator:
        """Start it and wait until it says that it is ready."""
        self.operator = operator.start(self.plane)
        await self.operator.wait_until_ready()
        return self.operator

    async def stop_operator(self) -> None:
        """End it, if it runs."""
        if self.operator is not None:
            await self.operator.stop()
            self.operator = None

    async def apply(self, wanted: Sequence[Object]) -> None:
        """Create jobs, many at once."""
        await each(wanted, lambda job: self.api.create(JOBS, job))

    async def statuses(self) -> dict[str, Object]:
        """The status of every job by its name."""
        return {
            item["metadata"]["name"]: item.get("status") or {} for item in (await self.api.get(JOBS))["items"]
        }

    async def wait_for_phase(self, phase: str, wanted: Sequence[str], *, seconds: float) -> None:
        """Wait until these jobs are in a phase. Raises NotMeasured, with how many are in which."""

        async def missing() -> str:
            found = await self.statuses()
            phases = [(found.get(name) or {}).get("phase", "none") for name in wanted]
            others = {other: phases.count(other) for other in set(phases) - {phase}}
            if not others:
                return ""
            name = next(name for name, other in zip(wanted, phases, strict=True) if other != phase)
            return f"{others}, for example {name}: {json.dumps(found.get(name))[:1500]}"

        await self.wait(f"{len(wanted)} job(s) {phase}", missing, seconds=seconds)

    async def wait(self, what: str, missing: Callable[[], Awaitable[str]], *, seconds: float) -> None:
        """Wait until nothing is missing. Raises NotMeasured with what is, and where a program has ended."""
        deadline = time.monotonic() + seconds
        said = time.monotonic()
        while lacks := await missing():
            self.plane.check()
            if self.operator is not None:
                self.operator.check()
            if time.monotonic() > deadline:
                raise NotMeasured(f"no {what} in {seconds:.0f} s: {lacks}")
            if time.monotonic() - said > 15:
                said = time.monotonic()
                self.work.say(f"waiting for {what}: {lacks[:100]}")
            await asyncio.sleep(1.0)

    @asynccontextmanager
    async def gangs(self) -> AsyncIterator[Gangs]:
        """Watch PyTorchJobs within the block."""
        version = (await self.api.get(f"{GANGS}?limit=1"))["metadata"]["resourceVersion"]
        followed = Gangs()
        task = asyncio.create_task(followed.follow(self.api, version))
        try:
            yield followed
        finally:
            task.cancel()

    async def running_pods(self) -> list[Object]:
        """Pods of rank 0 that run."""
        query = f"labelSelector={names.LABEL_RANK}=0&fieldSelector=status.phase=Running"
        found: list[Object] = (await self.api.get(f"{PODS}?{query}"))["items"]
        return found


@asynccontextmanager
async def scene(work: Workplace) -> AsyncIterator[Scene]:
    """A fresh cluster with the operator in it and one job that has gone before: its claim is prepared."""
    programs = _programs()
    with control_plane(work.folder, programs) as plane:
        work.say("starting the control plane")
        async with connect(plane.server, plane.authority, plane.token(ADMIN)) as api:
            await _answering(plane, api)
            await _furnish(plane, api)
            start_controllers(plane)
            made = Scene(plane, api, work, AuditLog(plane.audit_log))
            try:
                await made.start_operator()
                work.say("preparing the claim with a first job, run to its end")
                await made.apply([job(FIRST, ends_soon=True)])
                await made.wait_for_phase("Succeeded", [FIRST], seconds=60)
                yield made
            except Exception:
                plane.check()  # where a program has ended, that is why
                raise
            finally:
                await made.stop_operator()


def _programs() -> dict[str, Path]:
    """The programs of hack/cluster. Raises NotMeasured where they are not built."""
    try:
        built = build.find_built(build.default_cache(), ("kwok",))
        return {program: built.path(program) for program in PROGRAMS}
    except ClusterError as problem:
        raise NotMeasured(f"python3 hack/cluster build --with kwok: {problem}") from problem


async def _answering(plane: ControlPlane, api: Api) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not await api.is_ready():
        plane.check()
        if time.monotonic() > deadline:
            raise NotMeasured(f"no API server in {START_SECONDS:.0f} s\n{plane.last_lines('kube-apiserver')}")
        await asyncio.sleep(0.2)


async def _furnish(plane: ControlPlane, api: Api) -> None:
    """CRDs, rights, namespaces, nodes and the shared claim."""
    upstream = build.find_built(build.default_cache()).manifests("training-operator")
    for file in (REPOSITORY / "crds", upstream / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"):
        _kubectl(plane, "apply", "--server-side", "-f", str(file))
    await api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", _rights())
    for name in (NAMESPACE, "kubeflow"):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await api.create("/api/v1/namespaces", namespace)
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "training-operator-webhook-cert"},
    }
    await api.create("/api/v1/namespaces/kubeflow/secrets", secret)
    for path, body in volume():
        await api.create(path, body)

    async def add(number: int) -> None:
        made = node(number)
        await api.create("/api/v1/nodes", made)
        path = f"/api/v1/nodes/{made['metadata']['name']}"
        await api.merge(f"{path}/status", {"status": made["status"]})
        # Every node begins as not ready; the controller that would take that back is not among ours.
        await api.merge(path, {"spec": {"taints": None}})

    await each(range(NUM_NODES), add)


def _rights() -> Object:
    """All, for the operator: what the chart grants is not what is measured here."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench-operator"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": OPERATOR_USER}],
    }


def _kubectl(plane: ControlPlane, *arguments: str) -> None:
    command = [str(plane.programs["kubectl"]), f"--kubeconfig={plane.kubeconfig(ADMIN)}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-1000:]}")
