"""What Prometheus is told of the operator, on /metrics of the port of the probes.

Counters begin at 0 with each start of the process. Gauges are read when they are asked for.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from phitune_operator import names
from phitune_operator.api_status import Phase
from phitune_operator.kinds import Kind
from phitune_operator.queue import WorkQueue
from phitune_operator.remedies import REMEDIES
from phitune_operator.status import condition_of
from phitune_operator.store import Store

PHASES: Final[tuple[str, ...]] = get_args(Phase)
SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets."""


class Metrics:
    """Counts what the operator does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reconciles = Histogram(
            "phitune_operator_reconcile_seconds",
            "Time of one look at one job, by how it ended: done, conflict, error or bug.",
            ["outcome"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._requests = Histogram(
            "phitune_operator_api_request_seconds",
            "Time of one call to the API server, watches aside, by verb and HTTP status (0: no answer).",
            ["verb", "code"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._restarts = Counter(
            "phitune_operator_restarts",
            "Restarts of gangs, by cause, a reason of the condition Restarting.",
            ["cause"],
            registry=self._registry,
        )
        # To Prometheus a counter that it first sees at 30 has not grown: each is there before it counts.
        for cause in REMEDIES:
            self._restarts.labels(cause)
        self._heard_at: dict[Kind, float] = {}

    def watch(self, store: Store, queue: WorkQueue) -> None:
        """Tell of what these hold, too; call it once."""
        self._registry.register(_Held(store, queue, self._heard_at))

    def heard(self, kind: Kind) -> None:
        """The watch of a kind has told something."""
        self._heard_at[kind] = time.monotonic()

    def reconciled(self, outcome: str, seconds: float) -> None:
        """A look has ended."""
        self._reconciles.labels(outcome).observe(seconds)

    def requested(self, verb: str, code: int, seconds: float) -> None:
        """The API server has answered, or has not."""
        self._requests.labels(verb, str(code)).observe(seconds)

    def status_written(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """A status was written: it counts if it begins a restart."""
        kind = names.CONDITION_RESTARTING
        was, now = condition_of(before, kind), condition_of(after, kind)
        if now.get("status") == "True" and was.get("status") != "True":
            self._restarts.labels(str(now.get("reason"))).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Held:
    """Gauges of what the operator holds at the moment."""

    def __init__(self, store: Store, queue: WorkQueue, heard_at: Mapping[Kind, float]) -> None:
        self._store = store
        self._queue = queue
        self._heard_at = heard_at

    def describe(self) -> Iterable[Metric]:
        """Leave the names to `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the store and the queue."""
        jobs = GaugeMetricFamily("phitune_operator_jobs", "FineTuneJobs, by phase.", labels=["phase"])
        for phase in PHASES:
            jobs.add_metric([phase], self._store.count(phase))
        yield jobs
        yield GaugeMetricFamily(
            "phitune_operator_queue_depth",
            "Jobs that are due to be looked at and wait for their turn.",
            value=self._queue.depth(),
        )
        ages = GaugeMetricFamily(
            "phitune_operator_watch_event_age_seconds",
            "Seconds since the newest event of the watch of a kind; absent before the first.",
            labels=["kind"],
        )
        for kind, heard_at in self._heard_at.items():
            ages.add_metric([kind.plural], time.monotonic() - heard_at)
        yield ages
