"""`kubectl finetune`: finds the subcommand, hands over to it, and ends with the code of what went wrong.

Only the subcommand that was asked for is imported, and the client of Kubernetes only when it connects.
"""

import signal
import sys
from typing import Final

from phitune_cli.commands import Command, Front, run
from phitune_cli.finetune.options import TARGET_OPTIONS
from phitune_cli.finetune.problems import NO_PERMISSION, UNAVAILABLE, Problem
from phitune_cli.saying import note
from phitune_trainer.exit_codes import INTERRUPTED, USER_ERROR

PROG: Final = "kubectl finetune"
_HERE: Final = "phitune_cli.finetune"

COMMANDS: Final = {
    "submit": Command(f"{_HERE}.submit_cmd", "make a FineTuneJob from options"),
    "upload": Command(f"{_HERE}.upload_cmd", "copy pictures and jsonl onto a claim"),
    "status": Command(f"{_HERE}.status_cmd", "how far is it? one screen, refreshed"),
    "logs": Command(f"{_HERE}.logs_cmd", "what all ranks say, over all attempts"),
    "top": Command(f"{_HERE}.top_cmd", "speed and memory of the jobs that run"),
    "suspend": Command(f"{_HERE}.suspend_cmd", "save and stop a job, keep its place"),
    "resume": Command(f"{_HERE}.resume_cmd", "let a suspended job go on"),
    "report": Command(f"{_HERE}.report_cmd", "copy a job's report.html here and open it"),
    "download": Command(f"{_HERE}.download_cmd", "copy a job's export here"),
    "completion": Command(f"{_HERE}.completion_cmd", "what kubectl asks for completion"),
}

_EPILOG: Final = f"""\
examples:
  kubectl finetune upload receipts/ --claim receipts --create 200Gi
      a folder with train.jsonl and images/, onto a volume
  kubectl finetune submit receipts --task jsonl --data receipts \\
      --claim receipts --method lora --epochs 3 --learning-rate 2e-4
  kubectl finetune status receipts                how far it is
  kubectl finetune logs receipts -f               what it says
  kubectl finetune top                            how fast, in how much memory
  kubectl finetune suspend receipts               save, give back the GPUs
  kubectl finetune resume receipts                go on from there
  kubectl finetune report receipts                curves, scores and answers
  kubectl finetune download receipts --to model   the weights
  kubectl finetune completion                     see its --help
  kubectl finetune upload --help                  more on one command

exit codes:
  0 done, {USER_ERROR} wrong input (the message says what and where),
  {UNAVAILABLE} the cluster does not answer or does not come to it,
  {INTERRUPTED} interrupted (the same command goes on), {NO_PERMISSION} not allowed,
  130 Ctrl-C with nothing to go on with, anything else a fault
"""


FRONT: Final = Front(
    PROG,
    "Work with FineTuneJobs and what lies on their volumes.",
    _EPILOG,
    COMMANDS,
    optional=("kubernetes", "urllib3", "websocket"),
    extra="operator",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; the result is the exit code of the process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # what was begun is tidied up
    try:
        return run(FRONT, command_first(sys.argv[1:] if arguments is None else arguments))
    except Problem as problem:
        note(f"{PROG}: {problem}")
        return problem.exit_code


def command_first(arguments: list[str]) -> list[str]:
    """`-n team-a status a` as `status -n team-a a`: kubectl takes these options before a command too."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        option, equals, _ = arguments[place].partition("=")
        if option in TARGET_OPTIONS:
            place += 1 if equals else 2
        elif option.startswith("-n"):  # and the namespace in the same word
            place += 1
        else:
            return arguments[place:]  # all that goes without a command: --help, --version
    command, others = arguments[place : place + 1], arguments[place + 1 :]
    return [*command, *arguments[:place], *others] if command else []


if __name__ == "__main__":
    sys.exit(main())
