"""Which splits of a task a config trains on and scores, and what has to be fetched for that."""

from collections.abc import Iterator

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.parquet import find_files
from phitune_trainer.data.tasks.spec import HubSource, Split
from phitune_trainer.data.tasks.table import TASKS

JSONL_TRAIN = "train.jsonl"
"""File of the training samples of task jsonl, unless the config names another."""


def training_split(config: TrainConfig) -> Split:
    """The split to train on.

    The one that data.train names; else the one that data.name is the repository of; else the first one whose
    files lie in the data folder; else the task's default. Raises DataError.
    """
    if config.task == "jsonl":
        return _own_files(config.data.train or JSONL_TRAIN)
    splits = TASKS[config.task].train
    if config.data.train is not None:
        return _named(config, "train", config.data.train, splits)
    of_repository = [split for split in splits if split.source and split.source.repo == config.data.name]
    is_put_there = config.data.path is not None
    present = [split for split in splits if is_put_there and find_files(config.data_dir, split.files)]
    return [*of_repository, *present, *splits][0]


def held_out_split(config: TrainConfig) -> Split | None:
    """The split to score: the one that data.eval names, else the task's default; None where there is none.

    Raises DataError.
    """
    asked = config.data.eval
    if config.task == "jsonl":
        return None if asked is None else _own_files(asked)
    splits = TASKS[config.task].held_out
    return splits[0] if asked is None else _named(config, "eval", asked, splits)


def hub_sources(config: TrainConfig) -> tuple[HubSource, ...]:
    """The files of hub repositories that a config needs, one entry a repository; none for task jsonl.

    The patterns of all repositories can lie in one folder. A repository named in data.name that is not one of
    the recipe's is a copy of the training data's, and is asked for everything. Raises DataError.
    """
    wanted = [training_split(config), held_out_split(config) if config.evaluation.enabled else None]
    sources = [split.source for split in wanted if split is not None and split.source is not None]
    published = {split.source.repo for split in _all_splits(config) if split.source is not None}
    if config.data.name is not None and config.data.name not in published:
        sources = [HubSource(repo=config.data.name, patterns=source.patterns) for source in sources]
    merged: dict[str, dict[str, None]] = {}
    for source in sources:
        merged.setdefault(source.repo, {}).update(dict.fromkeys(source.patterns))
    return tuple(HubSource(repo=repo, patterns=tuple(patterns)) for repo, patterns in merged.items())


def _all_splits(config: TrainConfig) -> Iterator[Split]:
    yield from TASKS[config.task].train
    yield from TASKS[config.task].held_out


def _own_files(file: str) -> Split:
    return Split(name=file, about=file, layout="jsonl", files=file)


def _named(config: TrainConfig, field: str, name: str, splits: tuple[Split, ...]) -> Split:
    for split in splits:
        if name in (split.name, split.files):
            return split
    known = " and ".join(split.name for split in splits)
    raise DataError(f"data.{field}: task {config.task} has no split {name!r}; it has {known}")
