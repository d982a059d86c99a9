"""The data of a config, whatever its task: what build.py trains on, prepare.py checks and evaluation asks."""

from pathlib import Path

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.dataset import Questions, TrainingSamples
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.jsonl import JsonlDataset
from phitune_trainer.data.parquet import find_files
from phitune_trainer.data.processor import Processor
from phitune_trainer.data.tasks import TASKS, Split, held_out_split, training_split
from phitune_trainer.data.tasks.pages import Pages
from phitune_trainer.data.tasks.samples import PageQuestions, PageSamples


def open_task(config: TrainConfig, processor: Processor) -> tuple[TrainingSamples, Questions | None]:
    """The samples to train on, and those to score if the config asks for scores. Raises DataError."""
    split = training_split(config)
    if split.layout == "jsonl":
        samples: TrainingSamples = _jsonl(config, split, processor)
    else:
        samples = PageSamples(_pages(config, split, processor), processor)
    return samples, open_questions(config, processor) if config.evaluation.enabled else None


def open_questions(config: TrainConfig, processor: Processor) -> Questions | None:
    """The samples to score; None where the config names none. Needs no training file. Raises DataError."""
    split = held_out_split(config)
    if split is None:
        return None
    if split.layout == "jsonl":
        return _jsonl(config, split, processor)
    return PageQuestions(_pages(config, split, processor), processor)


def describe_data(config: TrainConfig, samples: TrainingSamples, num_held_out: int) -> str:
    """What is trained on and what is scored, in words, for people; `num_held_out` is 0 without scores."""
    trains_on = training_split(config)
    too_long = f"longer than {config.training.max_length} tokens left out"
    said = f"{len(samples):,} samples to train on"
    if isinstance(samples, PageSamples):
        pages = samples.pages
        said = f"{len(pages):,} pages with {sum(pages.question_counts):,} questions to train on"
        if pages.num_questions_skipped:
            said += f" ({pages.num_questions_skipped:,} questions and {pages.num_skipped:,} pages {too_long})"
    elif samples.num_skipped:
        said += f" ({samples.num_skipped:,} {too_long})"
    if config.task != "jsonl":
        said += f": {trains_on.about}"
    scored_on = held_out_split(config)
    if not num_held_out or scored_on is None:
        return f"{said}; none held out to score"
    said += f"; {num_held_out:,} held out to score"
    return said if config.task == "jsonl" else f"{said}: {scored_on.about}"


def jsonl_files(config: TrainConfig) -> list[Path]:
    """The jsonl files that `open_task` opens, whose pictures are files beside them. Raises DataError."""
    splits = [training_split(config), held_out_split(config) if config.evaluation.enabled else None]
    return [_jsonl_file(config, split) for split in splits if split and split.layout == "jsonl"]


def _jsonl(config: TrainConfig, split: Split, processor: Processor) -> JsonlDataset:
    image_root = config.data_dir / config.data.image_root
    return JsonlDataset(_jsonl_file(config, split), image_root, processor, config.training.max_length)


def _jsonl_file(config: TrainConfig, split: Split) -> Path:
    file = config.data_dir / split.files
    if config.task == "ucf101" and not file.is_file():
        raise DataError(
            f"{file}: not found; `phitune data ucf101 --videos DIR --out DIR` makes it of {split.about}"
        )
    return file


def _pages(config: TrainConfig, split: Split, processor: Processor) -> Pages:
    files = find_files(config.data_dir, split.files)
    if not files:
        raise DataError(f"{config.data_dir / split.files}: no such files; {_remedy(config, split)}")
    return Pages(files, TASKS[config.task], split, processor, config.training.max_length)


def _remedy(config: TrainConfig, split: Split) -> str:
    repo = f"{split.source.repo} on the hub" if split.source else "the hub"
    remedy = f"they hold {split.about}; copy them there from {repo}"
    if split in TASKS[config.task].held_out:
        remedy += ", or set evaluation.enabled: false"
    return remedy
