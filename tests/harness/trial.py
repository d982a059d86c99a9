"""One job that something strikes, from `kubectl apply` to the judgement."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.cluster import Object, wait_for
from harness.history import Recorder
from harness.jobs import finetunejob, merged
from harness.kill import first_process, kill_container
from harness.lab import Lab
from harness.oracle import ENDS, Verdict, judge, phase_of
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, POD, PYTORCHJOB, labels_of, name_of, uid_of

T = TypeVar("T")
NUM_STEPS = 60
SAVE_INTERVAL = 5
SPEC: Object = {
    "training": {"maxSteps": NUM_STEPS, "globalBatchSize": 8},
    "checkpoint": {"everySteps": SAVE_INTERVAL, "keep": 2},
    "resources": {"cpu": "100m"},
}
"""Two pods that train for half a minute or more and save every five steps."""
OWNED = "finetunejobs,pytorchjobs,jobs,configmaps,pods,persistentvolumeclaims"
PATIENCE = 420.0
"""Seconds without any move, after which a job is taken for stuck: what is awaited, on a busy machine."""
LIMIT = 1500.0
"""Seconds that a job gets in all."""
AFTERMATH = 60.0
"""Seconds that garbage collection gets after the end of a job."""


@dataclass(frozen=True)
class Trial:
    """A job in a namespace of its own."""

    lab: Lab
    recorder: Recorder
    name: str = "struck"
    figures: dict[str, float] = field(default_factory=dict)
    """What is measured on the way, in seconds; jobs of one fault share it."""

    def begin(self, spec: Mapping[str, Any] | None = None) -> None:
        """Apply the job."""
        self.lab.apply(finetunejob(self.name, merged(SPEC, spec or {})))

    @property
    def job(self) -> Object:
        """The job by the latest word; empty where there is none."""
        return next(iter(self.recorder.now(FINETUNEJOB, self.lab.namespace, self.name)), {})

    @property
    def status(self) -> Object:
        """Its status."""
        status: Object = self.job.get("status") or {}
        return status

    def pods(self, *, attempt: int = 1) -> list[Object]:
        """Training pods of an attempt, rank 0 first."""
        found = self.recorder.now(POD, self.lab.namespace, self.name)
        mine = [pod for pod in found if labels_of(pod).get(names.LABEL_ATTEMPT) == str(attempt)]
        return sorted(mine, key=name_of)

    @property
    def gang(self) -> Object:
        """The PyTorchJob of the newest attempt."""
        return self.recorder.now(PYTORCHJOB, self.lab.namespace, self.name)[-1]

    @property
    def master(self) -> Object:
        """The pod of rank 0 of the first attempt."""
        return self.pods()[0]

    @property
    def worker(self) -> Object:
        """The other one."""
        return self.pods()[1]

    def until(self, what: str, predicate: Callable[[], T | None], seconds: float = 600) -> T:
        """Wait for it, by what the watches tell; AssertionError, with all there is to know, at the end."""
        answer = self.recorder.wait(predicate, seconds)
        if answer is None:
            seen = self.lab.cluster.diagnosis(self.lab.namespace)
            raise AssertionError(f"after {seconds:.0f} s still no {what}\n{seen}")
        return answer

    def until_saved(self) -> None:
        """Wait until the first attempt has saved, by what is on the volume: the operator may not know yet."""
        assert self.lab.cluster.state is not None
        volumes, namespace = self.lab.cluster.state / "volumes", self.lab.namespace
        saved = f"{namespace}-*/runs/{namespace}/{self.name}/*/incarnations/0001/checkpoints/step-*"
        wait_for(
            lambda: next(volumes.glob(saved), None),
            LIMIT,
            lambda: f"still no checkpoint\n{self.lab.cluster.diagnosis(self.lab.namespace)}",
        )
        assert phase_of(self.job) not in ENDS, f"it ended before it could be struck: {self.status}"

    def until_step_of_start(self, number: int) -> float:
        """Wait until this start of the run has done a step; when that was, in seconds since 1970."""
        metrics = self.volume() / self.run_folder / f"{number:04}" / "metrics.jsonl"
        line = wait_for(
            lambda: next((line for line in _lines(metrics) if '"time"' in line), None),
            LIMIT,
            lambda: f"still no step of start {number}\n{self.lab.cluster.diagnosis(self.lab.namespace)}",
        )
        return float(json.loads(line)["time"])

    def until_attempt(self, attempt: int) -> None:
        """Wait until this attempt is under way."""
        self.until(f"attempt {attempt}", lambda: int(self.status.get("attempt") or 0) >= attempt or None)

    def until_running(self) -> None:
        """Wait until all pods of the newest gang run, or have run to the end."""
        self.until("phase Running", lambda: phase_of(self.job) in ("Running", *ENDS))

    def until_ended(self) -> None:
        """Wait until the job has come to its end, or has had the time for it."""
        self.recorder.wait(lambda: phase_of(self.job) in ENDS, LIMIT)

    def until_failure(self, reason: str) -> None:
        """Wait until an attempt has ended for this reason."""
        self.until(
            f"end of an attempt by {reason}",
            lambda: (self.status.get("failure") or {}).get("reason") == reason,
        )

    def until_refused(self, reason: str) -> None:
        """Wait until the condition Accepted says no with this reason."""

        def refused() -> bool:
            told = self.status.get("conditions") or []
            return any(one["type"] == "Accepted" and one["reason"] == reason for one in told)

        self.until(f"condition Accepted with reason {reason}", refused)

    def kill_worker(self) -> None:
        """Kill the worker's container, so that the gang has to start again."""
        kill_container(self.lab, self.worker)

    def kill_gang(self) -> None:
        """Kill all pods' containers; found before the first of them dies, for the others follow it soon."""
        for process in [first_process(pod) for pod in self.pods()]:
            os.kill(process, signal.SIGKILL)

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return self.lab.cluster.kubectl(*args, "-n", self.lab.namespace, stdin=stdin)

    def verdict(self, *, keeps_volume: bool = True, may_lose: int = SAVE_INTERVAL) -> Verdict:
        """Wait for the end of the job, and judge it; one that does not end is judged as it stands.

        `may_lose`: steps that a start may have to do again.
        """
        self.until("job", lambda: self.job)
        self.until_ended()
        starts = self.starts() if keeps_volume else None
        left = self.settled()
        sights = self.recorder.of_job(self.lab.namespace, self.name)
        return judge(sights, left=left, starts=starts, save_interval=may_lose, patience=PATIENCE)

    def saved_step(self) -> int:
        """The step of the newest checkpoint of the first start."""
        checkpoints = self.volume() / self.run_folder / "0001/checkpoints"
        return max(int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-*"))

    def settled(self) -> list[Object]:
        """The job and all labelled with it, once nothing of it is being deleted any more."""
        end = time.monotonic() + AFTERMATH
        while True:
            text = self.kubectl("get", OWNED, "-l", f"{names.LABEL_JOB}={self.name}", "-o", "json")
            left: list[Object] = json.loads(text)["items"]
            if not any("deletionTimestamp" in obj["metadata"] for obj in left) or time.monotonic() > end:
                job = self.lab.cluster.get("finetunejob", self.name, self.lab.namespace)
                return [*left, *([job] if job else [])]
            time.sleep(1)

    def starts(self) -> list[Object]:
        """Of each start of the run: its record (start.json), and the last step that it did."""
        return [read_start(folder) for folder in sorted((self.volume() / self.run_folder).glob("*"))]

    @property
    def run_folder(self) -> str:
        """The folder of the run's starts on the volume."""
        return f"runs/{self.lab.namespace}/{self.name}/{uid_of(self.job)[:8]}/incarnations"

    def volume(self) -> Path:
        """The folder behind the job's claim, on this machine."""
        assert self.lab.cluster.state is not None
        artifacts = self.status.get("artifacts") or {}
        claim = self.lab.cluster.get("pvc", artifacts.get("claim", "none"), self.lab.namespace)
        uid = uid_of(claim) if claim else "gone"
        return self.lab.cluster.state / "volumes" / f"{self.lab.namespace}-{artifacts.get('claim')}-{uid}"


def read_start(folder: Path) -> Object:
    """One start, as the oracle wants it."""
    rows = [json.loads(line) for line in _lines(folder / "metrics.jsonl")]
    last = max((row["step"] for row in rows if "step" in row), default=0)
    return {"start": json.loads((folder / "start.json").read_text()), "last": last}


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may not be there yet: one that is being written has no end."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith("{") and line.endswith("}")]
