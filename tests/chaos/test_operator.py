"""Whatever becomes of the operator, or of its way to the API server, its jobs do not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from chaos.catalogue import OF_THE_OPERATOR
from chaos.rows import Row
from chaos.tries import Outcome, check, tried
from harness.history import Recorder
from harness.installed import Installed, no_installed_operator

pytestmark = pytest.mark.timeout(3600)
AT_ONCE = 3


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest, phitune: Installed, recorder: Recorder
) -> Iterator[Callable[[str], Outcome]]:
    with (
        no_installed_operator(phitune.cluster),
        tried(OF_THE_OPERATOR, request, phitune, recorder, AT_ONCE) as outcome_of,
    ):
        yield outcome_of


@pytest.mark.parametrize("fault", OF_THE_OPERATOR)
def test_a_job_comes_to_its_end_once_after(
    fault: str, outcome_of: Callable[[str], Outcome], report: list[Row]
) -> None:
    check(outcome_of(fault), report)
