"""What a pod says of its end, from how its ranks ended."""

import pytest

from phitune_trainer.pod_ending import RankEnd, describe
from phitune_trainer.reports import RankReport


@pytest.mark.parametrize("reason", ["Completed", "Interrupted", "SomethingNew"])
def test_a_rank_that_fails_after_its_last_report_is_a_fault(reason: str) -> None:
    report = RankReport(1, reason=reason, message="done")
    end = RankEnd.of(1, 1, report, ["double free or corruption"])
    message = describe({0: RankEnd(0, "Completed", "done", []), 1: end}, [RankReport(0), report])
    assert (message["exitCode"], message["reason"], message["failure"]["rank"]) == (1, "Fault", 1)
    assert message["message"] == "rank 1 ended with code 1: double free or corruption"


def test_a_lost_peer_never_explains_another_failure() -> None:
    ends = {
        0: RankEnd(1, "PeerLost", "a peer is gone", []),
        1: RankEnd(137, "Killed", "rank 1 was killed", []),
    }
    message = describe(ends, [RankReport(0), RankReport(1)])
    assert (message["reason"], message["failure"]["rank"]) == ("Killed", 1)
