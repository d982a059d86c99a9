"""The kinds of object that can run a gang, behind one interface: what differs between them to read. Pure.

`render/gang.py` makes them. A job's first attempt decides which one it gets (`status.placement.backend`), and
every later attempt is of the same kind, whatever is installed meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from phitune_operator import names
from phitune_operator.kinds import GANGS, JOB, JOBSET, POD_GROUP, PYTORCHJOB, TRAINJOB, Kind, Object, kind_of

AUTO: Final = "auto"
"""The operator's setting by which it takes the first that the cluster has."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One kind of gang."""

    kind: Kind
    provider: str
    """What a cluster without the kind lacks."""
    rank_zero: str
    """Label selector of the pod of rank 0, among those of a job."""
    run_policy: tuple[str, ...]
    """Where in the spec `suspend` stands."""
    parent: Callable[[str, int], tuple[Kind, str]]
    """Kind and name of what controls the pods of a job's attempt."""


BACKENDS: Final = {
    backend.kind.kind: backend
    for backend in (
        Backend(
            kind=PYTORCHJOB,
            provider="the Kubeflow training-operator",
            rank_zero=f"{names.LABEL_RANK}=0",
            run_policy=("runPolicy",),
            parent=lambda job, attempt: (PYTORCHJOB, names.gang(job, attempt)),
        ),
        Backend(
            kind=JOBSET,
            provider="JobSet",
            rank_zero=f"{names.LABEL_INDEX}=0",
            run_policy=(),
            parent=lambda job, attempt: (JOB, names.jobset_job(job, attempt)),
        ),
        Backend(
            kind=TRAINJOB,
            provider="Kubeflow Trainer 2",
            rank_zero=f"{names.LABEL_INDEX}=0",
            run_policy=(),
            # The JobSet between them has the TrainJob's name.
            parent=lambda job, attempt: (JOB, names.jobset_job(job, attempt)),
        ),
    )
}
"""By the name of the kind, the preferred one first."""


def backend_of(status: Mapping[str, Any], default: str) -> str:
    """Name of the kind that runs a job's gangs: as its first attempt decided, else `default`."""
    placement: Mapping[str, Any] = status.get("placement") or {}
    # Placements were written before there was a choice.
    return str(placement.get("backend") or (PYTORCHJOB.kind if "image" in placement else default))


def chosen(wish: str, installed: Sequence[Kind]) -> Kind | None:
    """The kind that new jobs get: the one wished for, or the first there is; None if it is not installed."""
    wanted = [kind for kind in GANGS if wish in (AUTO, kind.kind.lower())]
    return next((kind for kind in wanted if kind in installed), None)


def provider_of(kind: Kind) -> str:
    """What a cluster lacks that does not have this kind: a gang's, or one that goes with it."""
    if kind == POD_GROUP:
        return "the chart anew, which looks for it"
    return next(backend.provider for backend in BACKENDS.values() if backend.kind.group == kind.group)


def is_suspended(gang: Object) -> bool:
    """Whether the gang shall have no pods now: it waits to be admitted, or was stopped."""
    spec: Mapping[str, Any] = gang["spec"]
    for field in BACKENDS[kind_of(gang).kind].run_policy:
        spec = spec.get(field) or {}
    return bool(spec.get("suspend"))
