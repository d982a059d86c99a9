"""A job in a simulated cluster, and an operator that looks at it: a test says what else happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from harness.jobs import finetunejob
from harness.no_ranks import NobodyToAsk
from harness.simulated_cluster import SimulatedCluster
from phitune_operator.kinds import WATCHED, Key, Kind, Object, is_controlled_by, uid_of
from phitune_operator.kube import ApiError
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import Settings
from phitune_operator.queue import WorkQueue
from phitune_operator.reconcile import Reconciler
from phitune_operator.store import Store

KEY = Key("team", "digits")


class OperatedJob:
    """The job digits of the namespace team."""

    def __init__(self, spec: Object | None = None, *, settings: Settings | None = None) -> None:
        self.cluster = SimulatedCluster()
        self._settings = settings or Settings(trainer_image="trainer:1")
        job = finetunejob(KEY.name, spec)
        job["metadata"]["namespace"] = KEY.namespace
        self.cluster.put_new(job)
        self.start_operator()

    def start_operator(self, settings: Settings | None = None) -> None:
        """Begin with empty memory and a LIST of everything."""
        self._settings = settings or self._settings
        self._store = Store()
        for kind in WATCHED:
            self.cluster.told[kind].clear()
            for obj in self.cluster.of_kind(kind):
                self._store.absorb(kind, obj)
        kube: Any = self.cluster
        nobody: Any = NobodyToAsk()
        observer = Observer(kube, self._store, nobody, self._settings)
        self._operator = Reconciler(
            kube, self._store, WorkQueue(), observer, Metrics(), clock=lambda: self.cluster.now
        )

    def flow(self, *, without: str = "nothing") -> None:
        """All is told, the operator looks, all moves but those that begin so, and a minute goes by."""
        for kind in WATCHED:
            for obj, deleted in self.cluster.told[kind]:
                self._store.absorb(kind, obj, deleted=deleted)
            self.cluster.told[kind].clear()
        try:
            asyncio.run(self._operator.reconcile(KEY))
        except ApiError as error:
            if not error.conflict:  # what it is to make is still going away
                raise
        while moves := [move for name, move in self.cluster.moves() if not name.startswith(without)]:
            moves[0]()
        self.cluster.now += timedelta(minutes=1)

    def flow_until(self, is_so: Callable[[], object], *, without: str = "nothing") -> None:
        """Flow until something is so; AssertionError if it never is."""
        for _ in range(12):
            if is_so():
                return
            self.flow(without=without)
        raise AssertionError(self.status)

    @property
    def job(self) -> Object:
        """The FineTuneJob."""
        return self.cluster.job(KEY.name)

    @property
    def status(self) -> Object:
        """Its status."""
        return dict(self.job.get("status") or {})

    def children(self, kind: Kind) -> list[Object]:
        """Objects of a kind that the operator has made for the job."""
        return [obj for obj in self.cluster.of_kind(kind) if is_controlled_by(obj, uid_of(self.job))]
