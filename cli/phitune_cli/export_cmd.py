"""`phitune export`: whole weights or an adapter of what a run trained, with a model card, and onto a hub."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from phitune_cli.arguments import HelpFormatter, add_form_option
from phitune_cli.saying import note, say
from phitune_trainer.config import ConfigError
from phitune_trainer.errors import FAULT, Unavailable, UserError
from phitune_trainer.exit_codes import DONE, USER_ERROR

if TYPE_CHECKING:
    from phitune_trainer.load_trained import Located
    from phitune_trainer.model_card import Kind

_EPILOG: Final = """\
FOLDER is one of:
  runs/local/digits/0001                          a run: its newest checkpoint that is whole
  incarnations/0001/checkpoints/step-00000200     a checkpoint of a run
  export/adapter of a run, or another's adapter   PEFT's layout; name its base with --base unless the run does
  export/merged of a run                          only to push it

examples:
  phitune export runs/local/digits/0001 --to digits-model
  phitune export runs/local/digits/0001/incarnations/0001/checkpoints/step-00000200 --adapter --to adapter
  phitune export adapter --base models/phi-3.5-vision --to merged
  phitune export runs/local/digits/0001/export/merged --push-to me/digits --private

Nothing is replaced without --force, and the same command again changes nothing. Whole weights are a base
model for another job (model.path). The token to push with is that of HF_TOKEN, or of a login with
`hf auth login`; HF_ENDPOINT names another hub than huggingface.co.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` and its options."""
    parser = subparsers.add_parser(
        "export",
        help="merge adapters, write a model card, push to a hub",
        description="Write whole weights under the published names, or the adapter, of what was trained,\n"
        "with a model card beside them; on the CPU, without a cluster.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what to export")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--merged", action="store_const", const="merged", dest="kind", help="whole weights (default)"
    )
    kinds.add_argument(
        "--adapter", action="store_const", const="adapter", dest="kind", help="the adapter alone"
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--force", action="store_true", help="replace the folder if it holds another export")
    parser.add_argument("--base", type=Path, metavar="MODEL", help="base model of an adapter outside a run")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="repository of the hub to put it into")
    parser.add_argument("--private", action="store_true", help="let nobody else see the repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch of the repository (default: main)")
    add_form_option(parser)


def main(args: argparse.Namespace) -> int:
    """Export; 0: done, 2: what was given is wrong, 1: the hub failed, 130: stopped, and nothing half-made."""
    from phitune_trainer.logs import quieten_libraries

    quieten_libraries()  # before they are imported, which is when they speak
    from phitune_trainer.model_config import ModelFilesError

    try:
        export(args)
    except (UserError, ModelFilesError, ConfigError) as error:
        note(f"phitune export: {error}")
        return USER_ERROR
    except Unavailable as error:
        note(f"phitune export: {error}; what has been stored there stays, the same command goes on")
        return FAULT
    return DONE


def export(args: argparse.Namespace) -> None:
    """Write what is asked for, push it if asked to, and print where it is."""
    if args.push_to is None and (args.private or args.revision is not None):
        option = "--private" if args.private else f"--revision {args.revision}"
        raise UserError(f"{option}: goes with --push-to")
    publisher = None
    if args.push_to is not None:
        from phitune_trainer.hub_push import Publisher, Target

        target = Target(name=args.push_to, private=args.private, revision=args.revision)
        publisher = Publisher(note, target)  # first: long work is not to end at a token that is not there
    from phitune_trainer.export_trained import choose_kind, export_trained, find_trained

    located = find_trained(args.folder, args.base, note)
    kind = choose_kind(located, args.kind)
    if is_already(located, kind):
        out = _as_it_is(args, kind)
    elif args.to is None:
        raise UserError("--to: name the folder to write")
    else:
        out = args.to
        export_trained(located, kind, out, force=args.force, say=note)
    address = None
    if args.form == "text":
        say(str(out))
    if publisher is not None:
        with publisher:
            address = publisher.push(out, f"Put here by phitune export, {kind}")
        if args.form == "text":
            say(address)
    if args.form == "json":
        print(json.dumps({"kind": kind, "path": str(out), "pushedTo": address}))


def is_already(located: "Located", kind: "Kind") -> bool:
    """Whether a folder has the form that is asked for."""
    return {"model": "merged", "adapter": "adapter", "checkpoint": None}[located.kind] == kind


def _as_it_is(args: argparse.Namespace, kind: "Kind") -> Path:
    """The folder itself, which has the form that is asked for already; UserError unless it can be pushed."""
    from phitune_trainer.export_trained import is_export

    folder: Path = args.folder
    what = "whole weights" if kind == "merged" else "an adapter"
    if args.to is not None:
        raise UserError(f"{folder}: is {what} already; copy the folder, or push it with --push-to")
    if args.push_to is None:
        raise UserError(f"{folder}: is {what} already; push it with --push-to, or name what to export")
    if not is_export(folder):
        raise UserError(
            f"{folder}: was not exported by Phitune and has no model card of it; it is not pushed"
        )
    return folder
