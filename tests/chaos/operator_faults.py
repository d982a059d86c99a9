"""Faults of the operator itself and of its way to the API server.

Each try has an operator of its own, a process of this machine that serves the try's namespace, with a proxy
between it and the API server. The operator that the chart installed is not at work meanwhile.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import web

from harness.cluster import OPERATOR_NAMESPACE, Cluster
from harness.faulty_api import WRITES, ApiProxy, cut_off, refusal
from harness.installed import RELEASE
from harness.lab import Lab
from harness.operator_process import OperatorProcess
from harness.oracle import Verdict
from harness.trial import Trial

SHORT: dict[str, Any] = {"training": {"maxSteps": 4}, "resources": {"nodes": 1}}
"""The shortest job: one pod, four steps."""
AT_ONCE = 4
"""Jobs among those whose operator is killed at a write."""
SHARE = 0.2
"""Of the requests, those that a bad day spoils."""
SLOW = 3.0
"""Seconds that an answer comes late."""
HOUR = 3600
FAILOVER = 20.0
"""Seconds within which the second operator works."""


@dataclass(frozen=True)
class Ground:
    """An operator, and the proxy between it and the API server."""

    operator: OperatorProcess
    proxy: ApiProxy


@contextmanager
def ground(trial: Trial, **more: Any) -> Iterator[Ground]:
    """An operator for as long as the block lasts; its log is part of what goes wrong in it."""
    with TemporaryDirectory() as folder, proxied(trial) as proxy:
        operator = operator_behind(proxy, trial, Path(folder), **more)
        operator.start()
        try:
            yield Ground(operator, proxy)
        except AssertionError as problem:
            problem.add_note(operator.log.read_text()[-4000:])
            raise
        finally:
            operator.end()


@contextmanager
def proxied(trial: Trial) -> Iterator[ApiProxy]:
    """A proxy for as long as the block lasts."""
    proxy = ApiProxy(trial.lab.cluster)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def operator_behind(proxy: ApiProxy, trial: Trial, folder: Path, **more: Any) -> OperatorProcess:
    """An operator of the trial's namespace, not started yet."""
    return OperatorProcess(
        trial.lab.cluster,
        folder,
        server=f"http://127.0.0.1:{proxy.port}",
        trainer_image=trial.lab.trainer_image,
        namespaces=[trial.lab.namespace],
        **more,
    )


def number_of_writes(trial: Trial) -> int:
    """How many writes the operator needs for the shortest job."""
    with ground(trial) as made:
        trial.begin(SHORT)
        verdict = trial.verdict()
        assert not verdict.complaints, verdict.complaints
        return made.proxy.writes[trial.lab.namespace]


def killed_at_write(trial: Trial, number: int, moment: str) -> list[Verdict]:
    """Kill the operator before or after its n-th write; no verdict where it never came to it."""
    killed = threading.Event()
    with ground(trial) as made:

        def on_write(namespace: str, count: int, now: str) -> bool:
            if killed.is_set() or (count, now) != (number, moment):
                return False
            killed.set()
            made.operator.kill()
            return True

        made.proxy.on_write = on_write
        trial.begin(SHORT)
        verdict = trial.verdict()
        assert made.operator.num_starts == (2 if killed.is_set() else 1)
    return [verdict] if killed.is_set() else []


def killed_at_each_write(moment: str) -> Callable[[Trial], list[Verdict]]:
    """Kill the operator before or after every write that a job takes: a job and an operator for each."""

    def strike(trial: Trial) -> list[Verdict]:
        cluster, last = trial.lab.cluster, number_of_writes(trial)

        def one(number: int) -> list[Verdict]:
            with cluster.temporary_namespace(f"killed-{moment}-{number}") as namespace:
                lab = Lab(cluster, namespace, trial.lab.trainer_image)
                return killed_at_write(Trial(lab, trial.recorder), number, moment)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [verdict for verdicts in pool.map(one, range(1, last + 1)) for verdict in verdicts]

    return strike


def answered(*choices: tuple[int, str], only: Callable[[web.Request], bool]) -> Callable[[Trial], Verdict]:
    """Answer some of the requests with one of these codes and reasons, or, without any, late."""

    def strike(trial: Trial) -> Verdict:
        chance, spoiled = random.Random(trial.lab.namespace), []

        def answer(request: web.Request) -> web.Response | float | None:
            if not only(request) or chance.random() > SHARE:
                return None
            spoiled.append(request.path)
            if not choices:
                return SLOW
            code, reason = chance.choice(choices)
            return cut_off(code, reason) if "watch" in request.query else refusal(code, reason)

        with ground(trial) as made:
            made.proxy.answer = answer
            trial.begin()
            trial.until_saved()
            trial.kill_worker()
            verdict = trial.verdict()
        assert spoiled, "every request had its answer"
        return verdict

    return strike


def is_write(request: web.Request) -> bool:
    return request.method in WRITES


def is_list_or_watch(request: web.Request) -> bool:
    return request.method == "GET" and ("limit" in request.query or "watch" in request.query)


def is_any(request: web.Request) -> bool:
    return True


def watches_fall_silent(trial: Trial) -> Verdict:
    with ground(trial) as made:
        trial.begin()
        trial.until_saved()
        made.proxy.silence()
        trial.kill_worker()
        verdict = trial.verdict()
        assert made.proxy.num_untold > 0, "the watches had nothing to tell"
        return verdict


def clock_jumps(seconds: int) -> Callable[[Trial], Verdict]:
    """Set the operator's clock forward or back while a gang trains, and right while the next one does."""

    def strike(trial: Trial) -> Verdict:
        with TemporaryDirectory() as folder:
            offset = Path(folder) / "offset"
            offset.write_text("0")
            program = [str(Path(__file__).with_name("operator_with_clock.py")), str(offset)]
            with ground(trial, program=program):
                trial.begin()
                trial.until_saved()
                offset.write_text(str(seconds))
                trial.kill_worker()
                trial.until_attempt(2)
                offset.write_text("0")
                return trial.verdict()

    return strike


def leader_killed(trial: Trial) -> Verdict:
    """Take away the one of two operators that works, while a gang trains."""
    lease = ["--lease", f"{OPERATOR_NAMESPACE}/{RELEASE}"]
    with TemporaryDirectory() as folder, proxied(trial) as proxy:
        both = [
            operator_behind(proxy, trial, Path(folder) / name, options=lease) for name in ("first", "second")
        ]
        try:
            for operator in both:
                operator.start()
            trial.begin()
            trial.until_saved()
            holder = next(operator for operator in both if holds_lease(operator, trial.lab.cluster))
            (other,) = (operator for operator in both if operator is not holder)
            before, began = other.said("serving"), time.monotonic()
            holder.end()
            trial.kill_worker()
            other.wait_until_it_serves(again=before)
            took = time.monotonic() - began
            trial.figures["from the end of the one to the other's work"] = took
            verdict = trial.verdict()
        finally:
            for operator in both:
                operator.end()
    assert took < FAILOVER, f"the second one worked after {took:.1f} s"
    return verdict


def holds_lease(operator: OperatorProcess, cluster: Cluster) -> bool:
    """Whether the Lease names this process: by host and pid, as outside of a pod."""
    lease = cluster.get("lease", RELEASE, OPERATOR_NAMESPACE)
    assert lease is not None
    assert operator.process is not None
    return str(lease["spec"]["holderIdentity"]).endswith(f"-{operator.process.pid}")
