"""What a component may do in the cluster."""

from collections.abc import Mapping, Sequence

from .api import Object


def cluster_role(name: str, rules: Sequence[Object], subject: Mapping[str, str]) -> list[Object]:
    """A ClusterRole and its binding to one subject."""
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": list(rules),
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [dict(subject)],
        },
    ]
