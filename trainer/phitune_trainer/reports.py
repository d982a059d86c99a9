"""How the ranks of a pod tell their launcher what it must know: one small JSON file a rank.

The files lie in a folder of the pod, not on the volume, and outlive the rank, however it died. The launcher
takes from them the proof of training, the newest progress, and why a rank ended.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phitune_trainer.strict_json import to_json

FOLDER_VARIABLE = "PHITUNE_REPORTS"


@dataclass
class RankReport:
    """What one rank last said of itself."""

    rank: int
    steps: int = 0
    """Optimizer steps that this process took part in."""
    samples: int = 0
    """Samples that this rank itself trained on."""
    tokens: int = 0
    """Labelled tokens that this rank itself trained on."""
    parametersHash: str | None = None  # noqa: N815 - the spelling of the termination message
    """SHA-256 of the trained parameters, the same on every rank of a healthy run."""
    incarnation: int | None = None
    logs: str | None = None
    """Folder on the volume for the ranks' output, as soon as it is known."""
    progress: dict[str, Any] | None = None
    artifacts: dict[str, Any] | None = None
    reason: str | None = None
    message: str | None = None
    trouble: list[str] = field(default_factory=list)
    """Problems that did not end the run, such as a checkpoint that could not be written."""

    def proof(self) -> dict[str, Any]:
        """The part that shows that this rank trained."""
        names = ("rank", "steps", "samples", "tokens", "parametersHash")
        return {name: getattr(self, name) for name in names}


def reports_folder() -> Path:
    """Where this pod's reports lie; a folder of its own where no launcher started this process."""
    return Path(os.environ.get(FOLDER_VARIABLE) or tempfile.mkdtemp(prefix="phitune-reports-"))


def write_report(folder: Path, report: RankReport) -> None:
    """Replace the report of `report.rank`; a reader never sees half of one."""
    path = folder / f"rank-{report.rank}.json"
    aside = path.with_suffix(".aside")
    aside.write_text(to_json(asdict(report)), encoding="utf-8")
    aside.rename(path)


def read_report(folder: Path, rank: int) -> RankReport:
    """The last report of a rank; an empty one if it never wrote any."""
    path = folder / f"rank-{rank}.json"
    if not path.is_file():
        return RankReport(rank)
    return RankReport(**json.loads(path.read_text(encoding="utf-8")))
