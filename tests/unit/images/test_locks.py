"""When a lock file may be used."""

from __future__ import annotations

import lock as locks
import pytest
from lock import LOCKS, Lock, problems
from packaging.version import Version

PROJECT = {
    "project": {
        "dependencies": ["pyyaml>=6,<7"],
        "optional-dependencies": {"web": ["kopf>=1.45"], "all": ["phitune[web]", "ruff"]},
    },
    "dependency-groups": {"docs": ["mkdocs"]},
}
GOOD = """\
kopf==1.45.2 \\
    --hash=sha256:aa
    # via phitune (pyproject.toml)
pyyaml==6.0.3 ; sys_platform == 'linux' \\
    --hash=sha256:bb
"""
WEB = Lock(name="web", extra="web")


def found(text: str, dev: dict[str, set[Version]] | None = None) -> list[str]:
    return problems(WEB, text, PROJECT, dev or {})


def test_lock_that_satisfies_the_project_has_no_problems() -> None:
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            GOOD.replace("kopf==1.45.2", "kopf==1.44.0"), "asks for kopf>=1.45, the lock has 1.44.0", id="old"
        ),
        pytest.param(GOOD.replace("pyyaml==6.0.3", "yaml==6.0.3"), "the lock has nothing", id="missing"),
        pytest.param(GOOD.replace("    --hash=sha256:aa\n", ""), "kopf has no hash", id="no hash"),
        pytest.param("--index-url x\n" + GOOD, "web.txt:1: names a place to fetch from", id="index"),
        pytest.param(GOOD + "    # from https://x\n", "web.txt:6: names a place to fetch from", id="address"),
    ],
)
def test_problem_is_named(text: str, said: str) -> None:
    (problem,) = found(text)
    assert said in problem


def test_version_that_differs_from_the_tested_one_is_named() -> None:
    (problem,) = found(GOOD, dev={"kopf": {Version("1.46")}})
    assert "kopf is ['1.45.2'] here and ['1.46'] in dev.txt" in problem


def test_extras_of_our_own_are_unfolded() -> None:
    needs = [need.name for need in Lock(name="all", extra="all").requirements(PROJECT)]
    assert needs == ["pyyaml", "kopf", "ruff"]


def test_locks_of_this_project_are_in_step_with_pyproject() -> None:
    assert len(LOCKS) == 9
    assert locks.check() == []
