"""Trying faults, several at once, and what came of each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from chaos.catalogue import Strike
from chaos.rows import Row
from harness.history import Recorder
from harness.installed import Installed
from harness.lab import Lab
from harness.oracle import Verdict
from harness.trial import Trial


class Outcome:
    """What came of one fault."""

    def __init__(self, fault: str, verdicts: Sequence[Verdict], problem: str = "", **more: Any) -> None:
        self.row = Row.of(fault, verdicts, struck=not problem, **more)
        self.complaints = [*(line for verdict in verdicts for line in verdict.complaints)]
        self.complaints += [problem] if problem else []


def fault_of(test: pytest.Function) -> str:
    """The fault that a test is about."""
    fault: str = test.callspec.params["fault"]
    return fault


@contextmanager
def tried(
    faults: Mapping[str, Strike],
    request: pytest.FixtureRequest,
    phitune: Installed,
    recorder: Recorder,
    at_once: int,
) -> Iterator[Callable[[str], Outcome]]:
    """Try all faults that the chosen tests of a module are about, so many at once; ask for each outcome."""
    items = [item for item in request.session.items if item.path == request.path]
    chosen = [fault_of(item) for item in items if isinstance(item, pytest.Function)]
    pool = ThreadPoolExecutor(at_once)
    futures = {fault: pool.submit(try_out, fault, faults[fault], phitune, recorder) for fault in chosen}
    try:
        yield lambda fault: futures[fault].result()
    finally:
        pool.shutdown(cancel_futures=True)


def try_out(fault: str, strike: Strike, phitune: Installed, recorder: Recorder) -> Outcome:
    """Try one fault, in a namespace of its own."""
    began = time.monotonic()
    with phitune.cluster.temporary_namespace(fault) as namespace:
        trial = Trial(Lab(phitune.cluster, namespace, phitune.trainer_image), recorder)
        problem, verdicts = "", []
        try:
            told = strike(trial)
            verdicts = told if isinstance(told, list) else [told]
        except Exception:  # noqa: BLE001 - whatever it is, it is this fault's outcome and not its neighbours'
            problem = traceback.format_exc()
    about = {"operator": phitune.operator_image, "figures": trial.figures}
    return Outcome(fault, verdicts, problem, seconds=time.monotonic() - began, **about)


def check(outcome: Outcome, report: list[Row]) -> None:
    """Note the outcome, and fail if it is not as promised."""
    report.append(outcome.row)
    assert not outcome.complaints, "\n".join(outcome.complaints)
    assert outcome.row.passed
