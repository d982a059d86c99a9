"""The command: which rows there are, and what is said of them."""

from collections.abc import Sequence

from benchrows import command
from benchrows.command import Benchmark
from benchrows.row import Row
from operatorbench.rows import ROWS

_EXAMPLES = """\
  make bench-operator                                        all rows, about half an hour
  make bench-operator ONLY=apply_1000_s                      one row; the others in the file stay
  .venv/bin/python benchmarks/operator --only restart_5000_writes --only restart_5000_ready_s"""
_NOTES = """\
Needs the programs of hack/cluster, kwok among them, which make builds first: minutes, once. No root, no
containers: etcd, the API server and the controllers run on the loopback, kwok plays nodes and pods. With
10,000 jobs they take up to 10 GB of memory."""


def main(arguments: Sequence[str] | None = None, *, rows: Sequence[Row] = ROWS) -> int:
    """Measure and write; the result is the exit code of the process."""
    benchmark = Benchmark(
        name="bench-operator",
        description="Measure the operator under load, and write the figures with their bars to a file.",
        examples=_EXAMPLES,
        notes=_NOTES,
        rows=rows,
    )
    return command.main(benchmark, arguments)
