"""What a build of images refuses, and what it advises."""

from __future__ import annotations

import pytest

from imagebuild.build import advice, refuse_other_machines
from imagebuild.process import BuildError


def test_another_kind_of_machine_is_refused_at_once() -> None:
    with pytest.raises(BuildError, match=r"this machine is aarch64.*x86_64 only.*with docker"):
        refuse_other_machines("aarch64")
    refuse_other_machines("x86_64")


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ('Get "https://r:5000/v2/": http: server gave HTTP response to HTTPS client', "insecure = true"),
        (
            "requesting bearer token: invalid status code from registry 403 (Forbidden)",
            "buildah login r:5000",
        ),
        ("writing blob: authentication required", "buildah login r:5000"),
        ("dial tcp 10.0.0.1:5000: connect: connection refused", "No registry answers at r:5000"),
        ("dial tcp: lookup r: no such host", "No registry answers at r:5000"),
    ],
)
def test_refused_push_comes_with_a_remedy(complaint: str, remedy: str) -> None:
    assert remedy in advice(complaint, "r:5000")


def test_push_that_fails_for_another_reason_gets_no_advice() -> None:
    assert advice("no space left on device", "r:5000") == ""
