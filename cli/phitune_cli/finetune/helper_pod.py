"""A pod that holds a volume open for a while, for `kubectl finetune` to copy to it and from it.

It has the trainer's image and passes Pod Security `restricted`. It is removed when its block ends, on Ctrl-C
too; should the command be killed, it ends of itself, and the next helper pod of the claim removes it.
"""

import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.problems import Problem, Unreachable, WrongInput
from phitune_cli.finetune.volume_agent import ALIVE
from phitune_operator import names
from phitune_operator.kinds import POD, Object
from phitune_operator.restricted import restricted_container, restricted_pod

CONTAINER: Final = "volume"
MANAGER: Final = "kubectl-finetune"
LABEL_CLAIM: Final = f"{names.GROUP}/claim"
START_SECONDS: Final = 300.0
"""How long the pod may take to start: an image of some GB may have to be pulled, a volume attached."""
UNASKED_SECONDS: Final = 900
"""After which the pod ends when nobody asks its agent for anything."""
_POLL_SECONDS: Final = 0.5
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command; main.py has them tidied up after."""
_HOPELESS: Final = ("InvalidImageName", "CreateContainerConfigError")
"""Reasons of a container that waits for what will not come by itself."""
_PULLS: Final = ("ErrImagePull", "ImagePullBackOff")
"""Reasons of a container whose image was not had, at the first try or at a later one."""
_PULL_SECONDS: Final = 60.0
"""How long an image may be tried in vain: one failure may be the registry's, and the kubelet tries again."""

_WAIT: Final = f"""\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
open({ALIVE!r}, "w").close()
while time.time() - os.stat({ALIVE!r}).st_mtime < {UNASKED_SECONDS}:
    time.sleep(2)
"""


def manifest(
    name: str, claim: str, image: str, *, pull_secrets: Sequence[str] = (), beside: Sequence[Object] = ()
) -> Object:
    """Return the pod; `beside`: pods to whose nodes it should rather go, for a volume may be on one only."""
    labels = {
        names.LABEL_NAME: MANAGER,
        names.LABEL_MANAGED_BY: MANAGER,
        LABEL_CLAIM: claim[:63].rstrip("-."),
    }
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _WAIT],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - inside the pod, on a volume of its own
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "2Gi"},
        },
        "securityContext": restricted_container(),
        "volumeMounts": [
            {"name": "workspace", "mountPath": names.WORKSPACE_PATH},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
        ],
    }
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": restricted_pod(),
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }
    if pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in pull_secrets]
    if tolerations := tolerations_of(beside):
        spec["tolerations"] = tolerations
    if nodes := nodes_of(beside):
        # A field takes one value alone.
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in nodes
        ]
        wishes = [{"weight": 100, "preference": term} for term in terms]
        spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}
    return {
        "apiVersion": POD.api_version,
        "kind": POD.kind,
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


@contextmanager
def helper_pod(
    cluster: Cluster,
    claim: str,
    image: str,
    *,
    say: Callable[[str], None],
    pull_secrets: Sequence[str] = (),
) -> Iterator[str]:
    """Within this block a helper pod runs: its name. WrongInput where the cluster will not have it."""
    name = f"phitune-volume-{secrets.token_hex(4)}"
    _remove_ended(cluster, claim)
    try:
        beside = holders_of(claim, cluster.list(POD))
        cluster.create(POD, manifest(name, claim, image, pull_secrets=pull_secrets, beside=beside))
        say(f"a helper pod, {name}, opens the claim {claim}")
        _wait_until_it_runs(cluster, name, claim, say)
        yield name
    finally:
        # Whoever presses Ctrl-C again, or closes the terminal, must not leave the pod behind.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
        try:
            cluster.delete(POD, name, grace_seconds=1)
        except Problem as problem:  # it must not hide what ended the block
            say(f"the helper pod {name} is not removed, but ends of itself: {problem}")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def holders_of(claim: str, pods: Sequence[Object]) -> list[Object]:
    """The pods on whose nodes the claim's volume is: if ReadWriteOnce, it is had nowhere else; pure."""
    return [
        pod
        for pod in pods
        if pod["spec"].get("nodeName") and pod["status"].get("phase") in ("Pending", "Running")
        if any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == claim
            for volume in pod["spec"].get("volumes") or []
        )
    ]


def nodes_of(pods: Sequence[Object]) -> list[str]:
    """Where they are; pure."""
    return sorted({pod["spec"]["nodeName"] for pod in pods})


def tolerations_of(pods: Sequence[Object]) -> list[Object]:
    """Each toleration that one of them has: their nodes may take no pod without; pure."""
    found: list[Object] = []
    for pod in pods:
        found += [one for one in pod["spec"].get("tolerations") or [] if one not in found]
    return found


def _remove_ended(cluster: Cluster, claim: str) -> None:
    """Remove what a killed command has left: a pod that has ended of itself."""
    labels = f"{names.LABEL_MANAGED_BY}={MANAGER},{LABEL_CLAIM}={claim[:63].rstrip('-.')}"
    for pod in cluster.list(POD, labels):
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            cluster.delete(POD, pod["metadata"]["name"], grace_seconds=0)


def _wait_until_it_runs(cluster: Cluster, name: str, claim: str, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    not_pulled_since = 0.0
    said = ""
    while True:
        pod = cluster.get(POD, name)
        if pod is None:
            raise Unreachable(f"the helper pod {name} was deleted")
        status = pod.get("status") or {}
        if status.get("phase") == "Running":
            return
        why, reason = why_it_waits(status)
        now = time.monotonic()
        not_pulled_since = (not_pulled_since or now) if reason in _PULLS else 0.0
        if status.get("phase") in ("Succeeded", "Failed") or is_in_vain(reason, now - not_pulled_since):
            raise WrongInput(f"the helper pod does not start: {why or status.get('message', 'it ended')}")
        if why != said:
            said = why
            say(f"waiting for the helper pod: {why}")
        if now - begun > START_SECONDS:
            why = why or held_elsewhere(pod, claim, cluster.list(POD)) or "no reason given"
            raise Unreachable(f"the helper pod has not started in {START_SECONDS:.0f} s: {why}")
        time.sleep(_POLL_SECONDS)


def held_elsewhere(helper: Object, claim: str, pods: Sequence[Object]) -> str:
    """In words, which other nodes than the helper pod's have the claim; empty if its own has it too; pure."""
    node, name = helper["spec"].get("nodeName"), helper["metadata"]["name"]
    others = nodes_of([pod for pod in holders_of(claim, pods) if pod["metadata"]["name"] != name])
    if node is None or not others or node in others:
        return ""
    return (
        f"it is on node {node}, and the claim {claim} is in use on {', '.join(others)}: if it is "
        "ReadWriteOnce, it cannot be on both; then wait until the pods there have ended"
    )


def is_in_vain(reason: str, seconds: float) -> bool:
    """Whether waiting is of no use, where the image has not been had for so many seconds; pure."""
    return reason in _HOPELESS or (reason in _PULLS and seconds > _PULL_SECONDS)


def why_it_waits(status: Object) -> tuple[str, str]:
    """What a pod that does not run yet waits for: in words, and the reason as Kubernetes has it; pure."""
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS + _PULLS:
            words = f"{waiting['reason']}: {waiting.get('message', '')}"
            return f"{words} (image {container.get('image')}); --image names another", waiting["reason"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason = condition.get("reason", "")
            return f"{reason}: {condition.get('message', '')}", reason
    return "", ""
