"""What a job takes from the hub: its base model, and the data of its task.

Called by prepare. Tokens come from the environment, where only prepare has them: HF_TOKEN for the model and,
unless PHITUNE_DATA_TOKEN holds another, for the data.
"""

import os
import shutil
from collections.abc import Callable
from typing import Final

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.tasks import hub_sources, training_split
from phitune_trainer.data.ucf101 import convert_archive
from phitune_trainer.errors import UserError
from phitune_trainer.folders import is_filled
from phitune_trainer.hub import Hub, Repository, Wanted, check, fetch
from phitune_trainer.lease import sole
from phitune_trainer.model.files import COMPANIONS, INDEX
from phitune_trainer.processes import available_cpus
from phitune_trainer.transfer import Say, every_few_seconds

ENV_DATA_TOKEN: Final = "PHITUNE_DATA_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_REVISION: Final = "main"
MODEL_FILES: Final = ("*.safetensors", INDEX, *COMPANIONS)
"""Files of a model: weights that hold nothing but tensors, configuration, tokenizer; no pickles.

The published code is among them by its three names, as data: an export needs it beside its weights to load
elsewhere, and nothing here ever runs it.
"""


def check_hub(config: TrainConfig, say: Say) -> None:
    """Ask the hub for all that is not on the volume, before gigabytes of the first part are fetched in vain.

    UserError says all that is wrong, with model and data.
    """
    problems = []
    for wanted in [*_model(config), *_data(config)]:
        try:
            check(wanted, _connect(wanted, say), say)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def fetch_model(config: TrainConfig, say: Say) -> None:
    """Put the base model that `model.name` names on the volume, unless it is there."""
    for wanted in _model(config):
        fetch(wanted, _connect(wanted, say), say)


def fetch_data(config: TrainConfig, say: Say) -> None:
    """Put the data that the task needs on the volume, unless it is there."""
    if config.task != "ucf101":
        for wanted in _data(config):
            fetch(wanted, _connect(wanted, say), say)
        return
    folder = config.data_dir
    lease = folder.with_name(f".{folder.name}.frames.lease")
    waits = every_few_seconds(say)
    with sole(
        lease, lambda: is_filled(folder), lambda host: waits(f"waiting while {host} takes frames of videos")
    ) as alone:
        if alone is not None:
            _fetch_videos(config, say)


def _model(config: TrainConfig) -> list[Wanted]:
    if config.model.name is None:
        return []
    repository = Repository(
        kind="model",
        name=config.model.name,
        revision=config.model.revision or DEFAULT_REVISION,
        secret_field="model.tokenSecret",  # noqa: S106 - the name of a field
        revision_field="model.revision",
    )
    return [Wanted(repository=repository, patterns=MODEL_FILES, into=config.model_dir)]


def _data(config: TrainConfig) -> list[Wanted]:
    """Files of the hub that the data is made of; the archive of videos does not stay."""
    into = config.data_dir
    if config.task == "jsonl" or config.data.path is not None:
        return []
    if config.task == "ucf101":
        if is_filled(into):
            return []
        into = into.with_name(f".{into.name}.archive")
    trained_on = training_split(config).source
    named = config.data.name or (trained_on.repo if trained_on else None)
    return [
        Wanted(
            repository=Repository(
                kind="dataset",
                name=source.repo,
                revision=(config.data.revision if source.repo == named else None) or DEFAULT_REVISION,
                secret_field="data.tokenSecret",  # noqa: S106 - the name of a field
                revision_field="data.revision",
            ),
            patterns=source.patterns,
            into=into,
        )
        for source in hub_sources(config)
    ]


def _connect(wanted: Wanted, say: Say) -> Callable[[], Hub]:
    is_data = wanted.repository.kind == "dataset"
    return lambda: Hub(say, token=os.environ.get(ENV_DATA_TOKEN) if is_data else None)


def _fetch_videos(config: TrainConfig, say: Say) -> None:
    """The frames of the archive's videos; the archive goes when they are there."""
    (wanted,) = _data(config)
    fetch(wanted, _connect(wanted, say), say)
    (archive,) = (path for pattern in wanted.patterns for path in wanted.into.glob(pattern))
    told = every_few_seconds(say)
    conversion = convert_archive(
        archive,
        config.data_dir,
        workers=available_cpus(),
        on_progress=lambda done, total: told(f"frames of {done} of {total} videos are taken"),
    )
    if conversion.unreadable:
        say(f"{len(conversion.unreadable):,} videos of the archive cannot be read, and are left out:")
    for line in [*conversion.unreadable, *conversion.short]:
        say(line)
    shutil.rmtree(wanted.into, ignore_errors=True)
