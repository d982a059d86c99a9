"""Which pod reads a job's volume: one of its own that runs, or a helper pod; and which image that one has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from phitune_cli.finetune.agent import Agent, connected
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.helper_pod import CONTAINER, helper_pod
from phitune_cli.finetune.problems import NotAllowed, WrongInput
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, POD, Kind, Object

DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
_OPERATOR: Final = "app.kubernetes.io/name=phitune-operator"
_ENV_TRAINER_IMAGE: Final = "PHITUNE_TRAINER_IMAGE"


def claim_of(job: Object) -> str:
    """The claim of a job's volume."""
    storage = job["spec"]["storage"]
    return str(storage.get("claimName") or names.workspace_claim(job["metadata"]["name"]))


def run_folder(job: Object) -> str:
    """A job's run on its volume; pure, the same that the operator tells the trainer."""
    metadata = job["metadata"]
    return f"runs/{metadata['namespace']}/{metadata['name']}/{metadata['uid'][:8]}"


def running_pod(cluster: Cluster, job: Object) -> Object | None:
    """A training pod of the job that runs, rank 0's if that does; None if there is none."""
    labels = f"{names.LABEL_JOB_UID}={job['metadata']['uid']},{names.LABEL_ROLE}={names.ROLE_TRAINER}"
    pods = [pod for pod in cluster.list(POD, labels) if is_running(pod)]
    pods.sort(key=lambda pod: not names.is_rank_zero(pod["metadata"]["labels"]))
    return pods[0] if pods else None


def is_running(pod: Object) -> bool:
    """Whether a command can be run in its container."""
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


@contextmanager
def beside_volume_of(
    cluster: Cluster,
    job: Object,
    *,
    image: str | None,
    pull_secrets: Sequence[str],
    say: Callable[[str], None],
) -> Iterator[Agent]:
    """Within this block, an agent that has the job's volume: in a pod of the job's, else in a helper pod."""
    pod = running_pod(cluster, job)
    if pod is not None:
        with connected(cluster, pod["metadata"]["name"], names.TRAINER_CONTAINER) as agent:
            yield agent
        return
    spec: dict[str, Any] = job["spec"]
    secrets = [*pull_secrets, *(one["name"] for one in spec.get("imagePullSecrets") or [])]
    chosen = image or (job.get("status") or {}).get("placement", {}).get("image") or spec.get("image")
    with (
        helper_pod(
            cluster,
            claim_of(job),
            chosen or image_of_operator(cluster),
            pull_secrets=secrets,
            say=say,
        ) as name,
        connected(cluster, name, CONTAINER) as agent,
    ):
        yield agent


def trainer_image(cluster: Cluster) -> str:
    """The image of the namespace's newest job, else that of the operator; WrongInput if neither tells."""
    jobs = sorted(
        cluster.list(FINETUNEJOB), key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True
    )
    images = [(job.get("status") or {}).get("placement", {}).get("image") for job in jobs]
    return next((str(image) for image in images if image), None) or image_of_operator(cluster)


def image_of_operator(cluster: Cluster) -> str:
    """The trainer image that the operator was installed with; WrongInput where the user may not see that.

    And where several say so: anybody may label a Deployment of theirs as the operator's.
    """
    try:
        operators = cluster.list(DEPLOYMENT, _OPERATOR, everywhere=True)
    except NotAllowed:
        operators = []
    images = {
        str(variable["value"])
        for operator in operators
        for container in operator["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env") or []
        if variable["name"] == _ENV_TRAINER_IMAGE and variable.get("value")
    }
    if len(images) == 1:
        return images.pop()
    raise WrongInput(
        "which trainer image has the helper pod? Name the one of the chart's values with --image"
    )
