"""Runs every test: those that need a cluster beside those that need only Python.

The former wait for pods more than they compute, so the two together take little longer than the former
alone. What they print is kept in build/ and shown when the others have ended; the last line counts all.

    python hack/run_tests.py            all
    python hack/run_tests.py python     those that need only Python
    python hack/run_tests.py cluster    those that need a cluster, after building it and the images
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
CLUSTER_LOG = BUILD / "test-cluster.log"
PARTS: dict[str, Sequence[str]] = {
    "python": ("-n", "auto", "-m", "not cluster and not slow"),
    # These start ranks and workers of their own, as many as there are cores.
    "slow": ("-m", "slow and not cluster"),
    "cluster": ("-m", "cluster and not addons and (not chaos or quick)"),
}
TESTS_FAILED = 1
"""Exit status of pytest."""
INTERRUPTED = 128 + signal.SIGINT

Tests = subprocess.Popen[bytes]


def main(arguments: Sequence[str]) -> int:
    """Run the tests of `arguments`, or all; the exit status is 0 if all of them passed."""
    BUILD.mkdir(exist_ok=True)
    match arguments:
        case []:
            return run_all()
        case ["python"]:
            return run_in_turn([pytest("python"), pytest("slow")], even_after=TESTS_FAILED)
        case ["cluster"]:
            return run_in_turn([preparation(), pytest("cluster")])
    print(__doc__, file=sys.stderr)
    return 2


def run_all() -> int:
    """Both kinds side by side; an interrupt reaches both, and each tidies up what it started."""
    for name in PARTS:
        report(name).unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    started: list[Tests] = []
    try:
        with CLUSTER_LOG.open("wb") as log:
            started.append(cluster := start("cluster", output=log))
        print(f"Those that need a cluster run beside, into {CLUSTER_LOG.relative_to(ROOT)}.", flush=True)
        # The cluster's tests have deadlines; these give way to them.
        started.append(python := start("python", priority=("nice", "-n", "10")))
        statuses = [python.wait(), show(CLUSTER_LOG, cluster)]
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("\nInterrupted: both kinds of tests tidy up.", flush=True)
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        for process in started:
            process.wait()
        return INTERRUPTED
    print(total([report(name) for name in PARTS]))
    return max(map(abs, statuses))  # negative: the signal that killed it


def start(kind: str, output: IO[bytes] | None = None, priority: Sequence[str] = ()) -> Tests:
    """Start the tests of one kind in a process group of its own: we alone say when it is interrupted."""
    command = [*priority, sys.executable, __file__, kind]
    return Tests(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        process_group=0,
    )


def run_in_turn(commands: Sequence[Sequence[str]], even_after: int = 0) -> int:
    """Run commands, to the first whose exit status is neither 0 nor `even_after`; the worst status."""
    # An interrupt is theirs to handle: Python would kill a command that tidies up after it.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    worst = 0
    for command in commands:
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        worst = max(worst, abs(status))
        if status not in (0, even_after):
            break
    return worst


def pytest(name: str) -> list[str]:
    """The command of one part."""
    return [sys.executable, "-m", "pytest", *PARTS[name], f"--junitxml={report(name)}"]


def preparation() -> list[str]:
    """What makes images and the local cluster's programs; on a cluster of KUBECONFIG, the images alone."""
    if not os.environ.get("KUBECONFIG"):
        return [sys.executable, "hack/demo", "--build-only"]
    registry = os.environ.get("REGISTRY")
    return [sys.executable, "hack/images", "build", *(["--push", registry] if registry else [])]


def report(name: str) -> Path:
    """Where pytest writes what became of a part's tests."""
    return BUILD / f"test-{name}.xml"


def show(log: Path, process: Tests) -> int:
    """Print a log from its beginning, and on while its process runs; the exit status of that."""
    with log.open("rb") as lines:
        while True:
            ended = process.poll()
            sys.stdout.buffer.write(lines.read())
            sys.stdout.buffer.flush()
            if ended is not None:
                return ended
            time.sleep(0.5)


def total(reports: Sequence[Path]) -> str:
    """How many tests passed, failed and were skipped; a part without a report has ended early."""
    counts: Counter[str] = Counter()
    for path in reports:
        if not path.exists():
            return f"{path.stem} ended early: see above"
        for suite in ET.parse(path).getroot().iter("testsuite"):
            for key in ("tests", "failures", "errors", "skipped"):
                counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return f"total: {passed} passed, {failed} failed, {counts['skipped']} skipped"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
