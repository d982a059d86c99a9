"""The condition Accepted: whether the job is understood and what it needs is there, or else what to do."""

from datetime import datetime
from typing import Final

from phitune_operator import names, refusals
from phitune_operator.blocked import BlockedError
from phitune_operator.draft import Draft
from phitune_operator.kinds import Object
from phitune_operator.observed import Observed, Plan
from phitune_operator.pods import PodView
from phitune_operator.policies.image_pull import NO_IMAGE
from phitune_operator.status import is_true

OPERATOR_ERROR: Final = "OperatorError"


def accept(seen: Observed, draft: Draft, message: str) -> None:
    """Say that the job is accepted, unless something keeps it back or newer rules would refuse it."""
    stage = seen.gang_pods if seen.gang is not None else seen.prepare_pods
    starved = next((pod for pod in stage if pod.bad_image), None)
    config = next((pod.bad_config for pod in stage if pod.bad_config), "")
    if seen.refusal is not None:
        refuse(draft, BlockedError(seen.refusal.reason, seen.refusal.message))
    elif starved is not None:
        refuse(draft, BlockedError(NO_IMAGE, _about_image(starved)))
    elif config:
        refuse(draft, BlockedError("NoSecret", f"{config}; {_how_to_make_secret(seen)}"))
    elif _still_refused(draft, has_pods=bool(stage)):
        return
    elif seen.problems:
        goes_on = "the job goes on with what it began with; as a new one it would be refused"
        refuse(draft, BlockedError("InvalidSpec", f"{goes_on}: {'; '.join(seen.problems)}"))
    else:
        draft.set_condition(names.CONDITION_ACCEPTED, True, "Accepted", message)


def _about_image(pod: PodView) -> str:
    if pod.bad_image_of:
        return (
            f"image {pod.bad_image} of the init container {pod.bad_image_of} cannot be pulled, which the job "
            "does not choose: that of init-pytorch is the training-operator's argument "
            "--pytorch-init-container-image. It is tried again"
        )
    return (
        f"image {pod.bad_image} cannot be pulled; check its name and tag, and that spec.imagePullSecrets "
        "names a secret for its registry. It is tried again; spec.image may be changed"
    )


def own_error(job: Object, error: Exception, *, now: datetime) -> Plan:
    """Say of a job that the operator has failed on it by a fault of its own: who runs it cannot mend that."""
    draft = Draft(job, now=now)
    message = (
        f"the operator failed on this job by a fault of its own ({type(error).__name__}: {error}); pods that "
        "run go on, and it is tried again. Report it, with the traceback in the operator's log"
    )
    refuse(draft, BlockedError(OPERATOR_ERROR, message))
    return draft.plan()


def end_own_error(draft: Draft) -> None:
    """Take back what `own_error` said: the operator has come further."""
    if draft.condition(names.CONDITION_ACCEPTED).get("reason") == OPERATOR_ERROR:
        draft.set_condition(names.CONDITION_ACCEPTED, True, "Accepted", "the operator goes on")


def _how_to_make_secret(seen: Observed) -> str:
    """The operator cannot read secrets; the kubelet, whose words stand before this, says which is missing."""
    places = {"spec.model.tokenSecret": seen.spec.model, "spec.data.tokenSecret": seen.spec.data}
    named = [(field, group.token_secret) for field, group in places.items() if group and group.token_secret]
    if not named:
        return "once it is there the job goes on by itself"
    secret = named[0][1]
    return (
        f"{' and '.join(field for field, _ in named)} must name a secret whose key {names.SECRET_TOKEN_KEY} "
        f"holds the hub's token: kubectl create secret generic {secret} -n {seen.key.namespace} "
        f"--from-literal={names.SECRET_TOKEN_KEY}=...; then the job goes on by itself"
    )


def refuse(draft: Draft, problem: BlockedError) -> None:
    """Say what keeps the job from going on."""
    if draft.set_condition(names.CONDITION_ACCEPTED, False, problem.reason, problem.message):
        draft.announce(problem.reason, problem.message, is_warning=True)


def _still_refused(draft: Draft, *, has_pods: bool) -> bool:
    """A refusal stands until the write succeeds: until nothing is to be created and pods are there."""
    if draft.condition(names.CONDITION_ACCEPTED).get("reason") not in refusals.REASONS:
        return False
    return draft.creates or (not has_pods and not is_true(draft.status, names.CONDITION_RESTARTING))
