"""The command: measures rows one after the other, says how it goes, and writes the file."""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from trainerbench import results
from trainerbench.row import NotMeasured, Row, Workplace
from trainerbench.rows import ROWS

INTERRUPTED = 130
RESULTS = results.REPOSITORY / "build" / "bench-trainer.json"

_EPILOG = """\
examples:
  make bench-trainer                                         all rows, about twenty minutes
  make bench-trainer ONLY=preprocess_speedup                 one row; the others in the file stay
  .venv/bin/python benchmarks/trainer --only load_extra_gib --only load_read_ratio

rows:
{rows}

The rows about loading make a full-size model of random weights at their first use: 8.3 GB, a few minutes. It
is kept in {models}.
docs/benchmarks.md says how each row is measured.

exit codes:
  0 every row was measured and holds its bar (rows that need a GPU may be missing where there is none)
  1 a row does not hold its bar, or could not be measured and is left out of the file
  2 asked wrongly, 130 interrupted: the file is left as it was
"""


def main(arguments: Sequence[str] | None = None, *, rows: Sequence[Row] = ROWS) -> int:
    """Measure and write; the result is the exit code of the process."""
    options = _parser(rows).parse_args(arguments)
    # A benchmark that is ended by SIGTERM, or with its terminal, tidies up as one after Ctrl-C does.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)
    wanted = [row for row in rows if not options.only or row.name in options.only]
    try:
        found, is_complete = _measure_all(wanted)
    except KeyboardInterrupt:
        print(f"interrupted; {options.out} is left as it was", file=sys.stderr)
        return INTERRUPTED
    kept = results.read(options.out, names={row.name for row in rows} - {row.name for row in wanted})
    in_order = sorted(kept + found, key=lambda entry: [row.name for row in rows].index(entry["name"]))
    results.write(options.out, in_order)
    print(f"{options.out}: {len(in_order)} rows")
    return 0 if is_complete and all(entry["passed"] for entry in found) else 1


def _parser(rows: Sequence[Row]) -> argparse.ArgumentParser:
    from trainerbench.full_model import MODEL_FOLDER

    width = max(len(row.name) for row in rows)
    lines = [f"  {row.name:<{width}}  {row.bar!s:>9} {row.unit:<9}  {row.summary}" for row in rows]
    parser = argparse.ArgumentParser(
        prog="benchmarks/trainer",
        description="Measure the trainer, and write the figures with their bars to a file.",
        epilog=_EPILOG.format(rows="\n".join(lines), models=MODEL_FOLDER.parent),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[row.name for row in rows],
        metavar="ROW",
        help="measure this row alone, and replace it in the file; may be given several times",
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="FILE", help="what to write (build/bench-trainer.json)"
    )
    return parser


def _measure_all(rows: Sequence[Row]) -> tuple[list[results.Entry], bool]:
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
        entry = results.entry(row, value, commit)
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
