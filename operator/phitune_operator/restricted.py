"""The security contexts that Pod Security `restricted` asks for; every pod that we make has them."""

from phitune_operator import names
from phitune_operator.kinds import Object


def restricted_pod() -> Object:
    """The security context of a pod that Pod Security `restricted` admits and that may write to a volume."""
    return {
        "runAsNonRoot": True,
        "runAsUser": names.POD_USER,
        "runAsGroup": names.POD_USER,
        "fsGroup": names.POD_USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def restricted_container() -> Object:
    """The security context of each container of such a pod."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
