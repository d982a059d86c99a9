"""What every pod of a job has in common: its security context, the volume, the config, where it may run.

Pods hold no API credentials, write only to the volume and to memory, and pass Pod Security `restricted`.
"""

from collections.abc import Sequence
from typing import Any

from phitune_operator import names
from phitune_operator.api import PodTemplateSpec
from phitune_operator.kinds import Object
from phitune_operator.render.affinity import REQUIRED, affinity
from phitune_operator.render.subject import Subject
from phitune_operator.restricted import restricted_container, restricted_pod

NODE_LOSS_TOLERATION_SECONDS = 5
"""How long a pod stays bound to a node that does not answer; Kubernetes's 300 s would hold up the gang."""
SCRATCH_PATH = "/tmp"  # noqa: S108 - inside the pod, on a volume of its own
SCRATCH_SIZE = "10Gi"
"""Upper bound of what a pod writes there."""


def pod_template(
    subject: Subject,
    container: Object,
    *,
    labels: dict[str, str],
    config: Object,
    anti_affinity: Object | None = None,
    zones: Sequence[str] = (),
    is_gang: bool = False,
) -> Object:
    """Return a pod template around one container.

    `config` is the source of the volume with the config. `anti_affinity` keeps the pods of a gang apart.
    `zones`: those to which the pod may go; none: any.
    """
    theirs = subject.spec.pod_template or PodTemplateSpec()
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": names.TERMINATION_GRACE_SECONDS,
        "securityContext": restricted_pod(),
        "tolerations": _tolerations(subject),
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": subject.claim_name}},
            {"name": "config", **config},
            {"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH_SIZE}},
        ],
    }
    resources = subject.spec.resources
    if resources.node_selector:
        spec["nodeSelector"] = dict(sorted(resources.node_selector.items()))
    if resources.priority_class_name is not None:
        spec["priorityClassName"] = resources.priority_class_name
    if subject.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in subject.spec.image_pull_secrets]
    ours = {"nodeAffinity": _on_chosen_nodes(subject, zones), "podAntiAffinity": anti_affinity or {}}
    if wishes := affinity(ours, theirs.affinity, is_gang=is_gang):
        spec["affinity"] = wishes
    if theirs.scheduler_name is not None:
        spec["schedulerName"] = theirs.scheduler_name
    metadata: Object = {"labels": {**(theirs.labels or {}), **labels}}
    if theirs.annotations:
        metadata["annotations"] = dict(theirs.annotations)
    return {"metadata": metadata, "spec": spec}


def container(
    subject: Subject, name: str, module: str, *, env: list[Object], resources: Object, **more: Any
) -> Object:
    """Return the container that runs a module of the trainer; the user's variables come first, ours win."""
    ours = [
        {"name": "HOME", "value": SCRATCH_PATH},
        {"name": names.ENV_CONFIG, "value": names.CONFIG_FILE},
        *env,
    ]
    taken = {variable["name"] for variable in ours}
    theirs = [
        {"name": variable.name, "value": variable.value}
        for variable in subject.spec.env or []
        if variable.name not in taken
    ]
    return {
        "name": name,
        "image": subject.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", module],
        "env": [*theirs, *ours],
        "resources": resources,
        "securityContext": restricted_container(),
        "volumeMounts": [
            {"name": "workspace", "mountPath": names.WORKSPACE_PATH},
            {"name": "config", "mountPath": names.CONFIG_PATH, "readOnly": True},
            {"name": "tmp", "mountPath": SCRATCH_PATH},
        ],
        **more,
    }


def _tolerations(subject: Subject) -> list[Object]:
    theirs = [
        toleration.model_dump(by_alias=True, exclude_none=True) for toleration in subject.spec.tolerations
    ]
    ours = [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOSS_TOLERATION_SECONDS,
        }
        for trouble in ("not-ready", "unreachable")
    ]
    return [*theirs, *ours]


def _on_chosen_nodes(subject: Subject, zones: Sequence[str]) -> Object:
    if not subject.selectors:
        return {}
    there = [{"key": names.LABEL_ZONE, "operator": "In", "values": list(zones)}] if zones else []
    terms = [
        {"matchExpressions": [*(_expression(wish) for wish in selector.split(",")), *there]}
        for selector in subject.selectors
    ]
    return {REQUIRED: {"nodeSelectorTerms": terms}}


def _expression(wish: str) -> Object:
    if wish.startswith("!"):
        return {"key": wish[1:], "operator": "DoesNotExist"}
    key, _, value = wish.partition("=")
    return {"key": key, "operator": "In", "values": [value]}
