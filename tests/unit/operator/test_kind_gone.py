"""The kind of a job's gangs may go, and come back, while another kind is there and the operator works on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from harness.jobs import finetunejob
from harness.no_ranks import NobodyToAsk
from harness.operator_view import condition
from harness.simulated_cluster import SimulatedCluster
from phitune_operator.kinds import PYTORCHJOB, WATCHED, Key, Kind, Object, name_of
from phitune_operator.kube import ApiError
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import Settings
from phitune_operator.queue import WorkQueue
from phitune_operator.reconcile import Reconciler
from phitune_operator.store import Store

KEY = Key("team", "digits")


class LosingItsKind(SimulatedCluster):
    """A cluster whose PyTorchJobs' CRD can be deleted, and all of them with it."""

    is_served = True

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        self._refuse(kind)
        return await super().list(kind, namespace, labels=labels, fields=fields)

    async def create(self, kind: Kind, obj: Object) -> Object:
        self._refuse(kind)
        return await super().create(kind, obj)

    def lose(self) -> None:
        self.is_served = False
        for gang in self.of_kind(PYTORCHJOB):
            self.remove(gang)

    def _refuse(self, kind: Kind) -> None:
        if kind == PYTORCHJOB and not self.is_served:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")


def test_a_job_whose_kind_of_gang_is_gone_says_so_and_goes_on_when_it_is_back() -> None:
    cluster, store = LosingItsKind(), Store()
    kube: Any = cluster
    nobody: Any = NobodyToAsk()
    observer = Observer(kube, store, nobody, Settings(trainer_image="trainer:1"))
    operator = Reconciler(kube, store, WorkQueue(), observer, Metrics(), clock=lambda: cluster.now)
    job = finetunejob(KEY.name)
    job["metadata"]["namespace"] = KEY.namespace
    cluster.put_new(job)

    async def flow() -> None:
        """All is told, the operator looks, and all moves that can; some time goes by."""
        for kind in WATCHED:
            for obj, deleted in cluster.told[kind]:
                store.absorb(kind, obj, deleted=deleted)
            cluster.told[kind].clear()
        await operator.reconcile(KEY)
        while moves := [move for name, move in cluster.moves() if "end" not in name]:
            moves[0]()
        cluster.now += timedelta(minutes=1)

    def gangs() -> list[str]:
        return [name_of(gang) for gang in cluster.of_kind(PYTORCHJOB)]

    async def run() -> None:
        while not gangs():
            await flow()
        await flow()
        cluster.lose()
        for _ in range(6):
            await flow()
        accepted = condition(cluster.job(KEY.name)["status"], "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "TrainingOperatorMissing")
        cluster.is_served = True
        for _ in range(3):
            await flow()
        assert gangs() == ["digits-2"]
        assert condition(cluster.job(KEY.name)["status"], "Accepted")["status"] == "True"

    asyncio.run(run())
