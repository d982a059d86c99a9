"""An object too large for the API server, or for etcd behind it, is said to be; nothing tries for ever."""

from __future__ import annotations

import pytest

from phitune_operator.kube import ApiError


@pytest.mark.parametrize(
    "error",
    [
        ApiError(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"),
        ApiError(500, "", "etcdserver: request is too large"),
    ],
    ids=["API server", "etcd"],
)
def test_too_large_is_a_refusal(error: ApiError) -> None:
    assert error.is_refusal


def test_any_other_failure_of_the_server_may_pass() -> None:
    assert not ApiError(500, "InternalError", "etcdserver: request timed out").is_refusal
