"""What the API server says of a write that it does not admit, in our words."""

from __future__ import annotations

import pytest

from phitune_operator.refusals import refusal_of

POD = 'pods "receipts-1-worker-0" is forbidden: '


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        pytest.param(
            POD + "exceeded quota: team-a, requested: pods=1, used: pods=4, limited: pods=4",
            "QuotaExceeded",
            "raise the namespace's ResourceQuota",
            id="a quota that is used up",
        ),
        pytest.param(
            POD + "failed quota: team-a: must specify limits.cpu for: pytorch",
            "QuotaExceeded",
            "a LimitRange of the namespace",
            id="a quota of what our pods do not set",
        ),
        pytest.param(
            POD + "status unknown for quota: team-a, resources: pods",
            "QuotaExceeded",
            "the quota is new",
            id="a quota made a moment ago",
        ),
        pytest.param(
            POD + 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
            "PodsRefused",
            "the namespace's Pod Security level",
            id="Pod Security",
        ),
        pytest.param(
            'admission webhook "names.example.com" denied the request: no digits',
            "ObjectRefused",
            "no digits",
            id="a webhook",
        ),
    ],
)
def test_what_was_refused_and_what_helps_is_said(said: str, reason: str, remedy: str) -> None:
    refusal = refusal_of(said)
    assert refusal.reason == reason
    assert said in refusal.message
    assert remedy in refusal.message
