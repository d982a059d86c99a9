"""A gang whose pods have all ended well has done its job, whatever happened to the job meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from harness.operator_view import AT_ELEVEN, PREPARED, condition, gang, observed, pod, subject
from phitune_operator.kinds import Object
from phitune_operator.plan import plan
from phitune_operator.render.config_map import config_map
from phitune_operator.render.volume import claim

DONE = (pod(0, code=0), pod(1, code=0))
CONFIG = config_map(subject())
TERMINATING = gang()
TERMINATING["metadata"] |= {"deletionTimestamp": "2026-01-01T12:00:00Z"}
STOPPING = {"type": "Suspended", "status": "False", "reason": "Stopping", "lastTransitionTime": AT_ELEVEN}
SUSPENDED = {**STOPPING, "status": "True", "reason": "Suspended"}


@pytest.mark.parametrize("gangs", [(gang(),), (TERMINATING,), ()], ids=["gang", "gang goes", "no gang"])
@pytest.mark.parametrize(
    "config", [CONFIG, {**CONFIG, "data": {}}, None], ids=["config", "broken config", "no config"]
)
@pytest.mark.parametrize(
    ("was", "suspend"),
    [(None, False), (None, True), (STOPPING, True), (STOPPING, False), (SUSPENDED, True), (SUSPENDED, False)],
    ids=["runs", "to be suspended", "is stopping", "stops and resumes", "suspended", "resumes"],
)
@pytest.mark.parametrize("deadline", ["1h", None], ids=["too late", "no deadline"])
def test_job_whose_pods_have_all_ended_well_has_succeeded(
    gangs: tuple[Object, ...], config: Object | None, was: Object | None, suspend: bool, deadline: str | None
) -> None:
    status = {
        **PREPARED,
        "startTime": "2026-01-01T10:00:00Z",
        "conditions": [*PREPARED["conditions"], *([was] if was else [])],
    }
    spec = {"runPolicy": {"suspend": suspend, "activeDeadline": deadline}}
    more: dict[str, Any] = {"claim": claim(subject()), "config_map": config, "gangs": gangs, "pods": DONE}
    ended = plan(observed(spec, status, **more))
    assert (ended.status["phase"], ended.actions) == ("Succeeded", ())
    assert condition(ended.status, "Succeeded")["reason"] == "Completed"
    assert condition(ended.status, "Suspended").get("reason") in (None, "Completed")


@pytest.mark.parametrize("reason", ["NoImage", "NoSecret", "QuotaExceeded", "ClaimNotFound"])
def test_what_once_kept_a_job_back_is_not_said_of_one_that_has_succeeded(reason: str) -> None:
    refused = {"type": "Accepted", "status": "False", "reason": reason, "message": "was so"}
    conditions = [*PREPARED["conditions"], {**refused, "lastTransitionTime": AT_ELEVEN}]
    seen = observed(status={**PREPARED, "conditions": conditions}, gangs=(gang(),), pods=DONE)
    accepted = condition(plan(seen).status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("True", "Accepted")
