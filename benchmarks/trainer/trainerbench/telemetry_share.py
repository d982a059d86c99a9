"""How much of its time a run spends on telling how it goes."""

from benchrows.row import Bar, Row, Workplace
from trainerbench.watched_run import watched_run


def measure(work: Workplace) -> float:
    """Seconds of logging, metrics and answers to /progress and /metrics / seconds of the steps."""
    watched = watched_run(work)
    return watched.telemetry / watched.steps


ROW = Row(
    name="telemetry_share",
    unit="of a step",
    bar=Bar(sign="<=", limit=0.01),
    summary="logging, metrics and /progress / step",
    measure=measure,
)
