"""`phitune report`: a run on one page, from its folder, whatever state it is in."""

import argparse
import json
from pathlib import Path
from typing import Final

from phitune_cli.arguments import HelpFormatter, add_form_option
from phitune_cli.saying import note, say
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE, USER_ERROR
from phitune_trainer.run_layout import RunLayout

_EPILOG: Final = """\
examples:
  phitune report runs/local/digits/0001
      writes report.html into that folder
  phitune report runs/local/digits/0001 --output now.html
      of a run that still trains, say

The page is one file that needs no network: curves, scores, answers with their pictures, config. A run writes
it itself at its end; this command writes it anew, and for runs that have not ended or have failed.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `report` and its options."""
    parser = subparsers.add_parser(
        "report",
        help="write a run's report.html",
        description="Write the report of a run: one page with its curves, scores, answers and config.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="the run's folder, with its config.yaml")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it (default: report.html in RUN_DIR)"
    )
    add_form_option(parser)


def main(args: argparse.Namespace) -> int:
    """Write it and print its place; 2 where the folder is no run or the file cannot be written."""
    from phitune_trainer.report import write_report

    layout = RunLayout(args.folder.resolve())
    try:
        if args.output is not None and not args.output.parent.is_dir():
            raise UserError(f"--output {args.output}: there is no folder {args.output.parent}")
        out = str(write_report(layout, out=args.output))
        if args.form == "json":
            print(json.dumps({"path": out}))
        else:
            say(out)
    except UserError as error:
        note(f"phitune report: {error}")
        return USER_ERROR
    return DONE
