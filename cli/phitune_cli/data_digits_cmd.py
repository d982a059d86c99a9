"""`phitune data digits`: a data set of real pictures, made without a download."""

import argparse
import time
from pathlib import Path
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.saying import note, say
from phitune_trainer.exit_codes import DONE, USER_ERROR

_EPILOG: Final = """\
example:
  phitune data digits --out data/digits
"""


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `digits` to the kinds of `phitune data`."""
    parser = kinds.add_parser(
        "digits",
        help="make 1,797 handwritten digits of scikit-learn",
        description="Write train.jsonl, eval.jsonl (300 held-out pictures) and images/ into a folder.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def main(args: argparse.Namespace) -> int:
    """Make the folder unless it is there; the exit code."""
    from phitune_trainer.data import DataError, generate_digits
    from phitune_trainer.data.check import EstimatingCounter, check_jsonl
    from phitune_trainer.folders import is_filled

    started = time.monotonic()
    try:
        was_there = is_filled(args.out)
        if was_there and args.force and not (args.out / "train.jsonl").is_file():
            raise DataError(f"{args.out}: not a data folder, so it is not replaced; choose another one")
        if not was_there or args.force:
            say(f"making {args.out}")
            generate_digits(args.out, replace=args.force)
        for part in ("train", "eval"):
            file = args.out / f"{part}.jsonl"
            report = check_jsonl(file, args.out / "images", EstimatingCounter.published(num_crops=1))
            report.refuse_if_bad()
            say(f"{file}: {report.num_pictures:,} pictures")
        is_kept = was_there and not args.force
        say(
            "it was there already; --force makes it anew"
            if is_kept
            else f"{time.monotonic() - started:.0f} s"
        )
    except DataError as error:
        note(f"phitune data digits: {error}")
        return USER_ERROR
    return DONE
