"""What pods say about themselves: the answer of /progress and the termination message.

Both come from training pods, where a user's code may run: they are read strictly, bounded in size, and
stripped of control characters before they reach status, events or a terminal. What does not fit is as good as
not said.
"""

import json
import re
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from phitune_operator.clock import from_text

MAX_BYTES = 64 * 1024
"""Longest report that is looked at."""
MAX_LINES = 20
"""Log lines kept of a failure."""
MAX_LINE = 500
"""Characters kept of a log line."""
MAX_TEXT = 1000
"""Characters kept of a message."""

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Escape sequences of terminals, control characters, those that turn the direction of writing, and halves of
characters, which cannot be sent on."""


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return the text without terminal escapes and control characters, cut to so many characters."""
    return _CONTROL.sub("", text).replace("\t", " ")[:limit]


def clean_lines(text: str) -> list[str]:
    """Return the last lines of a log, each fit to be shown."""
    lines = [clean(line, MAX_LINE).rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-MAX_LINES:]


ARTIFACTS: Final = ("merged", "adapter", "report")
"""Results whose places are taken over into status."""

Text = Annotated[str, AfterValidator(clean)]
Moment = Annotated[datetime, BeforeValidator(from_text)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[int, Field(ge=0, le=10**10)]


class _Report(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, allow_inf_nan=False, alias_generator=to_camel
    )


class CheckpointReport(_Report):
    """A complete checkpoint."""

    step: Count
    path: Text
    time: Moment


class EvaluationReport(_Report):
    """A score on held-out samples."""

    metric: Text
    value: float
    baseline: float | None = None
    samples: Count
    step: Count | None = None


class ProgressReport(_Report):
    """How far the run is; counts in optimizer steps, times in seconds."""

    attempt: Count
    state: Text
    step: Count
    total_steps: Count
    percent: float = Field(ge=0, le=100)
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    eta_seconds: Seconds | None = None
    updated_at: Moment
    last_checkpoint: CheckpointReport | None = None
    evaluation: EvaluationReport | None = None


class FailureReport(_Report):
    """Which rank failed, and its last lines."""

    rank: int | None = None
    exit_code: int | None = None
    last_lines: list[str] = []


class EndReport(_Report):
    """A container's last words."""

    exit_code: int
    reason: Text = ""
    message: Text = ""
    progress: ProgressReport | None = None
    last_checkpoint: CheckpointReport | None = None
    evaluation: EvaluationReport | None = None
    artifacts: dict[str, Any] | None = None
    failure: FailureReport | None = None

    @property
    def artifact_paths(self) -> dict[str, str]:
        """Where results lie, relative to the volume's root."""
        given = self.artifacts or {}
        return {name: given[name] for name in ARTIFACTS if isinstance(given.get(name), str)}

    @property
    def last_lines(self) -> list[str]:
        """Last lines of the log of the rank that failed."""
        return clean_lines("\n".join(self.failure.last_lines)) if self.failure else []


def read_progress(data: bytes | str) -> ProgressReport | None:
    """Read an answer of /progress; None if it is not one."""
    return _read(ProgressReport, data)


def read_end(data: bytes | str) -> EndReport | None:
    """Read a termination message; None if it is not one of ours."""
    return _read(EndReport, data)


ReportT = TypeVar("ReportT", bound=_Report)


def _read(model: type[ReportT], data: bytes | str) -> ReportT | None:
    if len(data) > MAX_BYTES:
        return None
    try:
        return model.model_validate(json.loads(data))
    except (ValueError, ValidationError, RecursionError):
        return None
