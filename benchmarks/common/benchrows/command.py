"""The command of a benchmark: measures rows one after the other, says how it goes, and writes the file."""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchrows import results
from benchrows.row import NotMeasured, Row, Workplace

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Rows that are measured by one target of make and written to one file."""

    name: str
    """Of the target, and of the file without its ending: bench-trainer."""
    description: str
    examples: str
    """Lines of `--help`, each a command and what it does."""
    notes: str
    """What else `--help` says, after the rows."""
    rows: Sequence[Row]

    @property
    def results(self) -> Path:
        """The file that is written unless another one is asked for."""
        return results.REPOSITORY / "build" / f"{self.name}.json"


_EPILOG = """\
examples:
{examples}

rows:
{rows}

{notes}
docs/benchmarks.md says how each row is measured.

exit codes:
  0 every row was measured and holds its bar (rows that need a GPU may be missing where there is none)
  1 a row does not hold its bar, or could not be measured and is left out of the file
  2 asked wrongly, 130 interrupted: the file is left as it was
"""


def main(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the result is the exit code of the process."""
    rows = benchmark.rows
    options = _parser(benchmark).parse_args(arguments)
    # A benchmark that is ended by SIGTERM, or with its terminal, tidies up as one after Ctrl-C does.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)
    wanted = [row for row in rows if not options.only or row.name in options.only]
    try:
        found, is_complete = _measure_all(wanted, benchmark.name)
    except KeyboardInterrupt:
        print(f"interrupted; {options.out} is left as it was", file=sys.stderr)
        return INTERRUPTED
    kept = results.read(options.out, names={row.name for row in rows} - {row.name for row in wanted})
    in_order = sorted(kept + found, key=lambda entry: [row.name for row in rows].index(entry["name"]))
    results.write(options.out, in_order)
    print(f"{options.out}: {len(in_order)} rows")
    return 0 if is_complete and all(entry["passed"] for entry in found) else 1


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    width = max(len(row.name) for row in benchmark.rows)
    lines = [f"  {row.name:<{width}}  {row.bar!s:>9} {row.unit:<9}  {row.summary}" for row in benchmark.rows]
    parser = argparse.ArgumentParser(
        prog=f"benchmarks/{benchmark.name.removeprefix('bench-')}",
        description=benchmark.description,
        epilog=_EPILOG.format(examples=benchmark.examples, rows="\n".join(lines), notes=benchmark.notes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[row.name for row in benchmark.rows],
        metavar="ROW",
        help="measure this row alone, and replace it in the file; may be given several times",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=benchmark.results,
        metavar="FILE",
        help=f"what to write (build/{benchmark.name}.json)",
    )
    return parser


def _measure_all(rows: Sequence[Row], target: str) -> tuple[list[results.Entry], bool]:
    """The rows that could be measured, and whether none is missing that must not be."""
    found: list[results.Entry] = []
    is_complete = True
    commit = results.commit()
    has_gpu = any(row.needs_gpu for row in rows) and _has_gpu()
    for row in rows:
        if row.needs_gpu and not has_gpu:
            print(f"{row.name}: left out, it needs a GPU", flush=True)
            continue
        print(f"{row.name}: {row.summary}", flush=True)
        began = time.monotonic()
        try:
            value = _measure(row)
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with one row, the others are measured
            if not isinstance(problem, NotMeasured):
                traceback.print_exc()
            print(f"{row.name}: NOT MEASURED: {problem}", flush=True)
            is_complete = False
            continue
        entry = results.entry(row, value, commit=commit, target=target)
        verdict = "holds" if entry["passed"] else "DOES NOT HOLD"
        seconds = time.monotonic() - began
        print(f"{row.name}: {value:.4g} {row.unit}, {verdict} {row.bar} ({seconds:.0f} s)", flush=True)
        found.append(entry)
    return found, is_complete


def _measure(row: Row) -> float:
    with tempfile.TemporaryDirectory(prefix=f"bench-{row.name}-") as folder:
        return row.measure(Workplace(Path(folder), lambda line: print(f"  {line}", flush=True)))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
