"""The oracle of the chaos tests says yes to what is promised, and no to each way of breaking it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.rows import Row, renewed, table
from harness.cluster import Object
from harness.history import Sight
from harness.oracle import Verdict, judge
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, NODE, POD, PYTORCHJOB, Kind


class History:
    """A job as the watches tell of it, a word a minute, and what it leaves."""

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self.left: list[Object] = [self._object("FineTuneJob", "job", uid="job")]
        self.starts = [start(last=9), start(last=40, resumed=5)]

    def tell(self, kind: Kind, name: str, *, uid: str = "", deleted: bool = False, **fields: Any) -> None:
        labels = fields.pop("labels", {})
        metadata = {"name": name, "uid": uid or name, "labels": labels}
        obj = {"kind": kind.kind, "metadata": metadata, **fields}
        self.sights.append(Sight(60.0 * len(self.sights), kind, obj, deleted))

    def job(self, phase: str, *, attempt: int = 1, step: int = 0) -> None:
        status = {"phase": phase, "attempt": attempt, "progress": {"step": step}}
        self.tell(FINETUNEJOB, "job", status=status)

    def pod(self, attempt: int, *, runs: bool, node: str = "node-1", deleted: bool = False) -> None:
        state = {"running" if runs else "terminated": {}}
        labels = {names.LABEL_ATTEMPT: str(attempt), names.LABEL_JOB_UID: "job"}
        status = {"phase": "Running", "containerStatuses": [{"state": state}]}
        name = f"job-{attempt}-master-0"
        self.tell(POD, name, labels=labels, status=status, spec={"nodeName": node}, deleted=deleted)

    def gang(self, attempt: int, *, uid: str = "") -> None:
        self.tell(PYTORCHJOB, f"job-{attempt}", uid=uid, labels={names.LABEL_JOB_UID: "job"})

    def node(self, *, ready: bool) -> None:
        conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
        self.tell(NODE, "node-1", status={"conditions": conditions})

    def leave(self, kind: str, name: str, *, owner: str | None = "job", **fields: Any) -> None:
        self.left.append(self._object(kind, name, owner=owner, **fields))

    def judged(self) -> Verdict:
        return judge(self.sights, left=self.left, starts=self.starts, save_interval=5, patience=250)

    def _object(
        self, kind: str, name: str, *, uid: str = "", owner: str | None = None, **fields: Any
    ) -> Object:
        owners = [{"uid": owner}] if owner else []
        metadata = {"name": name, "uid": uid or name, "ownerReferences": owners}
        return {"kind": kind, "metadata": metadata, **fields}


def start(*, last: int, resumed: int = 0) -> Object:
    return {"start": {"from": {"step": resumed} if resumed else None}, "last": last}


def as_promised() -> History:
    """A worker killed at step 9: the gang starts again, and comes to the end."""
    history = History()
    history.job("Preparing")
    history.gang(1)
    history.job("Running", step=5)
    history.pod(1, runs=True)
    history.job("Restarting", step=9)
    history.pod(1, runs=False)
    history.gang(2)
    history.job("Running", attempt=2, step=9)
    history.pod(2, runs=True)
    history.job("Running", attempt=2, step=30)
    history.pod(2, runs=False)
    history.job("Succeeded", attempt=2, step=40)
    history.leave("PersistentVolumeClaim", "job-workspace", owner=None)
    history.leave("ConfigMap", "job-config")
    history.leave("PyTorchJob", "job-2", uid="gang")
    history.leave("Pod", "job-2-master-0", owner="gang")
    return history


def test_a_job_that_went_on_after_a_fault_is_as_promised() -> None:
    assert as_promised().judged() == Verdict()


def old_gang_lives_on(history: History) -> None:
    history.sights = [sight for sight in history.sights if not _is_end_of(sight, "job-1-master-0")]


def _is_end_of(sight: Sight, pod: str) -> bool:
    if sight.kind != POD or sight.obj["metadata"]["name"] != pod:
        return False
    (container,) = sight.obj["status"]["containerStatuses"]
    return "terminated" in container["state"]


def second_of_an_attempt(history: History) -> None:
    history.gang(2, uid="another")


def fails(history: History) -> None:
    history.job("Failed", attempt=2)


def vanishes(history: History) -> None:
    history.tell(FINETUNEJOB, "job", deleted=True)


def never_ends(history: History) -> None:
    history.sights.pop()
    for _ in range(6):
        history.node(ready=True)


def stands_still_for_a_while(history: History) -> None:
    last = history.sights.pop()
    history.sights.append(Sight(last.at + 600, last.kind, last.obj))


def starts_from_nothing(history: History) -> None:
    history.starts[1] = start(last=40)


def leaves_no_trace_on_the_volume(history: History) -> None:
    history.starts = []


def leaves_a_gang(history: History) -> None:
    history.leave("PyTorchJob", "job-1")


def leaves_a_child_of_nobody(history: History) -> None:
    history.leave("Job", "job-prepare", owner=None)


def leaves_a_child_of_a_dead_parent(history: History) -> None:
    history.leave("Pod", "job-1-worker-0", owner="a gang that is gone")


def leaves_a_pod_that_runs(history: History) -> None:
    status = {"containerStatuses": [{"state": {"running": {}}}]}
    history.leave("Pod", "job-2-worker-0", owner="gang", status=status)


@pytest.mark.parametrize(
    ("harm", "complaint", "what"),
    [
        pytest.param(
            old_gang_lives_on, "ran at once: job-1-master-0, job-2-master-0", "doubled", id="two gangs"
        ),
        pytest.param(second_of_an_attempt, "job-2 was made 2 times", "doubled", id="an attempt twice"),
        pytest.param(fails, "the job is not Succeeded", "lost", id="failed"),
        pytest.param(vanishes, "the job is gone", "lost", id="gone"),
        pytest.param(
            starts_from_nothing, "had done step 9, and the next went on from 0", "lost", id="training"
        ),
        pytest.param(leaves_no_trace_on_the_volume, "no start of the run", "lost", id="no trace"),
        pytest.param(never_ends, "nothing moved for 420 s in phase Running", "stuck", id="never ends"),
        pytest.param(stands_still_for_a_while, "nothing moved for 720 s", "stuck", id="stands still"),
        pytest.param(leaves_a_gang, "2 objects of kind PyTorchJob", "orphans", id="an old gang"),
        pytest.param(
            leaves_a_child_of_nobody, "Job job-prepare belongs to nothing", "orphans", id="no owner"
        ),
        pytest.param(
            leaves_a_child_of_a_dead_parent,
            "Pod job-1-worker-0 belongs to something that is gone",
            "orphans",
            id="dead owner",
        ),
        pytest.param(leaves_a_pod_that_runs, "Pod job-2-worker-0 still runs", "orphans", id="a live pod"),
    ],
)
def test_each_broken_promise_is_seen(harm: Callable[[History], None], complaint: str, what: str) -> None:
    history = as_promised()
    harm(history)
    verdict = history.judged()
    assert any(complaint in line for line in getattr(verdict, what)), verdict
    row = Row.of("a fault", [Verdict(), verdict])
    assert (row.tries, row.passed) == (2, False)
    assert getattr(row, what) == 1


def test_pods_of_a_node_that_does_not_answer_are_given_up() -> None:
    history = History()
    history.pod(1, runs=True)
    history.node(ready=False)
    history.pod(2, runs=True, node="node-2")
    history.node(ready=True)
    history.pod(1, runs=True)
    assert history.judged().doubled == ()


def test_a_job_that_was_never_seen_is_lost() -> None:
    assert History().judged().lost == ("the job was never seen",)


def test_a_fault_that_could_not_be_made_has_not_passed() -> None:
    assert not Row.of("a fault", []).passed
    assert not Row.of("a fault", [Verdict()], struck=False).passed


def test_table_has_every_fault_and_says_which_was_not_tried() -> None:
    text = table([Row.of("one", [Verdict(), Verdict()])], ["one", "two"])
    assert text.splitlines()[2:] == ["| one | 2 | 0 | 0 | 0 | 0 | yes |", "| two | not yet run |"]
    page = "before\n<!-- chaos: begin -->\nold\n<!-- chaos: end -->\nafter\n"
    assert renewed(page, "new\n") == page.replace("old", "new")


@pytest.mark.parametrize(("last", "is_lost"), [(12, False), (13, True)])
def test_a_checkpoint_counts_once_it_is_complete(last: int, is_lost: bool) -> None:
    history = History()
    history.job("Succeeded", attempt=2, step=40)
    history.starts = [start(last=last), start(last=40, resumed=5)]
    assert bool(history.judged().lost) is is_lost
