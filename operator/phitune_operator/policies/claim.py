"""Whether the volume's claim can be used: there, ours or named by the user, and mountable on every node."""

from phitune_operator import names
from phitune_operator.blocked import BlockedError
from phitune_operator.fields import quantity
from phitune_operator.kinds import Key, Object, is_terminating, labels_of, name_of

SHARED_MODES = frozenset({"ReadWriteMany"})
WRITABLE_MODES = frozenset({"ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"})


def check_named(claim: Object | None, *, name: str, num_nodes: int) -> None:
    """Check a claim that the job names (`spec.storage.claimName`). Raises BlockedError."""
    if claim is None:
        raise BlockedError(
            "ClaimNotFound",
            f"spec.storage.claimName: there is no PersistentVolumeClaim {name} in this namespace; create it, "
            "or make the job anew with spec.storage.size, and the operator creates one",
        )
    _check_modes(claim, num_nodes)


def check_own(claim: Object, *, key: Key, num_nodes: int, size: str | None) -> None:
    """Check a claim of the name that ours have: taken up only if its labels say so. Raises BlockedError."""
    labels = labels_of(claim)
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGER or labels.get(names.LABEL_JOB) != key.name:
        raise BlockedError(
            "ClaimNotOurs",
            f"PersistentVolumeClaim {name_of(claim)} exists and was not made for a job of this name; make "
            f"the job anew with spec.storage.claimName: {name_of(claim)} to use it, or under another name",
        )
    _check_modes(claim, num_nodes)
    _check_size(claim, size)


def _check_size(claim: Object, size: str | None) -> None:
    requested = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    provided = (claim.get("status") or {}).get("capacity") or {}
    has = [str(place["storage"]) for place in (requested, provided) if "storage" in place]
    if size is None or not has:
        return
    largest = max(has, key=quantity)
    if quantity(largest) < quantity(size):
        raise BlockedError(
            "ClaimTooSmall",
            f"PersistentVolumeClaim {name_of(claim)}, kept from an earlier job of this name, has {largest}, "
            f"and spec.storage.size is {size}; enlarge the claim if its class allows that, or delete it once "
            "nothing on it is needed, or make the job anew with a size that it has, or under another name",
        )


def _check_modes(claim: Object, num_nodes: int) -> None:
    if is_terminating(claim):
        raise BlockedError(
            "ClaimNotFound",
            f"PersistentVolumeClaim {name_of(claim)} is being deleted; create it again once it is gone",
        )
    modes = set((claim.get("spec") or {}).get("accessModes") or [])
    has = f"PersistentVolumeClaim {name_of(claim)} is {', '.join(sorted(modes))}"
    if num_nodes > 1 and not modes & SHARED_MODES:
        raise BlockedError(
            "ClaimNotShareable",
            f"{has}, which one node alone can mount, and spec.resources.nodes is {num_nodes}; "
            "use a ReadWriteMany claim, or nodes: 1",
        )
    if not modes & WRITABLE_MODES:
        raise BlockedError(
            "ClaimNotShareable",
            f"{has}, and checkpoints need a volume that can be written; use a ReadWriteMany claim",
        )
