"""The recipe's tasks: where their data lies, which part of it is held out, how it is asked and scored.

Hub names, file patterns and prompts stand here alone.
"""

from collections.abc import Mapping
from typing import Final

from phitune_trainer.config import Task
from phitune_trainer.data.tasks.spec import HubSource, Split, TaskSpec

THE_CAULDRON: Final = "HuggingFaceM4/the_cauldron"
DOCVQA_1200: Final = "nielsr/docvqa_1200_examples"
UCF101_SUBSET: Final = "sayakpaul/ucf101-subset"

NUM_HELD_OUT: Final = 500
"""Rows at the start of the_cauldron's nlvr2 and hateful_memes that the recipe keeps for evaluation."""

ANSWER_BRIEFLY: Final = "{question}\nAnswer briefly."
VIDEO_CLASSES: Final = "Classify the video into one of the following classes: {question}."
"""The question is the names of all classes in order, with ", " between them."""

_DOCVQA: Final = HubSource(repo=THE_CAULDRON, patterns=("docvqa/*.parquet",))
_NLVR2: Final = HubSource(repo=THE_CAULDRON, patterns=("nlvr2/*.parquet",))
_HATEFUL_MEMES: Final = HubSource(repo=THE_CAULDRON, patterns=("hateful_memes/*.parquet",))
_UCF101: Final = HubSource(repo=UCF101_SUBSET, patterns=("UCF101_subset.tar.gz",))


def _docvqa_1200(part: str, name: str, about: str) -> Split:
    files = f"data/{part}-*.parquet"
    return Split(
        name=name,
        about=f"{about} ({DOCVQA_1200})",
        layout="docvqa1200",
        files=files,
        source=HubSource(repo=DOCVQA_1200, patterns=(files,)),
        prompt=ANSWER_BRIEFLY,
    )


def _after_the_held_out(source: HubSource, about: str) -> Split:
    return Split(
        name="train",
        about=f"{about} without the first {NUM_HELD_OUT} ({THE_CAULDRON})",
        layout="cauldron",
        files=source.patterns[0],
        source=source,
        first=NUM_HELD_OUT,
    )


def _held_out_at_the_start(source: HubSource, about: str) -> Split:
    return Split(
        name="heldOut",
        about=f"the first {NUM_HELD_OUT} of {about} ({THE_CAULDRON})",
        layout="cauldron",
        files=source.patterns[0],
        source=source,
        end=NUM_HELD_OUT,
        first_question_only=True,
    )


def _ucf101(part: str, about: str) -> Split:
    return Split(
        name=part,
        about=f"eight frames of {about} of UCF-101",
        layout="jsonl",
        files=f"ucf101_{part}.jsonl",
        source=_UCF101,
    )


DOCVQA_FULL: Final = Split(
    name="full",
    about=f"the full training split of DocVQA, the one behind the recipe's scores ({THE_CAULDRON})",
    layout="cauldron",
    files=_DOCVQA.patterns[0],
    source=_DOCVQA,
    prompt=ANSWER_BRIEFLY,
)
DOCVQA_MINI: Final = _docvqa_1200("train", "mini", "the mini training split of the recipe's quick start")

TASKS: Final[Mapping[Task, TaskSpec]] = {
    "docvqa": TaskSpec(
        name="docvqa",
        metric="anls",
        details=("anlsStandard",),
        num_pictures=1,
        train=(DOCVQA_FULL, DOCVQA_MINI),
        held_out=(_docvqa_1200("test", "test", "the mini test split of DocVQA"),),
    ),
    "nlvr2": TaskSpec(
        name="nlvr2",
        metric="accuracy",
        details=("consistency",),
        choices=("Yes.", "No."),
        num_pictures=2,
        train=(_after_the_held_out(_NLVR2, "the NLVR2 pairs"),),
        held_out=(_held_out_at_the_start(_NLVR2, "the NLVR2 pairs"),),
    ),
    "hatefulMemes": TaskSpec(
        name="hatefulMemes",
        metric="accuracy",
        details=("auroc",),
        choices=("Yes.", "No."),
        num_pictures=1,
        train=(_after_the_held_out(_HATEFUL_MEMES, "the Hateful Memes"),),
        held_out=(_held_out_at_the_start(_HATEFUL_MEMES, "the Hateful Memes"),),
    ),
    "ucf101": TaskSpec(
        name="ucf101",
        metric="accuracy",
        train=(_ucf101("train", "the training videos"),),
        held_out=(_ucf101("val", "the validation videos"), _ucf101("test", "the test videos")),
    ),
    "jsonl": TaskSpec(name="jsonl", metric="exactMatch"),
}
