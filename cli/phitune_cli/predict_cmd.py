"""`phitune predict`: one question about some pictures, answered by a base or a trained model."""

import argparse
import json
from pathlib import Path
from typing import Final

from phitune_cli.answering import add_device_options, choose_device
from phitune_cli.arguments import HelpFormatter, add_form_option
from phitune_cli.saying import note, say
from phitune_operator.recipe import STILL_CROPS
from phitune_trainer.config import ConfigError
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE, USER_ERROR

_EPILOG: Final = """\
examples:
  phitune predict --model models/phi-3.5-vision --image page.png --prompt "What is the total?"
  phitune predict --model runs/local/receipts/0001/export/merged --image page.png --prompt "The total?"
  phitune predict --model models/base --adapter adapter --image a.png --image b.png --prompt "The same?"

Ask as the training data asked: the model answers best what it has seen. DocVQA's questions, say, end in a
line "Answer briefly."
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `predict` and its options."""
    parser = subparsers.add_parser(
        "predict",
        help="answer one question about pictures",
        description="Answer one question about pictures, on this machine. The answer alone goes to standard\n"
        "output; it is the most likely one, and the same every time.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a base model, export/merged or export/adapter of a run, or one of its checkpoints",
    )
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument(
        "--adapter", type=Path, metavar="FOLDER", help="an adapter in PEFT's layout, to put on --model"
    )
    beside.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="base model of --model, where that is an adapter outside a run, or a checkpoint",
    )
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a picture; several in order, none for text alone",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question")
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)"
    )
    parser.add_argument(
        "--num-crops",
        type=int,
        choices=range(1, 17),
        metavar="N",
        help="most crops of a picture, 1 to 16 (default: as in its training, where that is known, else 16)",
    )
    add_device_options(parser)
    add_form_option(parser)


def main(args: argparse.Namespace) -> int:
    """Answer; 0, or 2 where what was given is wrong."""
    from phitune_trainer.logs import quieten_libraries

    quieten_libraries()  # before they are imported, which is when they speak
    from phitune_trainer.ask import answer, encode_question
    from phitune_trainer.data import DataError, Processor
    from phitune_trainer.load_trained import kind_of, locate
    from phitune_trainer.model_config import ModelFilesError

    try:
        if not args.prompt.strip() and not args.image:
            raise UserError("--prompt: is empty, and there is no --image; say what is asked")
        if args.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens: must be at least 1, got {args.max_new_tokens}")
        for path in args.image:
            if not path.is_file():
                raise UserError(f"--image {path}: {'is not a file' if path.exists() else 'no such file'}")
        folder, base = args.model, args.base
        if args.adapter is not None:
            if (kind := kind_of(args.adapter)) != "adapter":
                raise UserError(f"--adapter {args.adapter}: is a {kind}; name it with --model alone")
            folder, base = args.adapter, args.model
        located = locate(folder, base)
        num_crops = args.num_crops or located.asked_crops or STILL_CROPS
        processor = Processor.load(located.model_dir, num_crops)
        question = encode_question(processor, args.prompt, args.image)
        model = choose_device(args.precision).load(located)
        text = answer(model, processor, question, max_new_tokens=args.max_new_tokens)
        if args.form == "json":
            print(json.dumps({"answer": text}))
        else:
            say(text)
    except (UserError, DataError, ModelFilesError, ConfigError) as error:
        note(f"phitune predict: {error}")
        return USER_ERROR
    return DONE
