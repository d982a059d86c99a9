"""How a pod ended, from how its ranks ended: which of several failures came first, and what to say of it."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phitune_trainer.exit_codes import DONE, INTERRUPTED, USER_ERROR
from phitune_trainer.processes import signal_name
from phitune_trainer.reports import RankReport

_BLAME = (
    "Killed",
    "UserError",
    "VolumeFull",
    "VolumeReadOnly",
    "OutOfGpuMemory",
    "Diverged",
    "Superseded",
    "VolumeStalled",
    "Fault",
    "CollectiveTimeout",
    "RankLost",
)
"""Reasons in the order in which they explain the others: a rank that lost another never failed by itself."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended by itself."""

    exit_code: int
    reason: str
    message: str
    last_lines: list[str]

    @classmethod
    def of(cls, rank: int, code: int, report: RankReport, last_lines: list[str]) -> "RankEnd":
        """From a process's return code (negative: the signal that killed it) and its last report."""
        if code < 0:
            name = signal_name(-code)
            hint = " (out of memory, if nobody sent it)" if -code == signal.SIGKILL else ""
            done = f"after {report.steps} steps" if report.steps else "before its first step"
            return cls(128 - code, "Killed", f"rank {rank} was killed by {name}{hint} {done}", last_lines)
        if code == DONE:
            return cls(DONE, "Completed", report.message or "training is complete", last_lines)
        if report.reason is None or (report.reason not in _BLAME and code != INTERRUPTED):
            last = last_lines[-1] if last_lines else "it printed nothing"
            return cls(code, "Fault", f"rank {rank} ended with code {code}: {last}", last_lines)
        where = "" if code in (USER_ERROR, INTERRUPTED) else f"rank {rank}: "
        return cls(code, report.reason, f"{where}{report.message}", last_lines)


def describe(ends: Mapping[int, RankEnd], reports: Sequence[RankReport]) -> dict[str, Any]:
    """The termination message of a pod, but for what only the launcher knows (attempt, node)."""
    failed = {rank: end for rank, end in ends.items() if end.exit_code not in (DONE, INTERRUPTED)}
    interrupted = [end for end in ends.values() if end.exit_code == INTERRUPTED]
    failure = None
    if failed:
        rank, root = min(failed.items(), key=lambda item: (_BLAME.index(item[1].reason), item[0]))
        failure = {"rank": rank, "exitCode": root.exit_code, "lastLines": root.last_lines}
    elif interrupted:
        root = interrupted[0]
    else:
        root = next(iter(ends.values()))
    first = reports[0]
    progress = first.progress
    return {
        "exitCode": root.exit_code,
        "reason": root.reason,
        "message": root.message,
        "incarnation": first.incarnation,
        "ranks": [report.proof() for report in reports],
        "progress": progress,
        "lastCheckpoint": progress["lastCheckpoint"] if progress else None,
        "evaluation": progress["evaluation"] if progress else None,
        "artifacts": first.artifacts,
        "failure": failure,
    }
