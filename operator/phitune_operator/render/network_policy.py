"""Who may talk to the pods of a job, and to whom they may talk: a NetworkPolicy for each role.

The ranks of a gang trust whoever reaches their ports, so nobody else may. Made before the ConfigMap that
every pod mounts: no pod starts before them. What the network plugin does not enforce, they only say.
"""

from ipaddress import ip_network

from phitune_operator import names
from phitune_operator.kinds import NETWORK_POLICY, Object
from phitune_operator.observed import NetworkAccess
from phitune_operator.render.subject import Subject

LINK_LOCAL = "169.254.0.0/16"
"""Where clouds serve the credentials of a node, and where DNS caches of nodes listen."""
LINK_LOCAL_V6 = "fe80::/10"
CREDENTIALS = ("100.100.100.200/32", "168.63.129.16/32")
"""The same of Alibaba Cloud and of Azure (its wire server), which are not link-local."""
CREDENTIALS_V6 = ("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128")
"""The same of AWS (nodes, and identities of pods) and of Google Cloud."""
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label of every namespace, set by the API server."""


def network_policies(subject: Subject) -> list[Object]:
    """Return the policies, none where the operator was told to make none."""
    if subject.network is None:
        return []
    dns = _dns(subject.network)
    gang = [{"podSelector": _pods(subject, names.ROLE_TRAINER)}]
    trainer = {
        "ingress": [{"from": gang}, _progress(subject.network)],
        # NCCL and gloo choose their ports.
        "egress": [{"to": gang}, dns],
    }
    prepare: Object = {"ingress": [], "egress": [_anywhere(), dns]}
    return [
        _policy(subject, names.ROLE_PREPARE, prepare),
        _policy(subject, names.ROLE_TRAINER, trainer),
    ]


def _policy(subject: Subject, role: str, rules: Object) -> Object:
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": subject.metadata(names.network_policy(subject.name, role), role=role),
        "spec": {"podSelector": _pods(subject, role), "policyTypes": ["Ingress", "Egress"], **rules},
    }


def _pods(subject: Subject, role: str) -> Object:
    return {"matchLabels": {names.LABEL_JOB_UID: subject.uid, names.LABEL_ROLE: role}}


def _progress(network: NetworkAccess) -> Object:
    """Rank 0 tells the operator how far it is, and Prometheus what it measures."""
    operator = {
        "namespaceSelector": _namespace(network.operator_namespace),
        "podSelector": {"matchLabels": {names.LABEL_NAME: names.MANAGER}},
    }
    prometheus = {"namespaceSelector": _namespace(network.prometheus_namespace)}
    return {
        "from": [operator, prometheus] if network.prometheus_namespace else [operator],
        "ports": [{"protocol": "TCP", "port": names.PROGRESS_PORT}],
    }


def _dns(network: NetworkAccess) -> Object:
    return {
        "to": [
            {"namespaceSelector": _namespace(network.dns_namespace)},
            {"ipBlock": {"cidr": LINK_LOCAL}},
            *({"ipBlock": {"cidr": str(ip_network(server))}} for server in network.name_servers),
        ],
        # Ports of pods, not of the Service: OpenShift's answer on 5353.
        "ports": [{"protocol": kind, "port": port} for kind in ("UDP", "TCP") for port in (53, 5353)],
    }


def _anywhere() -> Object:
    """The hub, a mirror or a proxy, outside of the cluster or in it, but not the credentials of the node."""
    return {
        "to": [
            {"namespaceSelector": {}},
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": [LINK_LOCAL, *CREDENTIALS]}},
            {"ipBlock": {"cidr": "::/0", "except": [LINK_LOCAL_V6, *CREDENTIALS_V6]}},
        ]
    }


def _namespace(name: str) -> Object:
    return {"matchLabels": {NAMESPACE_NAME: name}}
