"""`phitune init-model`: a base model with random weights, to try everything without a download."""

import argparse
import time
from pathlib import Path
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.saying import note, say
from phitune_trainer.exit_codes import DONE, USER_ERROR

_EPILOG: Final = """\
examples:
  phitune init-model --size tiny --out models/tiny    to try things on a CPU
  phitune init-model --size full --out models/full    to measure memory

What is there already stays: --force makes it anew.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `init-model` to the command line."""
    parser = subparsers.add_parser(
        "init-model",
        help="make a base model with random weights",
        description="Make a model folder with random weights, its tokenizer and configuration included.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "full"),
        required=True,
        help="tiny: learns digits in seconds on a CPU, 3 MB; full: the published shapes, 8.3 GB",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--seed", type=_seed, default=0, help="of the random numbers (default 0)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def main(args: argparse.Namespace) -> int:
    """Make the folder unless it is there; the exit code."""
    from phitune_trainer.folders import is_filled
    from phitune_trainer.init_model import init_model
    from phitune_trainer.model.load import check_model
    from phitune_trainer.model_config import ModelFilesError

    started = time.monotonic()
    try:
        if is_filled(args.out):
            if not args.force:
                say(f"{args.out} is there, {check_model(args.out):,} parameters; --force makes it anew")
                return DONE
            if not (args.out / "config.json").is_file():
                raise ModelFilesError(
                    f"{args.out}: not a model folder, so it is not replaced; choose another one"
                )
        say(f"making {args.out}, size {args.size}, seed {args.seed}")
        init_model(args.size, args.out, args.seed, replace=args.force, on_written=_say_written)
        say(f"{args.out}: {check_model(args.out):,} parameters, {time.monotonic() - started:.0f} s")
    except ModelFilesError as error:
        note(f"phitune init-model: {error}")
        return USER_ERROR
    return DONE


def _say_written(path: Path) -> None:
    say(f"  {path.name}  {path.stat().st_size / 1e9:.2f} GB")


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**31:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2147483647, got {seed}")
    return seed
