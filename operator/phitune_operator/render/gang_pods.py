"""The pods of a gang, whatever kind of object makes them."""

from collections.abc import Sequence

from phitune_operator import names
from phitune_operator.defaults import shared_memory
from phitune_operator.fields import quantity
from phitune_operator.kinds import Object
from phitune_operator.render.affinity import REQUIRED
from phitune_operator.render.pod import container, pod_template
from phitune_operator.render.subject import Subject

HOSTNAME = "kubernetes.io/hostname"
SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - inside the pod


def gang_pods(
    subject: Subject, attempt: int, *, labels: Object, env: Sequence[Object] = (), serves_progress: bool
) -> Object:
    """Return the template of pods of a gang; rank 0 serves its progress."""
    more: Object = {}
    if serves_progress:
        more["ports"] = [{"name": names.PROGRESS_PORT_NAME, "containerPort": names.PROGRESS_PORT}]
    threads = int(quantity(subject.cpu) / subject.processes_per_node)
    worker = container(
        subject,
        names.TRAINER_CONTAINER,
        "phitune_trainer.launch",
        env=[
            {"name": names.ENV_ATTEMPT, "value": str(attempt)},
            {"name": "OMP_NUM_THREADS", "value": str(max(1, threads))},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
            *_network(subject),
            *env,
        ],
        resources=_resources(subject),
        **more,
    )
    worker["volumeMounts"].append({"name": "shared-memory", "mountPath": SHARED_MEMORY_PATH})
    apart = _one_pod_a_node(subject, attempt)
    config = {"configMap": {"name": names.config_map(subject.name)}}
    template = pod_template(subject, worker, labels=labels, config=config, anti_affinity=apart, is_gang=True)
    template["spec"]["volumes"].append(
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(subject.spec)}}
    )
    if subject.num_nodes > 1 and subject.gpus_per_node == 0:
        template["spec"]["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": HOSTNAME,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": _gang_selector(subject, attempt),
            }
        ]
    return template


def gang_labels(subject: Subject, attempt: int) -> dict[str, str]:
    """Labels of what belongs to an attempt."""
    labels = subject.labels(role=names.ROLE_TRAINER, attempt=str(attempt))
    if subject.has_pod_group:
        labels[names.LABEL_POD_GROUP] = names.gang(subject.name, attempt)
    return labels


def gang_metadata(subject: Subject, attempt: int) -> Object:
    """Metadata of the gang of this attempt, with what Kueue reads there."""
    metadata = subject.metadata(names.gang(subject.name, attempt), makes_pods=True)
    metadata["labels"] = gang_labels(subject, attempt)
    if subject.spec.queue_name is not None:
        metadata["labels"][names.LABEL_QUEUE] = subject.spec.queue_name
    if subject.workload_priority:
        metadata["labels"][names.LABEL_WORKLOAD_PRIORITY] = subject.workload_priority
    return metadata


def suspended(subject: Subject) -> Object:
    """A gang that a queue admits is made suspended, so that no pod starts before. Ending that is Kueue's."""
    return {"suspend": True} if subject.spec.queue_name is not None else {}


def _resources(subject: Subject) -> Object:
    """CPU is a request only: a limit would throttle collectives. Memory is both, /dev/shm included."""
    extended = {subject.gpu_resource: str(subject.gpus_per_node)} if subject.gpus_per_node else {}
    if subject.profile is not None:
        extended |= {name: str(number) for name, number in sorted(subject.profile.resources.items())}
    limits: Object = {"memory": subject.memory, **extended}
    return {"requests": {"cpu": subject.cpu, **limits}, "limits": limits}


def _network(subject: Subject) -> list[Object]:
    """Variables of the network profile, but for those that the job sets itself."""
    theirs = {variable.name for variable in subject.spec.env or []}
    variables = subject.profile.env if subject.profile is not None else {}
    return [{"name": name, "value": value} for name, value in sorted(variables.items()) if name not in theirs]


def _one_pod_a_node(subject: Subject, attempt: int) -> Object:
    """With GPUs every pod has a node of its own; on CPU pods are only spread as evenly as nodes allow."""
    if subject.gpus_per_node == 0 or subject.num_nodes == 1:
        return {}
    return {REQUIRED: [{"topologyKey": HOSTNAME, "labelSelector": _gang_selector(subject, attempt)}]}


def _gang_selector(subject: Subject, attempt: int) -> Object:
    return {"matchLabels": {names.LABEL_JOB_UID: subject.uid, names.LABEL_ATTEMPT: str(attempt)}}
