"""The command `phitune`: finds the subcommand and hands over to it.

Only the subcommand that was asked for is imported, so that help and those which do not train start at once.
"""

import sys
from typing import Final

from phitune_cli.commands import Command, Front, run
from phitune_trainer.exit_codes import INTERRUPTED, USER_ERROR

COMMANDS: Final = {
    "run": Command("phitune_cli.run_cmd", "fine-tune here, without a cluster"),
    "render": Command("phitune_cli.render_cmd", "check a FineTuneJob, show what the operator would create"),
    "estimate": Command("phitune_cli.estimate_cmd", "how much GPU memory will it take, and what fits?"),
    "evaluate": Command("phitune_cli.evaluate_cmd", "score a model on held-out samples, compare two"),
    "predict": Command("phitune_cli.predict_cmd", "answer one question about pictures"),
    "report": Command("phitune_cli.report_cmd", "write a run's report.html: curves, scores, answers"),
    "export": Command("phitune_cli.export_cmd", "merge adapters, write a model card, push to a hub"),
    "init-model": Command("phitune_cli.init_model_cmd", "make a base model with random weights"),
    "data": Command("phitune_cli.data_cmd", "check a data set, or make one"),
    "completion": Command("phitune_cli.completion_cmd", "completion for bash, zsh or fish"),
}

_TRAINER_PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "safetensors",
    "numpy",
    "PIL",
    "sklearn",
    "huggingface_hub",
    "pyarrow",
    "av",
    "rapidfuzz",
    "jinja2",
    "tensorboardX",
)
"""What commands that train import, and an installation without the extra `trainer` lacks."""

_EPILOG: Final = f"""\
examples:
  phitune run examples/digits.yaml             fine-tune on this machine
  phitune render examples/digits.yaml          what would the operator create?
  phitune estimate job.yaml --gpu A100-80GB    does it fit, and how?
  phitune evaluate runs/local/digits/0001/export/merged
      score what a run left, on what it held out
  phitune predict --model model/ --image a.png --prompt "What is the total?"
      answer one question
  phitune report runs/local/digits/0001
      its curves, scores and answers on one page
  phitune export runs/local/digits/0001 --to digits-model
      whole weights of a run's newest checkpoint
  phitune init-model --size tiny --out model/  a base model without a download
  phitune data digits --out data/              pictures of digits to train on
  phitune data check data/train.jsonl          is anything wrong with it?
  phitune completion bash                      see `phitune completion --help`
  phitune render --help                        more on one command

exit codes:
  0 done, {USER_ERROR} wrong input (the message says what and where),
  {INTERRUPTED} interrupted (the same command goes on),
  130 Ctrl-C with nothing to go on with, anything else a fault
"""

FRONT: Final = Front(
    "phitune",
    "Fine-tune Phi-3.5-vision, on this machine or on Kubernetes.",
    _EPILOG,
    COMMANDS,
    optional=_TRAINER_PACKAGES,
    extra="trainer",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; the result is the exit code of the process."""
    return run(FRONT, arguments)


if __name__ == "__main__":
    sys.exit(main())
