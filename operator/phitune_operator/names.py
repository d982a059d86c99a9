"""The one home of names: what the API, the children, the labels and the conditions are called.

Children's names are functions of the job's name (and the attempt) alone, so that a replay finds what an
earlier pass made, and `MAX_JOB_NAME` leaves room for the longest of them.
"""

from collections.abc import Mapping
from typing import Final

GROUP: Final = "phitune.dev"
TRAINING_OPERATOR_GROUP: Final = "training.kubeflow.org"
"""Of the labels by which the Kubeflow training-operator finds its pods."""
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
LIST_KIND: Final = "FineTuneJobList"
PLURAL: Final = "finetunejobs"
SINGULAR: Final = "finetunejob"
SHORT_NAME: Final = "ftj"

# Job and pod names.
MAX_JOB_NAME: Final = 40
"""Characters. The longest pod name, `<job>-<attempt>-worker-<index>`, stays within DNS-1035's 63 with
attempts of 6 digits and indices of 4."""
JOB_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035: the children's names, which become host names, start with the job's."""

# Labels: on every child and pod.
LABEL_JOB: Final = f"{GROUP}/job"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""Only on the gang: the PyTorchJob and its pods."""
LABEL_ROLE: Final = f"{GROUP}/role"
ROLE_PREPARE: Final = "prepare"
ROLE_TRAINER: Final = "trainer"
LABEL_RANK: Final = f"{GROUP}/rank"
"""`"0"` on the master pod: `kubectl logs -f -l phitune.dev/job=NAME,phitune.dev/rank=0` follows them all."""
LABEL_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""Which pod of an indexed Job one is, set by Kubernetes: the node rank, in a gang that is a JobSet."""
LABEL_POD_GROUP: Final = f"{GROUP}/pod-group"
"""On the pods of a gang that the scheduler places whole, and on the gang: name of their PodGroup. A policy of
the chart's makes `spec.schedulingGroup` of it as they are created: most controllers would drop that field."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
LABEL_WORKLOAD_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
"""Taken over from the FineTuneJob: names the WorkloadPriorityClass."""
LABEL_WORKLOAD_OF: Final = "kueue.x-k8s.io/job-uid"
"""On a Workload of Kueue's: the uid of what it speaks for."""
ANNOTATION_PODS: Final = f"{GROUP}/pods"
"""On the prepare Job and the gang: a hash of what their pods were made of, of what may change in a spec."""
ANNOTATION_PLACE: Final = f"{GROUP}/place"
"""On the prepare Job: to which nodes its pod may go."""
ANNOTATION_CONFIG: Final = f"{GROUP}/train.yaml"
"""On the prepare pod: the config that it reads, which nobody has decided on for good yet."""
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_NAME_VALUE: Final = "phitune"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "phitune-operator"
"""Value of the managed-by label, and the field manager of server-side apply."""
LABEL_GPU_PRODUCT: Final = "nvidia.com/gpu.product"
"""On nodes, set by GPU feature discovery."""
LABEL_ZONE: Final = "topology.kubernetes.io/zone"
"""On nodes, and on volumes that belong to a zone."""
ANNOTATION_SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
"""On a claim whose volume waited for its first pod, set by the scheduler: the node that the pod got."""
GPU_RESOURCE: Final = "nvidia.com/gpu"

# Types of the conditions in status.
CONDITION_ACCEPTED: Final = "Accepted"
"""The spec is understood and can run here; False says why not, with the remedy."""
CONDITION_PREPARED: Final = "Prepared"
"""Model and data lie on the volume."""
CONDITION_RUNNING: Final = "Running"
"""All pods of the gang run."""
CONDITION_RESTARTING: Final = "Restarting"
"""The end of the newest gang is judged and counted; the next one follows when it is cleared away."""
CONDITION_SUSPENDED: Final = "Suspended"
CONDITION_SUCCEEDED: Final = "Succeeded"
CONDITION_FAILED: Final = "Failed"
REASON_NO_ROOM: Final = "NoRoom"
"""Of Running: the next attempt waits for nodes that others hold."""

# Inside the pods.
TRAINER_CONTAINER: Final = "pytorch"
PREPARE_CONTAINER: Final = "prepare"
WORKSPACE_PATH: Final = "/workspace"
CONFIG_PATH: Final = "/etc/phitune"
CONFIG_KEY: Final = "train.yaml"
CONFIG_FILE: Final = f"{CONFIG_PATH}/{CONFIG_KEY}"
JOBSET_NODES: Final = "n"
"""Name of the replicated Job of a JobSet: short, for pods' names have to stay within 63 characters."""
MASTER_PORT: Final = 23456
"""At which the ranks of a JobSet meet, on the pod of node rank 0."""
PROGRESS_PORT: Final = 8471
PROGRESS_PORT_NAME: Final = "progress"
ENV_CONFIG: Final = "PHITUNE_CONFIG"
ENV_ATTEMPT: Final = "PHITUNE_ATTEMPT"
ENV_HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of a variable
HUB_TOKEN_VARIABLES: Final = (ENV_HUB_TOKEN, "HUGGING_FACE_HUB_TOKEN")
"""Where the hub's client looks for a token."""
ENV_DATA_TOKEN: Final = "PHITUNE_DATA_TOKEN"  # noqa: S105 - the name of a variable
SECRET_TOKEN_KEY: Final = "HF_TOKEN"  # noqa: S105 - the name of a key
"""Key under which a secret holds the hub's token. Not `token`: under that a secret holds a service account's,
which nobody must get by naming it in a job."""
CA_PATH: Final = "/etc/phitune-ca"
CA_KEY: Final = "ca.crt"
POD_USER: Final = 65532
"""User and group of every training pod; the volume's files belong to this group."""
TERMINATION_GRACE_SECONDS: Final = 120


def is_rank_zero(labels: Mapping[str, str]) -> bool:
    """Whether the training pod with these labels holds rank 0."""
    return "0" in (labels.get(LABEL_RANK), labels.get(LABEL_INDEX))


def workspace_claim(job: str) -> str:
    """Name of the claim that the operator makes for a job with `storage.size`."""
    return f"{job}-workspace"


def config_map(job: str) -> str:
    """Name of the ConfigMap that holds the trainer's config."""
    return f"{job}-config"


def network_policy(job: str, role: str) -> str:
    """Name of the NetworkPolicy of the job's pods of a role."""
    return f"{job}-{role}"


def prepare_job(job: str) -> str:
    """Name of the Job that puts model and data on the volume."""
    return f"{job}-prepare"


def gang(job: str, attempt: int) -> str:
    """Name of the gang of one attempt; attempts count from 1."""
    return f"{job}-{attempt}"


def jobset_job(job: str, attempt: int) -> str:
    """Name of the one Job of a gang that is a JobSet, as the JobSet controller forms it.

    Its pods are called so with the index and five random characters behind it.
    """
    return f"{gang(job, attempt)}-{JOBSET_NODES}-0"


def jobset_master_address(job: str, attempt: int) -> str:
    """Host name of the pod of node rank 0 of a gang that is a JobSet, within the namespace."""
    return f"{jobset_job(job, attempt)}-0.{gang(job, attempt)}"


def master_pod(job: str, attempt: int) -> str:
    """Name of the pod of node rank 0, as the training-operator forms it."""
    return f"{gang(job, attempt)}-master-0"


def worker_pod(job: str, attempt: int, index: int) -> str:
    """Name of the pod of node rank `index + 1`, as the training-operator forms it."""
    return f"{gang(job, attempt)}-worker-{index}"
