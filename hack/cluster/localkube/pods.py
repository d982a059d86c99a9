"""What the pods of our own Deployments have in common."""

from typing import Any

from .api import Object
from .plan import PREFIX

CONFIG_ANNOTATION = f"local.{PREFIX}.dev/config"
"""On a pod: a digest of its configuration, so that a change rolls it out."""


def restricted(**more: Any) -> dict[str, Any]:
    """The securityContext that a namespace enforcing the `restricted` Pod Security standard asks for."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **more,
    }


def tolerations(*, seconds: int) -> list[Object]:
    """How long a pod stays bound to a node that is lost."""
    return [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }
        for trouble in ("unreachable", "not-ready")
    ]
