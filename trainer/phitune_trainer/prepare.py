"""What happens before the ranks start: the volume can be written, the base model and the data are on it.

Runs in a pod of its own (`python3 -m phitune_trainer.prepare`), and before `phitune run`. What is there is
checked and left alone; what this project can make is made. It may be stopped at any moment and run again,
also by several jobs at once on one volume: a folder appears whole or not at all.
"""

import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phitune_trainer.config import TrainConfig, load_config
from phitune_trainer.data import JsonlDataset, Processor, generate_digits
from phitune_trainer.data.jsonl import check_pictures
from phitune_trainer.endings import ending_of
from phitune_trainer.errors import FAULT, UserError, volume_problem
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.folders import is_filled
from phitune_trainer.init_model import init_model
from phitune_trainer.model.load import check_model
from phitune_trainer.termination import attempt, write_termination

Say = Callable[[str], None]


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
        if code == FAULT:
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

    Raises UserError, ModelFilesError or DataError for what the user has to mend.
    """
    _check_volume(Path(config.run.workspace))
    _prepare_model(config, say)
    _prepare_data(config, say)


def _check_volume(workspace: Path) -> None:
    probe = workspace / f".phitune-probe-{uuid.uuid4().hex}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            volume_problem(error, workspace) or f"cannot write {workspace}: {error.strerror}"
        ) from error


def _prepare_model(config: TrainConfig, say: Say) -> None:
    folder = config.model_dir
    if config.model.name is not None:
        raise UserError(
            f"model.name: {config.model.name} is not on the volume; copy it there and set model.path"
        )
    if config.model.init is not None and not is_filled(folder):
        say(f"model: making a base model of size {config.model.init} with random weights")
        init_model(config.model.init, folder, config.training.seed)
    num_parameters = check_model(folder)
    say(f"model: {folder} is complete, {num_parameters:,} parameters")


def _prepare_data(config: TrainConfig, say: Say) -> None:
    folder = config.data_dir
    if config.data.generate == "digits" and not is_filled(folder):
        say("data: making the pictures of handwritten digits")
        generate_digits(folder)
    processor = Processor.load(config.model_dir, config.training.num_crops)
    image_root = folder / config.data.image_root
    wanted = [config.data.train, config.data.eval if config.evaluation.enabled else None]
    for name in [name for name in wanted if name is not None]:
        file = folder / name
        samples = JsonlDataset(file, image_root, processor, config.training.max_length)
        num_pictures = check_pictures(file, image_root, _every_few_seconds(say))
        skipped = f", {samples.num_skipped} longer than maxLength left out" if samples.num_skipped else ""
        say(f"data: {file} has {len(samples):,} samples{skipped}, {num_pictures:,} pictures")


def _every_few_seconds(say: Say, seconds: float = 5.0) -> Say:
    """Pass on only the last line of every few seconds."""
    last = time.monotonic()

    def throttled(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(line)

    return throttled


def _say(line: str) -> None:
    print(f"prepare: {line}", flush=True)


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
