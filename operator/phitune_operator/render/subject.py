"""What every rendered object is about: one job, with what was decided for it."""

from dataclasses import dataclass, field
from typing import Any

from phitune_operator import names
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.observed import HubAccess
from phitune_trainer.config import TrainConfig


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
    product: str = ""
    """Value of `nvidia.com/gpu.product` of the nodes to run on; empty: any node."""
    hub: HubAccess = field(default_factory=HubAccess)

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

    def metadata(self, name: str, *, is_owned: bool = True, **labels: str) -> dict[str, Any]:
        """Metadata of a child; an owned one goes when the job goes."""
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(**labels),
        }
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
