"""What a pod says of its end, from how its ranks ended."""

import signal
from pathlib import Path

import pytest

from phitune_trainer import errors
from phitune_trainer.hub_connection import HubUnavailable
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
        0: RankEnd(1, "RankLost", "a peer is gone", []),
        1: RankEnd(137, "Killed", "rank 1 was killed", []),
    }
    message = describe(ends, [RankReport(0), RankReport(1)])
    assert (message["reason"], message["failure"]["rank"]) == ("Killed", 1)


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")]
)
def test_a_rank_that_any_signal_has_killed_is_said_to_be(number: int, name: str) -> None:
    end = RankEnd.of(1, -number, RankReport(1), [])
    assert (end.exit_code, end.reason) == (128 + number, "Killed")
    assert end.message == f"rank 1 was killed by {name} before its first step"


@pytest.mark.parametrize(
    ("own", "code"),
    [(errors.VolumeFull, 2), (errors.GpuTooSmall, 2), (errors.OutOfGpuMemory, 1), (errors.Diverged, 1)],
)
def test_a_pod_tells_what_ended_one_of_its_ranks_and_not_what_that_did_to_the_others(
    own: type[errors.UserError | errors.KnownFault], code: int
) -> None:
    reports = [RankReport(0, reason="RankLost", message="rank 1 is gone"), RankReport(1, reason=own.reason)]
    ends = {rank: RankEnd.of(rank, (1, code)[rank], reports[rank], []) for rank in (0, 1)}
    message = describe(ends, reports)
    assert (message["reason"], message["exitCode"]) == (own.reason, code)


def test_every_word_for_an_end_is_in_the_documentation() -> None:
    page = Path(__file__).parents[3].joinpath("docs/training.md").read_text(encoding="utf-8")
    known = [errors.UserError, errors.VolumeFull, errors.VolumeReadOnly, errors.GpuTooSmall]
    known += [errors.Interrupted, HubUnavailable]
    known += [errors.OutOfGpuMemory, errors.Diverged, errors.VolumeStalled, errors.Superseded]
    known += [errors.RankLost, errors.CollectiveTimeout]
    words = {kind.reason for kind in known} | {"Completed", "Killed", "Fault"}
    assert len(words) == 14
    assert [word for word in sorted(words) if f"| `{word}` |" not in page] == []
