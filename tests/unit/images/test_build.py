"""What a build of images refuses, and what it advises."""

from __future__ import annotations

import pytest

from imagebuild.build import advice, newest, refuse_other_machines
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


def test_the_three_newest_archives_of_each_image_stay() -> None:
    names = [
        f"{name}-{number:012x}" for number in range(5) for name in ("operator", "trainer", "trainer-v100")
    ]
    kept = newest([f"{name}.tar" for name in names] + ["notes.tar"])
    assert list(kept) == [f"{name}.tar" for name in names[:9]]
    assert kept["trainer-v100-000000000002.tar"] == ("trainer-v100", "000000000002")


def test_archive_under_a_tag_of_its_own_counts_as_one_of_its_image() -> None:
    assert newest(["trainer-0123456789ab-v1.0-rc.tar"]) == {
        "trainer-0123456789ab-v1.0-rc.tar": ("trainer", "0123456789ab")
    }
