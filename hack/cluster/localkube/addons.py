"""What runs inside the cluster: CoreDNS, the training-operator, the storage classes, and extras."""

import json
import subprocess
from functools import partial
from urllib.parse import urlencode

from . import coredns, extras, training_operator, volumes
from .api import MANAGER, Api, ApiError, Object, UnreachableError
from .build import Programs
from .console import ClusterError, Console
from .egress import upstream_resolvers
from .images import OwnImages
from .paths import Paths
from .plan import Cluster

DEPLOYMENTS = (
    (coredns.NAMESPACE, coredns.NAME),
    (training_operator.NAMESPACE, training_operator.NAME),
)


def apply(cluster: Cluster, paths: Paths, programs: Programs, console: Console) -> None:
    """Bring all of it to what this version wants."""
    own = OwnImages.of(programs)
    resolvers = upstream_resolvers() if cluster.has_egress else []
    objects = [*coredns.objects(own.coredns, resolvers), *volumes.objects()]
    _apply(paths, programs, json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    _apply(paths, programs, training_operator.manifest(paths, programs, own.training_operator))
    console.step("CoreDNS, the training-operator and the storage classes are applied")
    for name in cluster.extras:
        _apply(paths, programs, extras.manifest(name, paths, programs))
        console.step(f"{name} is applied")


def deployments(cluster: Cluster) -> list[tuple[str, str]]:
    """Namespace and name of every Deployment of ours."""
    return [*DEPLOYMENTS, *(extras.INSTALLERS[name].deployment for name in cluster.extras)]


def wait_until_available(cluster: Cluster, api: Api, console: Console) -> None:
    """Until every Deployment of ours answers."""
    for namespace, name in deployments(cluster):
        console.wait_for(
            f"Deployment {namespace}/{name}",
            partial(is_available, api, namespace, name),
            seconds=120,
            explain=partial(_recent_events, api, namespace),
        )
        console.step(f"{name} is available")


def is_available(api: Api, namespace: str, name: str) -> bool:
    """Whether a Deployment is rolled out, and its pods answer now: what is written of them may be old."""
    deployment = api.find(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    if deployment is None or not is_rolled_out(deployment):
        return False
    labels = deployment["spec"]["selector"]["matchLabels"]
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    query = urlencode({"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())})
    pods = api.items(f"/api/v1/namespaces/{namespace}/pods?{query}")
    running = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    addresses = [f"/api/v1/namespaces/{namespace}/pods/http:{pod}:{probe['port']}/proxy" for pod in running]
    return bool(addresses) and all(_answers(api, address + probe["path"]) for address in addresses)


def _answers(api: Api, path: str) -> bool:
    try:
        api.call("GET", path, seconds=2.0)
    except (ApiError, UnreachableError):
        return False
    return True


def is_rolled_out(deployment: Object) -> bool:
    """The newest version, and as many of it as wanted, were ready when last seen."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    is_seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    counts = {status.get(count) for count in ("replicas", "updatedReplicas", "availableReplicas")}
    return is_seen and counts == {wanted}


def _recent_events(api: Api, namespace: str) -> str:
    events = api.items(f"/api/v1/namespaces/{namespace}/events")
    warnings = [event for event in events if event.get("type") == "Warning"]
    lines = [
        f"  {event['involvedObject']['name']}: {event['reason']}: {event['message']}" for event in warnings
    ]
    return "\n".join(lines[-8:])


def _apply(paths: Paths, programs: Programs, manifest: str) -> None:
    command = [
        str(programs.path("kubectl")),
        f"--kubeconfig={paths.kubeconfig}",
        f"--cache-dir={paths.state / 'kubectl-cache'}",
        "apply",
        "--server-side",
        "--force-conflicts",
        f"--field-manager={MANAGER}",
        "--filename=-",
    ]
    done = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"kubectl apply: {done.stderr.strip()[-2000:]}")
