"""Whatever breaks in the cluster that all jobs share, they go on when it is mended."""

from __future__ import annotations

import pytest

from chaos.catalogue import OF_THE_CLUSTER
from chaos.rows import Row
from chaos.tries import check, try_out
from harness.history import Recorder
from harness.installed import Installed

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("fault", OF_THE_CLUSTER)
def test_jobs_come_to_their_end_once_after(
    fault: str, phitune: Installed, recorder: Recorder, report: list[Row]
) -> None:
    check(try_out(fault, OF_THE_CLUSTER[fault], phitune, recorder), report)
