"""The gang of one attempt: a PyTorchJob of one master and N - 1 workers, alike but for the rank's label.

The restart of a gang is ours (a new attempt under a new name), so its pods never restart by themselves and
stay when they have ended: their last words and logs are read before the PyTorchJob is deleted.
"""

from phitune_operator import names
from phitune_operator.defaults import cpu_request, memory_limit, shared_memory
from phitune_operator.fields import quantity
from phitune_operator.kinds import PYTORCHJOB, Object
from phitune_operator.render.affinity import REQUIRED
from phitune_operator.render.pod import container, pod_template
from phitune_operator.render.subject import Subject

HOSTNAME = "kubernetes.io/hostname"
SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - inside the pod


def pytorchjob(subject: Subject, attempt: int) -> Object:
    """Return the PyTorchJob of this attempt, counted from 1."""
    replicas = {"Master": _replica(subject, attempt, count=1, is_master=True)}
    if subject.num_nodes > 1:
        replicas["Worker"] = _replica(subject, attempt, count=subject.num_nodes - 1, is_master=False)
    return {
        "apiVersion": PYTORCHJOB.api_version,
        "kind": PYTORCHJOB.kind,
        "metadata": subject.metadata(
            names.pytorchjob(subject.name, attempt), role=names.ROLE_TRAINER, attempt=str(attempt)
        ),
        "spec": {
            "nprocPerNode": str(subject.processes_per_node),
            "runPolicy": {"cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _replica(subject: Subject, attempt: int, *, count: int, is_master: bool) -> Object:
    labels = subject.labels(role=names.ROLE_TRAINER, attempt=str(attempt))
    more: Object = {}
    if is_master:
        labels[names.LABEL_RANK] = "0"
        more["ports"] = [{"name": names.PROGRESS_PORT_NAME, "containerPort": names.PROGRESS_PORT}]
    threads = int(quantity(cpu_request(subject.spec)) / subject.processes_per_node)
    worker = container(
        subject,
        names.TRAINER_CONTAINER,
        "phitune_trainer.launch",
        env=[
            {"name": names.ENV_ATTEMPT, "value": str(attempt)},
            {"name": "OMP_NUM_THREADS", "value": str(max(1, threads))},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
        ],
        resources=_resources(subject),
        **more,
    )
    worker["volumeMounts"].append({"name": "shared-memory", "mountPath": SHARED_MEMORY_PATH})
    apart = _one_pod_a_node(subject, attempt)
    template = pod_template(subject, worker, labels=labels, anti_affinity=apart, is_gang=True)
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
    return {"replicas": count, "restartPolicy": "Never", "template": template}


def _resources(subject: Subject) -> Object:
    """CPU is a request only: a limit would throttle collectives. Memory is both, /dev/shm included."""
    memory = memory_limit(subject.spec, subject.train)
    requests: Object = {"cpu": cpu_request(subject.spec), "memory": memory}
    limits: Object = {"memory": memory}
    if subject.gpus_per_node:
        requests[names.GPU_RESOURCE] = limits[names.GPU_RESOURCE] = str(subject.gpus_per_node)
    return {"requests": requests, "limits": limits}


def _one_pod_a_node(subject: Subject, attempt: int) -> Object:
    """With GPUs every pod has a node of its own; on CPU pods are only spread as evenly as nodes allow."""
    if subject.gpus_per_node == 0 or subject.num_nodes == 1:
        return {}
    return {REQUIRED: [{"topologyKey": HOSTNAME, "labelSelector": _gang_selector(subject, attempt)}]}


def _gang_selector(subject: Subject, attempt: int) -> Object:
    return {"matchLabels": {names.LABEL_JOB_UID: subject.uid, names.LABEL_ATTEMPT: str(attempt)}}
