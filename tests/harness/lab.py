"""What a test does with FineTuneJobs in one namespace: apply, wait, look at pods, put files on a claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.cluster import Cluster, Object, wait_for

T = TypeVar("T")
FINISHED = ("Succeeded", "Failed")
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Lab:
    """A namespace with jobs in it."""

    cluster: Cluster
    namespace: str
    trainer_image: str

    def apply(self, *objects: Object) -> None:
        """`kubectl apply` into the namespace."""
        self.cluster.apply(*objects, namespace=self.namespace)

    def apply_text(self, manifest: str) -> None:
        """`kubectl apply` of YAML as it is, read by kubectl's rules and not by Python's."""
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=manifest)

    def job(self, name: str) -> Object:
        """The FineTuneJob as it is now."""
        job = self.cluster.get("finetunejob", name, self.namespace)
        assert job is not None, f"the FineTuneJob {name} is gone"
        return job

    def status(self, name: str) -> Object:
        """Its status; empty until the operator has looked at it."""
        status: Object = self.job(name).get("status", {})
        return status

    def delete(self, name: str) -> None:
        """Delete the FineTuneJob and wait until it is gone."""
        self.cluster.kubectl("delete", "finetunejob", name, "-n", self.namespace, "--timeout", "120s")

    def wait(self, what: str, predicate: Callable[[], T | None], *, timeout: float = 120) -> T:
        """Wait until the predicate has an answer; at the time-out, show everything there is to know."""
        return wait_for(
            predicate, timeout, lambda: f"still no {what}\n{self.cluster.diagnosis(self.namespace)}"
        )

    def wait_for_phase(self, name: str, *phases: str, timeout: float = 240) -> Object:
        """Wait until the job's phase is one of these and return its status; fail early at another end."""

        def reached() -> Object | None:
            status = self.status(name)
            phase = status.get("phase")
            if phase in FINISHED and phase not in phases:
                seen = self.cluster.diagnosis(self.namespace)
                raise AssertionError(f"{name} is {phase}, expected {' or '.join(phases)}\n{seen}")
            return status if phase in phases else None

        return self.wait(f"phase {' or '.join(phases)} of {name}", reached, timeout=timeout)

    def wait_for_condition(self, name: str, kind: str, value: str, *, timeout: float = 120) -> Object:
        """Wait for a condition of the job to have this value, and return the condition."""

        def reached() -> Object | None:
            condition = self.condition(name, kind)
            return condition if condition.get("status") == value else None

        return self.wait(f"condition {kind}={value} of {name}", reached, timeout=timeout)

    def condition(self, name: str, kind: str) -> Object:
        """A condition of the job; empty if it was never set."""
        conditions: list[Object] = self.status(name).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def wait_for_step(self, name: str, step: int, *, attempt: int = 1, timeout: float = 240) -> int:
        """Wait until status says that this attempt has done so many steps; returns how many it says."""

        def reached() -> int | None:
            status = self.status(name)
            done = int(status.get("progress", {}).get("step", 0))
            if attempt > 1 and self.condition(name, "Running").get("status") != "True":
                return None  # what it says is of the attempt before
            return done if status.get("attempt", 0) >= attempt and done >= step else None

        return self.wait(f"step {step} of {name} in attempt {attempt}", reached, timeout=timeout)

    def wait_for_checkpoint(self, name: str, *, timeout: float = 240) -> int:
        """Wait until status names a checkpoint; returns its step."""

        def reached() -> int | None:
            step = self.status(name).get("lastCheckpoint", {}).get("step")
            return int(step) if step else None

        return self.wait(f"checkpoint of {name}", reached, timeout=timeout)

    def pods(self, name: str, *, role: str = "", attempt: int | None = None) -> list[Object]:
        """The job's pods, by role (prepare, trainer) and attempt if given."""
        labels = [f"phitune.dev/job={name}"]
        labels += [f"phitune.dev/role={role}"] if role else []
        labels += [f"phitune.dev/attempt={attempt}"] if attempt else []
        return self.cluster.list("pods", self.namespace, ",".join(labels))

    def gangs(self, name: str) -> list[str]:
        """Names of the PyTorchJobs that there are of the job."""
        found = self.cluster.list("pytorchjobs", self.namespace, f"phitune.dev/job={name}")
        return sorted(one["metadata"]["name"] for one in found)

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of every Event about the FineTuneJob."""
        events = self.cluster.list("events", self.namespace)
        return [
            (event["reason"], event.get("message", ""))
            for event in events
            if event["involvedObject"].get("kind") == "FineTuneJob"
            and event["involvedObject"]["name"] == name
        ]

    def suspend(self, name: str, value: bool) -> None:
        """Set spec.runPolicy.suspend."""
        self.cluster.patch("finetunejob", name, self.namespace, {"spec": {"runPolicy": {"suspend": value}}})

    def exec_python(self, pod: str, script: str, *args: str) -> str:
        """Run Python in a training pod's container and return what it printed."""
        where = ["-n", self.namespace, pod, "-c", "pytorch"]
        return self.cluster.kubectl("exec", *where, "--", "python3", "-c", script, *args)

    def make_claim(self, name: str, *, mode: str = "ReadWriteMany", **annotations: str) -> None:
        """Make a claim of 1 GiB of the cluster's default storage class."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "annotations": annotations},
                "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
            }
        )

    def on_claim(self, claim: str, script: str, *, timeout: float = 120) -> str:
        """Run Python in a pod of its own with a claim at /workspace, and return what it printed."""
        name = f"on-{claim}"
        self.apply(helper_pod(name, claim, self.trainer_image, script))
        try:

            def ended() -> str | None:
                pod = self.cluster.get("pod", name, self.namespace)
                phase = pod["status"].get("phase") if pod else None
                return phase if phase in FINISHED else None

            phase = self.wait(f"end of the pod {name}", ended, timeout=timeout)
            said = self.cluster.kubectl("logs", name, "-n", self.namespace)
            assert phase == "Succeeded", f"the script on claim {claim} failed:\n{said}"
            return said
        finally:
            self.cluster.kubectl("delete", "pod", name, "-n", self.namespace, "--grace-period", "1")


def last_words(pod: Object) -> Object:
    """The termination message of a pod's only container, as JSON."""
    (status,) = pod["status"]["containerStatuses"]
    words: Object = json.loads(status["state"]["terminated"]["message"])
    return words


def helper_pod(name: str, claim: str, image: str, script: str) -> Object:
    """A pod that `restricted` admits, running a Python script as the user of the training pods."""
    container: dict[str, Any] = {
        "name": "script",
        "image": image,
        "command": ["python3", "-c", script],
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }


def occupant(name: str, image: str, node: str, *, label: str = "", **resources: dict[str, str]) -> Object:
    """A pod that holds so much of a node and sleeps. `label` is on it; by default its name."""
    pod = helper_pod(name, "", image, "import time; time.sleep(600)")
    pod["metadata"]["labels"] = {label or name: "true"}
    pod["spec"] |= {"nodeName": node, "volumes": []}
    (container,) = pod["spec"]["containers"]
    container |= {"resources": resources, "volumeMounts": []}
    return pod


def away_from(label: str) -> Object:
    """The podTemplate of pods that go to no node where an occupant with this label is.

    The scheduler alone sees to that: the operator counts CPUs and memory.
    """
    beside = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {label: "true"}}}
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}}}
