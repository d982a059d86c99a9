"""Whatever strikes one job, it comes to its end, once, and loses at most one save interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from chaos.catalogue import OF_ONE_JOB
from chaos.rows import Row
from chaos.tries import Outcome, check, tried
from harness.history import Recorder
from harness.installed import Installed

pytestmark = pytest.mark.timeout(3600)
AT_ONCE = 4


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest, phitune: Installed, recorder: Recorder
) -> Iterator[Callable[[str], Outcome]]:
    with tried(OF_ONE_JOB, request, phitune, recorder, AT_ONCE) as outcome_of:
        yield outcome_of


@pytest.mark.parametrize("fault", OF_ONE_JOB)
def test_a_job_comes_to_its_end_once_after(
    fault: str, outcome_of: Callable[[str], Outcome], report: list[Row]
) -> None:
    check(outcome_of(fault), report)
