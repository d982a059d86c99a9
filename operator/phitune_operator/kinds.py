"""The kinds of object that the operator reads or writes, and where the API server serves them.

Objects are plain dicts, as the API server sends them: no classes between us and what a user sees in YAML.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from phitune_operator import names

Object = dict[str, Any]
"""A Kubernetes object, as read from JSON."""


class Key(NamedTuple):
    """Names one FineTuneJob; everything that concerns it is asked for by this."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Kind:
    """One kind of object and the path under which it is served."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As objects of the kind say it: group and version."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of one object, or of all in a namespace, or (no namespace) of all there are."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)

    def __str__(self) -> str:
        return self.kind


FINETUNEJOB: Final = Kind(names.GROUP, names.VERSION, names.PLURAL, names.KIND)
PYTORCHJOB: Final = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
JOBSET: Final = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
TRAINJOB: Final = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
TRAINING_RUNTIME: Final = Kind("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime")
POD_GROUP: Final = Kind("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup")
JOB: Final = Kind("batch", "v1", "jobs", "Job")
POD: Final = Kind("", "v1", "pods", "Pod")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
CLAIM: Final = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NODE: Final = Kind("", "v1", "nodes", "Node")
EVENT: Final = Kind("", "v1", "events", "Event")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
WORKLOAD: Final = Kind("kueue.x-k8s.io", "v1beta1", "workloads", "Workload")
LOCAL_QUEUE: Final = Kind("kueue.x-k8s.io", "v1beta1", "localqueues", "LocalQueue")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")

GANGS: Final = (PYTORCHJOB, JOBSET, TRAINJOB)
"""Kinds that run the pods of an attempt, the preferred one first. A cluster need not have them all."""
NEEDS: Final = (TRAINING_RUNTIME, POD_GROUP)
"""Kinds of what a gang may need: made before it, and removed with it."""
OPTIONAL: Final = (*GANGS, *NEEDS)
"""Kinds that a cluster may not have."""
CHILDREN: Final = (CLAIM, CONFIG_MAP, JOB, *OPTIONAL, POD)
"""Kinds that belong to a job, found by their labels."""
WATCHED: Final = (FINETUNEJOB, *CHILDREN)
"""Kinds that are watched, as far as the cluster has them."""

CHILD_SELECTOR: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGER},{names.LABEL_JOB}"
"""Label selector of every child: bounds what the operator lists, watches and holds."""


_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in (*WATCHED, NETWORK_POLICY, NODE, EVENT)}


def kind_of(obj: Object) -> Kind:
    """Return the kind that an object says it is."""
    return _BY_NAME[obj["apiVersion"], obj["kind"]]


def name_of(obj: Object) -> str:
    """Return metadata.name."""
    return str(obj["metadata"]["name"])


def uid_of(obj: Object) -> str:
    """Return metadata.uid, which no other object ever has; empty before the object exists."""
    return str(obj["metadata"].get("uid", ""))


def labels_of(obj: Object) -> dict[str, str]:
    """Return metadata.labels."""
    return obj["metadata"].get("labels") or {}


def is_terminating(obj: Object) -> bool:
    """Whether the object is being deleted."""
    return obj["metadata"].get("deletionTimestamp") is not None


def controllers_of(obj: Object) -> set[str]:
    """Return the uid of the object's controller; empty if it has none."""
    owners = obj["metadata"].get("ownerReferences") or []
    return {str(owner.get("uid")) for owner in owners if owner.get("controller")}


def is_controlled_by(obj: Object, uid: str) -> bool:
    """Whether the object's controller is the owner with this uid."""
    return uid in controllers_of(obj)


def is_controlled_by_name(obj: Object, kind: Kind, name: str) -> bool:
    """Whether the object's controller is, or was, of this kind and name, in the object's namespace."""
    owners = obj["metadata"].get("ownerReferences") or []
    expected = {"apiVersion": kind.api_version, "kind": kind.kind, "name": name}
    return any(owner.get("controller") and expected.items() <= owner.items() for owner in owners)
