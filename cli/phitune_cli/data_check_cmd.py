"""`phitune data check`: everything that is wrong with a jsonl file, before a cluster is kept busy with it."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phitune_cli.arguments import HelpFormatter, add_form_option, positive
from phitune_cli.progress_line import ProgressLine
from phitune_cli.saying import note, say
from phitune_trainer.exit_codes import DONE, USER_ERROR

if TYPE_CHECKING:  # it brings torch along
    from phitune_trainer.data.check import DataReport

MAX_LENGTH = 8192
"""training.maxLength of a FineTuneJob that says nothing else."""
NUM_CROPS = 16
"""training.numCrops likewise; for videos it is 4."""

_MOST_SHOWN = 50
_BAR = 40
_ROWS = 12

_DESCRIPTION = """\
Read a jsonl file of conversations as training would, and say everything that is wrong with it, each problem
with its line; how many samples, turns, pictures and tokens it has; and which samples are too long.

A line is one JSON object:
  {"conversations": [{"images": ["a.jpg"], "user": "Sum?", "assistant": "9"}]}
Any number of turns, and in each of them any number of pictures, none too. Paths are relative to --images.

Pictures are opened for their size but not decoded, so that a thousand samples and more are checked in a
second. Nothing is written."""

_EPILOG = """\
example:
  phitune data check data/receipts/train.jsonl --model models/phi-3.5-vision --max-length 4096

exit codes:
  0 nothing is wrong, 2 there are problems
  (samples that are too long are none: training leaves them out. But where all are,
  as counted with --model, nothing is left)
"""


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check` to the kinds of `phitune data`."""
    parser = kinds.add_parser(
        "check",
        help="say all that is wrong with a jsonl file, and how long its samples are",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="jsonl file to train on, or to score")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures (default: images beside FILE)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="base model, whose tokenizer counts the tokens; without it those of text are estimated",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        default=MAX_LENGTH,
        metavar="N",
        help="tokens that a sample may have: training.maxLength (default %(default)s)",
    )
    parser.add_argument(
        "--num-crops",
        type=int,
        choices=range(1, 17),
        default=NUM_CROPS,
        metavar="N",
        help="crops that a picture may have, 1 to 16: training.numCrops (default %(default)s)",
    )
    add_form_option(parser)


def main(args: argparse.Namespace) -> int:
    """Check; the exit code."""
    from phitune_trainer.data import DataError, Processor
    from phitune_trainer.data.check import Counter, EstimatingCounter, ExactCounter, check_jsonl
    from phitune_trainer.model_config import ModelFilesError

    images = args.images or args.file.parent / "images"
    try:
        counter: Counter = EstimatingCounter.published(args.num_crops)
        if args.model is not None:
            counter = ExactCounter(Processor.load(args.model, args.num_crops))
        started = time.monotonic()
        size = args.file.stat().st_size if args.file.is_file() else 0
        with ProgressLine(sys.stderr) as progress:

            def on_line(number: int, offset: int) -> None:
                progress.show(f"checking: line {number:,}, {100 * offset // max(1, size)}%")

            report = check_jsonl(args.file, images, counter, on_line)
    except (DataError, ModelFilesError) as error:
        note(f"phitune data check: {error}")
        return USER_ERROR
    seconds = time.monotonic() - started
    num_lines = report.num_samples + report.num_bad
    if args.form == "json":
        print(json.dumps(to_json(report, args.max_length, is_exact=counter.is_exact), indent=1))
    else:
        for line in describe(report, args.max_length, is_exact=counter.is_exact):
            say(line)
        say(f"{seconds:.1f} s, {num_lines / max(seconds, 1e-9):,.0f} lines a second")
    limit = args.max_length if counter.is_exact else None  # what is estimated is told, and refuses nothing
    nothing = None if report.num_problems else report.nothing_left(limit)
    if nothing is not None:
        note(f"phitune data check: {nothing}")
    return USER_ERROR if report.num_problems or nothing else DONE


def describe(report: "DataReport", max_length: int, *, is_exact: bool) -> Iterator[str]:
    """What was found, in lines for people."""
    about = "" if is_exact else "about "
    yield (
        f"{report.file}: {report.num_samples:,} good samples, {report.num_turns:,} turns, "
        f"{report.num_pictures:,} pictures, {about}{report.num_trained_tokens:,} trained tokens"
    )
    if report.num_text_only:
        yield f"{report.num_text_only:,} of them have no picture; they are trained as text"
    if report.lengths:
        yield (
            f"tokens of a sample: {about}{min(report.lengths):,} to {max(report.lengths):,}, "
            f"median {statistics.median_low(report.lengths):,}"
        )
        yield from histogram(report.lengths)
        too_long = report.num_longer_than(max_length)
        share = f" ({too_long / report.num_samples:.1%})" if too_long else ""
        yield (
            f"longer than {max_length:,} tokens (--max-length): {about if too_long else ''}"
            f"{too_long:,} samples{share}" + (", which training leaves out" if too_long else "")
        )
    if not is_exact:
        yield "tokens of text are estimated; --model FOLDER counts them"
    if report.num_problems:
        yield f"problems: {report.num_problems:,}, in {report.num_bad:,} lines"
        yield from (f"  {problem}" for problem in report.problems[:_MOST_SHOWN])
        if report.num_problems > _MOST_SHOWN:
            yield f"  and {report.num_problems - _MOST_SHOWN:,} more"
    elif report.nothing_left(max_length) is None:
        yield "no problems"
    elif not is_exact and report.num_samples:
        yield "by this estimate nothing is left to train on: see with --model, or raise training.maxLength"


def to_json(report: "DataReport", max_length: int, *, is_exact: bool) -> dict[str, Any]:
    """What was found, in numbers for programs; of the problems the first ones, and how many there are."""
    lengths = report.lengths
    return {
        "file": str(report.file),
        "samples": report.num_samples,
        "badLines": report.num_bad,
        "turns": report.num_turns,
        "pictures": report.num_pictures,
        "textOnly": report.num_text_only,
        "tokensCounted": is_exact,
        "trainedTokens": report.num_trained_tokens,
        "tokensOfSample": {
            "least": min(lengths, default=None),
            "median": statistics.median_low(lengths) if lengths else None,
            "most": max(lengths, default=None),
        },
        "maxLength": max_length,
        "tooLong": report.num_longer_than(max_length),
        "numProblems": report.num_problems,
        "problems": report.problems[:_MOST_SHOWN],
    }


def histogram(lengths: Sequence[int]) -> Iterator[str]:
    """Bars of how many samples are so long, in at most a dozen rows of equal, round widths."""
    width = _round_width(max(lengths) - min(lengths) + 1)
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length // width] = counts.get(length // width, 0) + 1
    most = max(counts.values())
    digits = len(f"{(max(counts) + 1) * width - 1:,}")
    for row in range(min(counts), max(counts) + 1):
        count = counts.get(row, 0)
        bar = "█" * -(-_BAR * count // most)
        yield f"  {row * width:{digits},} to {(row + 1) * width - 1:{digits},}  {bar:{_BAR}}  {count:,}"


def _round_width(span: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50, ... that needs no more rows than there may be for `span` values."""
    width = 1
    while span > width * (_ROWS - 1):
        width = width * 5 // 2 if str(width).startswith("2") else width * 2
    return width
