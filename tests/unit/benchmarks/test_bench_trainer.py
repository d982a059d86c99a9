"""What `make bench-trainer` writes, and when it fails. The figures themselves are not measured here."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchrows import command
from benchrows.row import Bar, NotMeasured, Row, Workplace
from trainerbench import cli
from trainerbench.alone import alone
from trainerbench.memory import peak_resident_bytes, tree_resident_bytes
from trainerbench.rows import ROWS

REPOSITORY = Path(__file__).resolve().parents[3]
BENCHMARKS = REPOSITORY / "benchmarks" / "trainer"


AT_LEAST = Bar(sign=">=", limit=1.8)


def row(
    name: str = "speed",
    *,
    value: float = 2.0,
    bar: Bar = AT_LEAST,
    doing: Callable[[Path], None] = lambda folder: None,
    needs_gpu: bool = False,
) -> Row:
    def measure(work: Workplace) -> float:
        doing(work.folder)
        return value

    return Row(name=name, unit="times", bar=bar, summary="made up", measure=measure, needs_gpu=needs_gpu)


def fail(folder: Path) -> None:
    raise NotMeasured("there is no room")


def break_down(folder: Path) -> None:
    raise OSError("there is no room")


def bench(out: Path, *rows: Row, only: str | None = None) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what the file holds then."""
    arguments = ["--out", str(out), *(["--only", only] if only else [])]
    code = cli.main(arguments, rows=rows)
    return code, json.loads(out.read_text()) if out.exists() else []


def test_a_row_has_exactly_the_agreed_fields(tmp_path: Path) -> None:
    code, entries = bench(tmp_path / "build" / "bench.json", row(value=2.123456))
    assert code == 0
    (entry,) = entries
    commit = entry.pop("commit")
    assert commit == "unknown" or len(commit.removesuffix("-dirty")) == 40
    assert entry == {
        "name": "speed",
        "value": 2.123,
        "unit": "times",
        "bar": ">= 1.8",
        "passed": True,
        "command": "make bench-trainer ONLY=speed",
    }


def test_a_row_beyond_its_bar_is_written_and_fails_the_command(tmp_path: Path) -> None:
    code, entries = bench(tmp_path / "bench.json", row("a", value=1.0), row("b"))
    assert code == 1
    assert [(entry["name"], entry["passed"]) for entry in entries] == [("a", False), ("b", True)]


@pytest.mark.parametrize("doing", [fail, break_down])
def test_a_row_that_could_not_be_measured_is_left_out_and_fails_the_command(
    doing: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, entries = bench(tmp_path / "bench.json", row("a", doing=doing), row("b"))
    assert code == 1
    assert [entry["name"] for entry in entries] == ["b"]
    assert "a: NOT MEASURED: there is no room" in capsys.readouterr().out


def test_a_row_that_needs_a_gpu_is_not_missed_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_has_gpu", lambda: False)
    code, entries = bench(tmp_path / "bench.json", row("a", needs_gpu=True, doing=fail), row("b"))
    assert code == 0
    assert [entry["name"] for entry in entries] == ["b"]


def test_one_row_alone_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    bench(out, row("a"), row("b", value=1.0), row("c"))
    code, entries = bench(out, row("a", doing=fail), row("b", value=3.0), row("c", doing=fail), only="b")
    assert code == 0
    assert [(entry["name"], entry["value"]) for entry in entries] == [("a", 2.0), ("b", 3.0), ("c", 2.0)]
    code, entries = bench(out, row("a"), row("b", doing=fail), row("c"), only="b")
    assert code == 1
    assert [entry["name"] for entry in entries] == ["a", "c"]


def test_a_bar_says_on_which_side_of_it_a_value_must_lie() -> None:
    at_least, at_most = Bar(sign=">=", limit=2.0), Bar(sign="<=", limit=2.0)
    for value, holds in {1.9: (False, True), 2.0: (True, True), 2.1: (True, False)}.items():
        assert (at_least.holds(value), at_most.holds(value)) == holds
    assert not at_least.holds(float("nan"))
    assert not at_most.holds(float("nan"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind_and_the_file_as_it_was(
    number: signal.Signals, tmp_path: Path
) -> None:
    folders = []

    def interrupt(folder: Path) -> None:
        (folder / "large").write_text("data")
        folders.append(folder)
        os.kill(os.getpid(), number)

    out = tmp_path / "bench.json"
    before = bench(out, row("a"))[1]
    assert bench(out, row("a", value=3.0), row("b", doing=interrupt)) == (130, before)
    assert not folders[0].exists()
    assert list(tmp_path.iterdir()) == [out]


def test_a_function_measured_alone_runs_in_a_process_of_its_own() -> None:
    assert alone(os.getpid) != os.getpid()


def test_a_process_that_ends_early_means_not_measured(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotMeasured, match="ended with exit code 1; its error is above"):
        alone(int, "x")
    assert "invalid literal for int() with base 10: 'x'" in capfd.readouterr().err


def test_memory_counts_what_a_process_has_started_too() -> None:
    before = tree_resident_bytes()
    child = "import sys; held = b'x' * 64_000_000; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with_child = tree_resident_bytes()
        process.communicate()
    assert with_child - before > 60_000_000
    assert peak_resident_bytes() >= before / 2


def test_help_lists_every_row_with_its_bar_and_needs_no_torch() -> None:
    run = "import sys; sys.modules['torch'] = None; from trainerbench.cli import main; main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", run],
        env={**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}/common"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for each in ROWS:
        assert each.name in done.stdout
        assert f"{each.bar} {each.unit}" in done.stdout
    assert len(ROWS) == len({each.name for each in ROWS})


def test_the_documentation_explains_every_row() -> None:
    pages = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    assert [each.name for each in ROWS if f"| `{each.name}` |" not in pages] == []
