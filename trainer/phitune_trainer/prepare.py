"""What happens before the ranks start: the volume can be written, the base model and the data are on it.

Runs in a pod of its own (`python3 -m phitune_trainer.prepare`), and before `phitune run`. What is there is
checked and left alone; what this project can make is made. It may be stopped at any moment and run again,
also by several jobs at once on one volume: a folder appears whole or not at all.
"""

import os
import signal
import sys
import traceback
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phitune_trainer.config import TrainConfig, load_config
from phitune_trainer.data import DataError, Processor, generate_digits
from phitune_trainer.data.check import DataReport, ExactCounter, check_jsonl
from phitune_trainer.data.costs import costs_file, read_costs, write_costs
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import describe_data, jsonl_files, open_task
from phitune_trainer.data.tasks.samples import PageSamples
from phitune_trainer.endings import ending_of
from phitune_trainer.errors import UserError, volume_problem
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.folders import is_filled
from phitune_trainer.hub_files import check_hub, fetch_data, fetch_model
from phitune_trainer.init_model import init_model
from phitune_trainer.model.load import check_model
from phitune_trainer.plain_text import inert
from phitune_trainer.termination import attempt, write_termination
from phitune_trainer.trained_crops import trained_crops
from phitune_trainer.transfer import Say, every_few_seconds


def main() -> int:
    """Prepare for the config in $PHITUNE_CONFIG; the exit code (exit_codes.py)."""
    # As Ctrl-C: not an Exception, so nothing that handles those takes it for a broken picture, say.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    volume = None
    try:
        config = load_config(Path(os.environ.get("PHITUNE_CONFIG", "/etc/phitune/train.yaml")))
        volume = Path(config.run.workspace)
        prepare(config, _say)
    except Exception as error:  # noqa: BLE001 - whatever it is becomes an exit code
        code, reason, message = ending_of(error, volume)
        if reason == "Fault":
            traceback.print_exc()
        else:
            _say(message)
        write_termination(_ending(code, reason, message))
        return code
    except KeyboardInterrupt:
        message = "stopped while preparing; nothing is lost"
        _say(message)
        write_termination(_ending(INTERRUPTED, "Interrupted", message))
        return INTERRUPTED
    _say("done")
    write_termination(_ending(DONE, "Completed", "the base model and the data are on the volume"))
    return DONE


def prepare(config: TrainConfig, say: Say) -> None:
    """Make sure that training can start; `say` gets a line for each thing that is found or made.

    Raises UserError, ModelFilesError or DataError for what the user has to mend, HubUnavailable for what a
    later try may.
    """
    _check_volume(Path(config.run.workspace))
    check_hub(config, _about("hub", say))
    _prepare_model(config, say)
    _prepare_data(config, say)


def _check_volume(workspace: Path) -> None:
    probe = workspace / f".phitune-probe-{uuid.uuid4().hex}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = volume_problem(error, workspace)
        raise problem or UserError(f"cannot write {workspace}: {error.strerror}") from error


def _prepare_model(config: TrainConfig, say: Say) -> None:
    folder = config.model_dir
    fetch_model(config, _about("model", say))
    if config.model.init is not None and not is_filled(folder):
        say(f"model: making a base model of size {config.model.init} with random weights")
        init_model(config.model.init, folder, config.training.seed)
    num_parameters = check_model(folder)
    say(f"model: {folder} is complete, {num_parameters:,} parameters")
    before, now = trained_crops(folder), config.training.num_crops
    if before not in (None, now):
        say(f"model: it was trained with numCrops {before}, and training.numCrops of this job is {now}")


def _prepare_data(config: TrainConfig, say: Say) -> None:
    folder = config.data_dir
    if config.data.generate == "digits" and not is_filled(folder):
        say("data: making the pictures of handwritten digits")
        generate_digits(folder)
    fetch_data(config, _about("data", say))
    processor = Processor.load(config.model_dir, config.training.num_crops)
    reports = _check_jsonl_files(config, processor, say)
    samples, questions = open_task(config, processor)
    num_held_out = 0 if questions is None else len(questions)
    say(f"data: {describe_data(config, samples, num_held_out)}")
    _keep_costs(config, samples, reports, say)


def _keep_costs(
    config: TrainConfig, samples: TrainingSamples, reports: Sequence[DataReport], say: Say
) -> None:
    """Measure what each sample costs to train, unless that is done: the ranks share the work out by it."""
    file = costs_file(config)
    if read_costs(file, samples) is not None:
        return
    if isinstance(samples, PageSamples):
        say("data: looking at the size of every picture")
        costs = list(samples.costs())
    else:
        costs = list(reports[0].costs_up_to(config.training.max_length))
    write_costs(file, samples, costs)
    say(f"data: the costliest sample takes {max(costs) * len(costs) / sum(costs):.1f} times the mean")


def _check_jsonl_files(config: TrainConfig, processor: Processor, say: Say) -> list[DataReport]:
    """Go through the files line by line, that of the training samples first.

    DataError says all that is wrong with any of them.
    """
    told, problems, reports = every_few_seconds(say), list[str](), list[DataReport]()
    for file in jsonl_files(config):

        def on_line(number: int, _: int, file: Path = file) -> None:
            told(f"data: {file}: {number:,} lines looked at")

        try:
            image_root = config.data_dir / config.data.image_root
            report = check_jsonl(file, image_root, ExactCounter(processor), on_line)
            report.refuse_if_bad(config.training.max_length)
        except DataError as error:
            problems.append(str(error))
        else:
            reports.append(report)
            say(f"data: {file} names {report.num_pictures:,} pictures, and all are there")
    if problems:
        raise DataError("\n".join(problems))
    return reports


def _about(what: str, say: Say) -> Say:
    """Put in front of each line what it is about."""
    return lambda line: say(f"{what}: {line}")


def _say(line: str) -> None:
    print(inert(f"prepare: {line}"), flush=True)


def _ending(code: int, reason: str, message: str) -> dict[str, Any]:
    failure = None if code == DONE else {"rank": 0, "exitCode": code, "lastLines": [message]}
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "attempt": attempt(),
        "incarnation": None,
        "ranks": [],
        "progress": None,
        "lastCheckpoint": None,
        "evaluation": None,
        "artifacts": None,
        "failure": failure,
    }


if __name__ == "__main__":
    sys.exit(main())
