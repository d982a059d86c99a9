"""What every rendered object is about: one job, with what was decided for it."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from phitune_operator import names
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.cluster_settings import NetworkProfile
from phitune_operator.kinds import PYTORCHJOB
from phitune_operator.observed import HubAccess, NetworkAccess
from phitune_trainer.config import TrainConfig

OF_PODS: Final[dict[str, bool | set[str]]] = {
    "image": True,
    "image_pull_secrets": True,
    "env": True,
    "pod_template": True,
    "queue_name": True,
    "resources": {"cpu", "memory", "shared_memory", "tolerations", "node_selector", "priority_class_name"},
}
"""Fields of the spec that may be changed, and that pods are made of."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A job whose image, config and GPU product are decided."""

    namespace: str
    name: str
    uid: str
    spec: FineTuneJobSpec
    train: TrainConfig
    """The config that its pods read; the size of the gang comes from here, so that the two never differ."""
    image: str
    cpu: str
    """CPUs that each training pod requests."""
    memory: str
    """Memory of each training pod."""
    selectors: tuple[str, ...] = ()
    """Selectors of labels, of which the nodes to run on must match one; none: any node."""
    zones: tuple[str, ...] = ()
    """Zones in which the volume may be made; none: any."""
    gpu_resource: str = names.GPU_RESOURCE
    """What training pods ask for to get GPUs."""
    profile: NetworkProfile | None = None
    """How training pods reach each other; None: as they find it."""
    hub: HubAccess = field(default_factory=HubAccess)
    network: NetworkAccess | None = None
    """None: without NetworkPolicies."""
    backend: str = PYTORCHJOB.kind
    """Kind of the gangs."""
    workload_priority: str = ""
    """Kueue's WorkloadPriorityClass; empty: the priority of the pods counts."""
    has_pod_group: bool = False
    """Whether the cluster's scheduler places its gangs whole."""

    @property
    def num_nodes(self) -> int:
        """Pods of the gang."""
        return self.train.world.nodes

    @property
    def processes_per_node(self) -> int:
        """Ranks of each pod."""
        return self.train.world.processes_per_node

    @property
    def gpus_per_node(self) -> int:
        """GPUs of each pod; 0 on CPU."""
        return self.processes_per_node if self.train.world.device == "cuda" else 0

    @property
    def claim_name(self) -> str:
        """The claim of the volume: the user's, or the one that we make."""
        return self.spec.storage.claim_name or names.workspace_claim(self.name)

    @property
    def run_folder(self) -> str:
        """Folder of the run, relative to the volume's root."""
        return str(self.train.run_dir.relative_to(self.train.run.workspace))

    @property
    def pods_hash(self) -> str:
        """Changes with the fields of the spec that pods are made of, and not with the operator's version."""
        said = self.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=OF_PODS)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def place(self) -> str:
        """Changes with the nodes to which the pod of prepare may go, as far as the operator chooses them."""
        return " or ".join(self.selectors) + "".join(f" in {zone}" for zone in self.zones)

    def labels(self, **more: str) -> dict[str, str]:
        """Labels of every child; `more` are role, attempt and rank."""
        keys = {"role": names.LABEL_ROLE, "attempt": names.LABEL_ATTEMPT, "rank": names.LABEL_RANK}
        return {
            names.LABEL_NAME: names.LABEL_NAME_VALUE,
            names.LABEL_MANAGED_BY: names.MANAGER,
            names.LABEL_JOB: self.name,
            names.LABEL_JOB_UID: self.uid,
            **{keys[what]: value for what, value in more.items()},
        }

    def metadata(
        self, name: str, *, is_owned: bool = True, makes_pods: bool = False, **labels: str
    ) -> dict[str, Any]:
        """Metadata of a child; an owned one goes when the job goes, one that makes pods says from what."""
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(**labels),
        }
        if makes_pods:
            metadata["annotations"] = {names.ANNOTATION_PODS: self.pods_hash}
        if is_owned:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": self.name,
                    "uid": self.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ]
        return metadata
