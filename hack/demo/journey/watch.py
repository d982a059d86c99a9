"""Follows one FineTuneJob to its end: the rows of `kubectl get ftj -w`, and the logs of the pods at work."""

import time
from typing import Any, Self

from .console import Command, Console, DemoError
from .kubectl import Kubectl

PODS = {"prepare": "phitune.dev/role=prepare", "rank 0": "phitune.dev/rank=0"}
"""Whose logs are shown, by the prefix of their lines; a job's pods come in this order."""
TIME_LIMIT = 15 * 60
"""Seconds until a job that neither succeeds nor fails ends the demo."""


class Watch:
    """Shows a job's rows, and the log of each of its pods from its start and once, while it is entered."""

    def __init__(self, console: Console, kubectl: Kubectl, job: str) -> None:
        self._console = console
        self._kubectl = kubectl
        self._job = job
        self._followed: set[str] = set()
        self._commands: list[Command] = []

    def __enter__(self) -> Self:
        self._follow("get", "finetunejob", self._job, "--watch")
        return self

    def __exit__(self, *_: object) -> None:
        for command in self._commands:
            command.stop()

    def until(self, *phases: str) -> dict[str, Any]:
        """Wait until the job's phase is one of these, and return the job; DemoError after TIME_LIMIT."""
        end = time.monotonic() + TIME_LIMIT
        while time.monotonic() < end:
            self._follow_new_pods()
            job = self._kubectl.get("finetunejob", self._job)
            if job is None:
                raise DemoError(f"somebody deleted the FineTuneJob {self._job} while it ran")
            if job.get("status", {}).get("phase") in phases:
                time.sleep(1.0)  # The last rows and lines are still on their way.
                return job
            time.sleep(1.0)
        raise DemoError(f"the job {self._job} neither succeeded nor failed within {TIME_LIMIT // 60} minutes")

    def _follow_new_pods(self) -> None:
        for prefix, selector in PODS.items():
            for pod in self._kubectl.items("pods", f"phitune.dev/job={self._job},{selector}"):
                name = pod["metadata"]["name"]
                if name not in self._followed and has_started(pod):
                    self._followed.add(name)
                    self._follow("logs", "--follow", name, prefix=f"{prefix} | ")

    def _follow(self, *args: str, prefix: str = "") -> None:
        self._commands.append(Command(self._console, self._kubectl.argv(*args), prefix=prefix))


def has_started(pod: dict[str, Any]) -> bool:
    """True once a container of the pod has run, so that it has a log."""
    states = [status["state"] for status in pod["status"].get("containerStatuses", [])]
    return any("running" in state or "terminated" in state for state in states)
