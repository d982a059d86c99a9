"""Faults of what all jobs share: the control plane, the nodes, the kinds. One after the other."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from harness.cluster import OPERATOR_NAMESPACE, Cluster, CommandError, run, wait_for
from harness.installed import CRD, RELEASE
from harness.lab import Lab
from harness.oracle import Verdict, left_over
from harness.provision import hack_cluster
from harness.trial import OWNED, Trial
from localkube import processes
from localkube.paths import Paths
from phitune_operator.clock import from_text
from phitune_operator.kinds import uid_of
from phitune_operator.names import LABEL_JOB

TRAINING_OPERATOR = ("training-operator", "kubeflow")
GANG_CRD = "pytorchjobs.kubeflow.org"
AWAY = 30.0
"""Seconds for which something is not there."""
GOES_ON = 60.0
"""Seconds within which training goes on after a node was marked unreachable."""
BACK = 120.0
"""Seconds that the cluster gets to be itself again."""


@contextmanager
def repaired(cluster: Cluster) -> Iterator[None]:
    """Bring back, after the block, whatever it has broken."""
    try:
        yield
    finally:
        on(cluster, "up")
        wait_for(lambda: all_available(cluster), BACK, lambda: "the operators are not back")


def all_available(cluster: Cluster) -> bool:
    """Whether both operators are at work."""
    both = [
        cluster.get("deployment", *TRAINING_OPERATOR),
        cluster.get("deployment", RELEASE, OPERATOR_NAMESPACE),
    ]
    return all(one and one["status"].get("availableReplicas") for one in both)


def on(cluster: Cluster, *command: str) -> None:
    """A command of hack/cluster about this cluster."""
    run(hack_cluster(*command, "--state", str(cluster.state)), timeout=600)


def kill_node(cluster: Cluster, name: str) -> None:
    """End all processes of a node at once."""
    run(hack_cluster("node", "--state", str(cluster.state), name, "kill"), timeout=60)


def process(cluster: Cluster, name: str) -> int:
    """Pid of a part of the cluster."""
    assert cluster.state is not None
    record = processes.read(Paths(cluster.state).processes, name)
    assert record is not None
    assert record.is_alive()
    return record.identity.pid


def two_jobs(strike: Callable[[Cluster, list[Trial]], None]) -> Callable[[Trial], list[Verdict]]:
    """Strike while two jobs train, and judge both."""

    def tried(trial: Trial) -> list[Verdict]:
        names = ("first", "second")
        trials = [Trial(trial.lab, trial.recorder, name, trial.figures) for name in names]
        with repaired(trial.lab.cluster):
            for one in trials:
                one.begin()
            for one in trials:
                one.until_saved()
            strike(trial.lab.cluster, trials)
            return [one.verdict() for one in trials]

    return tried


def api_server_killed(cluster: Cluster, trials: list[Trial]) -> None:
    os.kill(process(cluster, "kube-apiserver"), signal.SIGKILL)
    time.sleep(60)
    on(cluster, "up")


def etcd_stopped(cluster: Cluster, trials: list[Trial]) -> None:
    etcd = process(cluster, "etcd")
    os.kill(etcd, signal.SIGSTOP)
    try:
        trials[0].kill_worker()  # what comes of it nobody can write down yet
        time.sleep(20)
    finally:
        os.kill(etcd, signal.SIGCONT)


def etcd_slow(cluster: Cluster, trials: list[Trial]) -> None:
    etcd = process(cluster, "etcd")
    trials[0].kill_worker()
    end = time.monotonic() + 45
    while time.monotonic() < end:
        os.kill(etcd, signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(etcd, signal.SIGCONT)
        time.sleep(0.2)


def kubelets_restarted(cluster: Cluster, trials: list[Trial]) -> None:
    for name in ("node-1", "node-2"):
        os.kill(process(cluster, f"{name}-kubelet"), signal.SIGKILL)
    on(cluster, "up")


def spare_node(cluster: Cluster) -> str:
    """The node without our operator: with one replica its loss would be another fault."""
    selector = "app.kubernetes.io/name=phitune-operator"
    (operator,) = cluster.list("pods", OPERATOR_NAMESPACE, selector)
    return "node-1" if operator["spec"]["nodeName"] == "node-2" else "node-2"


def node_lost(cluster: Cluster, trials: list[Trial]) -> None:
    lost = spare_node(cluster)
    on(cluster, "cut", lost)
    kill_node(cluster, lost)
    goes_on_in_time(cluster, trials, lost)
    for one in trials:
        one.until_ended()
    on(cluster, "up")  # what was on the node is nobody's to remove before it is back


def node_lost_and_back(cluster: Cluster, trials: list[Trial]) -> None:
    lost = spare_node(cluster)
    on(cluster, "cut", lost)
    goes_on_in_time(cluster, trials, lost)
    on(cluster, "heal", lost)


def goes_on_in_time(cluster: Cluster, trials: list[Trial], lost: str) -> None:
    """Wait until all train again, and complain if that took too long from when the node was given up."""
    marked = wait_for(lambda: unreachable_since(cluster, lost), BACK, lambda: f"{lost} is not given up")
    went_on = max(one.until_step_of_start(2) for one in trials)
    took = went_on - marked.timestamp()
    trials[0].figures["from the node marked unreachable to the next step"] = took
    assert took <= GOES_ON, f"training went on after {took:.0f} s"


def unreachable_since(cluster: Cluster, node: str) -> datetime | None:
    """When the node was marked unreachable, which makes its pods go; None if it is not."""
    found = cluster.get("node", node)
    assert found is not None
    taints = {taint["key"]: taint for taint in found["spec"].get("taints") or []}
    return from_text((taints.get("node.kubernetes.io/unreachable") or {}).get("timeAdded"))


def node_drained(cluster: Cluster, trials: list[Trial]) -> None:
    drained = trials[0].worker["spec"]["nodeName"]
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", "240s")
    try:
        cluster.kubectl("drain", drained, *options)
    finally:
        cluster.kubectl("uncordon", drained)


def training_operator_restarted(cluster: Cluster, trials: list[Trial]) -> None:
    name, namespace = TRAINING_OPERATOR
    cluster.kubectl("rollout", "restart", "deployment", name, "-n", namespace)
    trials[0].kill_worker()


def training_operator_absent(cluster: Cluster, trials: list[Trial]) -> None:
    name, namespace = TRAINING_OPERATOR
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas", "0")
    trials[0].kill_worker()
    trials[0].until_attempt(2)
    time.sleep(AWAY)
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas", "1")


@contextmanager
def without_kind(cluster: Cluster, crd: str) -> Iterator[None]:
    """Delete a CRD, and every object of its kind with it; put it back after the block."""
    found = cluster.get("crd", crd)
    assert found is not None
    kept = ("annotations", "labels", "name")
    metadata = {name: value for name, value in found["metadata"].items() if name in kept}
    before = {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "metadata": metadata,
        "spec": found["spec"],
    }
    cluster.kubectl("delete", "crd", crd, "--timeout", "120s")
    try:
        yield
    finally:
        # Not applied: the annotation that holds what was applied would be too large.
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(before))


def gang_kind_missing(cluster: Cluster, trials: list[Trial]) -> None:
    with without_kind(cluster, GANG_CRD):
        time.sleep(AWAY)


def job_kind_missing(trial: Trial) -> list[Verdict]:
    """Jobs go with their kind, and their children with them; kept volumes stay, and the operator goes on."""
    trial.begin()
    trial.until_saved()
    with without_kind(trial.lab.cluster, CRD):
        gone = Verdict(orphans=tuple(children_left(trial)))
    old = uid_of(trial.job) if trial.job else ""
    wait_for(lambda: begins(trial), BACK, lambda: "the kind is not served again")
    trial.until("new job", lambda: trial.job and uid_of(trial.job) != old)
    return [gone, trial.verdict()]


def begins(trial: Trial) -> bool:
    """Apply the job, if its kind is served again."""
    try:
        trial.begin()
    except CommandError:
        return False
    return True


def namespace_deleted(trial: Trial) -> list[Verdict]:
    """Jobs, children and volumes go with their namespace; the operator goes on in the others."""
    cluster = trial.lab.cluster
    with cluster.temporary_namespace("short-lived") as name:
        doomed = Trial(Lab(cluster, name, trial.lab.trainer_image), trial.recorder, "doomed")
        doomed.begin()
        trial.begin()
        doomed.until_saved()
        cluster.kubectl("delete", "namespace", name, "--timeout", "240s")
        stays = () if cluster.get("namespace", name) is None else ("the namespace",)
        cluster.kubectl("create", "namespace", name)
    return [Verdict(orphans=stays), trial.verdict()]


def children_left(trial: Trial) -> list[str]:
    """What is left of a job that is gone, beside its volume, after a while."""
    kinds = OWNED.replace("finetunejobs,", "")

    def left() -> list[str]:
        text = trial.kubectl("get", kinds, "-l", f"{LABEL_JOB}={trial.name}", "-o", "json")
        found = [one for one in json.loads(text)["items"] if one["kind"] != "PersistentVolumeClaim"]
        return [*left_over(found), *(f"{one['kind']} {one['metadata']['name']}" for one in found)]

    end = time.monotonic() + BACK
    while (now := left()) and time.monotonic() < end:
        time.sleep(1)
    return now
