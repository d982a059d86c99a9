"""Kubeflow Trainer in a simulated cluster: its admission of TrainJobs, and what it could do next.

It makes the JobSet of each TrainJob from its runtime, passes suspension on, tells of the JobSet's end, and
holds a runtime until no TrainJob refers to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from phitune_operator.backends import is_suspended
from phitune_operator.clock import to_text
from phitune_operator.kinds import (
    JOBSET,
    TRAINING_RUNTIME,
    TRAINJOB,
    Object,
    controllers_of,
    is_terminating,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError

if TYPE_CHECKING:
    from harness.simulated_cluster import SimulatedCluster

ENDS = {"Completed": "Complete", "Failed": "Failed"}
"""By which condition a TrainJob says how its JobSet has ended."""


def owner_reference(parent: Object) -> Object:
    """What a controller writes on the objects that it makes."""
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": name_of(parent),
        "uid": uid_of(parent),
        "controller": True,
    }


class SimulatedTrainer:
    """The controller and the webhook of Kubeflow Trainer."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._heard: set[str] = set()
        """Uids of the runtimes that its own watch has told it of."""

    def admit(self, trainjob: Object) -> None:
        """Refuse a TrainJob whose runtime it does not know."""
        if not any(uid_of(one) in self._heard for one in self._runtimes_of(trainjob)):
            message = "specified trainingRuntime must be created before the TrainJob is created"
            raise ApiError(403, "Forbidden", f"denied the request: {message}")

    def moves(self) -> list[tuple[str, Callable[[], Any]]]:
        """Everything that it could do next."""
        trainjobs = self._cluster.of_kind(TRAINJOB)
        moves: list[tuple[str, Callable[[], Any]]] = []
        for runtime in self._cluster.of_kind(TRAINING_RUNTIME):
            is_used = any(runtime in self._runtimes_of(trainjob) for trainjob in trainjobs)
            if uid_of(runtime) not in self._heard:
                moves.append((f"hear of {name_of(runtime)}", lambda it=runtime: self._heard.add(uid_of(it))))
            elif is_terminating(runtime) and not is_used:
                moves.append((f"release {name_of(runtime)}", lambda it=runtime: self._cluster.forget(it)))
        for trainjob in trainjobs:
            moves += self._work_on(trainjob)
        return moves

    def holds(self, runtime: Object) -> bool:
        """Whether a runtime that is deleted stays, for a TrainJob that refers to it."""
        found = any(runtime in self._runtimes_of(one) for one in self._cluster.of_kind(TRAINJOB))
        if found and not is_terminating(runtime):
            now = to_text(self._cluster.now)
            self._cluster.change(runtime, lambda obj: obj["metadata"].update(deletionTimestamp=now))
        return found

    def _runtimes_of(self, trainjob: Object) -> list[Object]:
        name = trainjob["spec"]["runtimeRef"]["name"]
        return [one for one in self._cluster.of_kind(TRAINING_RUNTIME) if name_of(one) == name]

    def _work_on(self, trainjob: Object) -> list[tuple[str, Callable[[], Any]]]:
        made = [one for one in self._cluster.of_kind(JOBSET) if uid_of(trainjob) in controllers_of(one)]
        if not made:
            return [
                (f"jobset of {name_of(trainjob)}", lambda it=one: self._make_jobset(trainjob, it))
                for one in self._runtimes_of(trainjob)
            ]
        (jobset,) = made
        if is_suspended(jobset) != is_suspended(trainjob):
            wish = is_suspended(trainjob)
            return [(f"suspend={wish} {name_of(jobset)}", lambda: self._cluster.suspend(jobset, wish))]
        told = (jobset.get("status") or {}).get("conditions")
        if not told or trainjob.get("status"):
            return []
        done = {"conditions": [{**told[0], "type": ENDS[told[0]["type"]]}]}
        return [
            (
                f"end {name_of(trainjob)}",
                lambda: self._cluster.change(trainjob, lambda obj: obj.update(status=done)),
            )
        ]

    def _make_jobset(self, trainjob: Object, runtime: Object) -> None:
        template = copy.deepcopy(runtime["spec"]["template"])
        metadata = {
            **template["metadata"],
            "name": name_of(trainjob),
            "namespace": trainjob["metadata"]["namespace"],
            "ownerReferences": [owner_reference(trainjob)],
        }
        spec = {**template["spec"], "suspend": is_suspended(trainjob)}
        self._cluster.put_new(
            {"apiVersion": JOBSET.api_version, "kind": JOBSET.kind, "metadata": metadata, "spec": spec}
        )
