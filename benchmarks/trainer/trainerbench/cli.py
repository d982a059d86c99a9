"""The command: which rows there are, and what is said of them."""

from collections.abc import Sequence

from benchrows import command
from benchrows.command import Benchmark
from benchrows.row import Row
from trainerbench.rows import ROWS

_EXAMPLES = """\
  make bench-trainer                                         all rows, about twenty minutes
  make bench-trainer ONLY=preprocess_speedup                 one row; the others in the file stay
  .venv/bin/python benchmarks/trainer --only load_extra_gib --only load_read_ratio"""
_NOTES = """\
The rows about loading make a full-size model of random weights at their first use: 8.3 GB, a few minutes. It
is kept in {models}."""


def main(arguments: Sequence[str] | None = None, *, rows: Sequence[Row] = ROWS) -> int:
    """Measure and write; the result is the exit code of the process."""
    from trainerbench.full_model import MODEL_FOLDER

    benchmark = Benchmark(
        name="bench-trainer",
        description="Measure the trainer, and write the figures with their bars to a file.",
        examples=_EXAMPLES,
        notes=_NOTES.format(models=MODEL_FOLDER.parent),
        rows=rows,
    )
    return command.main(benchmark, arguments)
