"""CoreDNS: the names of services and pods."""

import hashlib
from collections.abc import Sequence

from .api import Object
from .plan import CLUSTER_DOMAIN, DNS_ADDRESS
from .pods import CONFIG_ANNOTATION, restricted, tolerations
from .rights import cluster_role

NAMESPACE, NAME = "kube-system", "coredns"

PORT = 1053
"""Not 53, so that CoreDNS needs no right to take low ports."""


def corefile(resolvers: Sequence[str]) -> str:
    """CoreDNS' configuration: our names, and those of `resolvers` if there are any."""
    # With nothing upstream, a name that is not ours is answered at once, with a failure.
    forward = f"    forward . {' '.join(resolvers)}\n" if resolvers else ""
    return (
        f".:{PORT} {{\n"
        "    errors\n"
        "    health :8080\n"
        "    ready :8181\n"
        f"    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{\n"
        "        pods insecure\n"
        "        fallthrough in-addr.arpa ip6.arpa\n"
        "        ttl 5\n"
        "    }\n"
        f"{forward}"
        "    cache 5\n"
        "}\n"
    )


def objects(image: str, resolvers: Sequence[str]) -> list[Object]:
    """Everything that CoreDNS consists of."""
    labels = {"k8s-app": "kube-dns"}
    config = corefile(resolvers)
    meta = {"namespace": NAMESPACE, "name": NAME}
    container = {
        "name": NAME,
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": PORT, "protocol": "TCP"},
        ],
        "securityContext": restricted(),
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "failureThreshold": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": NAME,
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        # Answers again some seconds after its node is lost.
        "tolerations": tolerations(seconds=5),
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }
    # A changed configuration is a changed pod.
    annotations = {CONFIG_ANNOTATION: hashlib.sha256(config.encode()).hexdigest()[:12]}
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        *cluster_role(f"local:{NAME}", rules, {"kind": "ServiceAccount", **meta}),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": config}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": NAMESPACE, "name": "kube-dns", "labels": labels},
            "spec": {
                "clusterIP": str(DNS_ADDRESS),
                "selector": labels,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": PORT},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": PORT},
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**meta, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
            },
        },
    ]
