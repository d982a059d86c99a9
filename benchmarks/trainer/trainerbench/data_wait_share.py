"""How much of its time a run waits for samples, with the data workers that it chooses by itself."""

from benchrows.row import Bar, Row, Workplace
from trainerbench.watched_run import watched_run


def measure(work: Workplace) -> float:
    """Seconds of waiting for samples / seconds of the steps."""
    watched = watched_run(work)
    return watched.waits / watched.steps


ROW = Row(
    name="data_wait_share",
    unit="of a step",
    bar=Bar(sign="<=", limit=0.02),
    summary="waiting for data / step, with the workers chosen by default",
    measure=measure,
)
