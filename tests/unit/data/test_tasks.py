"""The recipe's tasks, from parquet files of the published layouts: what is asked, trained and held out."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.parquet_data import CAULDRON, DOCVQA_1200, cauldron_row, docvqa_row, encoded, write_parquet
from harness.tiny_models import gradients, published_folder
from harness.train_configs import train_config
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import DataError, Processor, Sample, collate
from phitune_trainer.data.conversation import Conversation, Turn
from phitune_trainer.data.open import describe_data, open_questions, open_task
from phitune_trainer.data.tasks import TASKS, hub_sources
from phitune_trainer.data.tasks.samples import PageQuestions, PageSamples, lay_out
from phitune_trainer.model import load_model
from phitune_trainer.model.inputs import IGNORED

torch.set_num_threads(1)

FULL = "docvqa/train-00000-of-00002-0123456789abcdef.parquet"
MINI = "data/train-00000-of-00001-0123456789abcdef.parquet"
TEST = "data/test-00000-of-00001-0123456789abcdef.parquet"
NLVR2 = "nlvr2/train-00000-of-00001-0123456789abcdef.parquet"
MEMES = "hateful_memes/train-00000-of-00001-0123456789abcdef.parquet"


@pytest.fixture(scope="module")
def processor(base_model: Path) -> Processor:
    return Processor.load(base_model, num_crops=4)


def config(
    volume: Path,
    task: str,
    *,
    max_length: int = 8192,
    evaluation: Mapping[str, Any] | None = None,
    **data: str,
) -> TrainConfig:
    """A config whose data lies in the folder `data` of the volume."""
    return train_config(
        volume,
        {
            "task": task,
            "data": {"path": "data", "generate": None, "eval": None, **data},
            "training": {"numCrops": 4, "maxLength": max_length},
            "evaluation": evaluation or {"enabled": True, "baseline": False},
        },
    )


def write(volume: Path, name: str, *rows: dict[str, Any], group_size: int = 2) -> Path:
    """A file of a hub's repository in the data folder."""
    schema = DOCVQA_1200 if name.startswith("data/") else CAULDRON
    return write_parquet(volume / "data" / name, schema, rows, group_size=group_size)


def open_pages(
    volume: Path, task: str, processor: Processor, **settings: Any
) -> tuple[PageSamples, PageQuestions]:
    samples, questions = open_task(config(volume, task, **settings), processor)
    assert isinstance(samples, PageSamples)
    assert isinstance(questions, PageQuestions)
    return samples, questions


def alone(processor: Processor, sample: Sample, user: str, assistant: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a question about the sample's pictures, as a conversation of its own."""
    turn = Turn(tuple("p" for _ in sample.pictures), user, assistant)
    return processor.tokenize(Conversation((turn,)), [processor.picture_tokens(p) for p in sample.pictures])


def sequences(sample: Sample) -> list[tuple[list[int], list[int]]]:
    """What the branches of a sample stand for; the sample itself where it has none."""
    if not sample.branches:
        return [(sample.input_ids.tolist(), sample.labels.tolist())]
    return [
        (
            sample.input_ids.tolist() + branch.input_ids.tolist(),
            sample.labels.tolist() + branch.labels.tolist(),
        )
        for branch in sample.branches
    ]


THREE = [
    ("What is the date?\nGive a very brief answer.", "May 7."),
    ("What is the total?\nKeep it short.", "12."),
    ("Who signs?", "A. Smith."),
]


def test_all_questions_of_a_docvqa_page_are_trained_each_as_if_alone(
    tmp_path: Path, processor: Processor
) -> None:
    """Recipe bug 7: one random question a page and epoch was trained."""
    write(tmp_path, FULL, cauldron_row(*THREE), cauldron_row(THREE[0]))
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    samples, _ = open_pages(tmp_path, "docvqa", processor)
    page = samples[0]
    asked = [THREE[0][0], THREE[1][0], "Who signs?\nAnswer briefly."]
    wanted = [alone(processor, page, user, answer) for user, (_, answer) in zip(asked, THREE, strict=True)]
    assert sequences(page) == wanted
    assert page.num_label_tokens == sum(label != IGNORED for _, labels in wanted for label in labels)
    assert len(page.pictures) == 1
    assert samples[1].branches == ()
    assert sequences(samples[1]) == wanted[:1]


def test_a_page_gives_the_loss_and_gradient_of_its_questions_by_themselves(
    tmp_path: Path, base_model: Path, processor: Processor
) -> None:
    write(tmp_path, FULL, cauldron_row(*THREE))
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    page = open_pages(tmp_path, "docvqa", processor)[0][0]
    by_themselves = [
        Sample(input_ids=torch.tensor(ids), labels=torch.tensor(labels), pictures=page.pictures)
        for ids, labels in sequences(page)
    ]
    model = load_model(base_model, dtype=torch.float64, attention="sdpa")

    def trained(samples: list[Sample]) -> tuple[float, dict[str, torch.Tensor], int]:
        batch = collate(samples, original_max_positions=model.model_config.original_max_positions)
        loss = model(batch)
        loss.backward()
        return loss.item(), gradients(model), batch.num_tokens

    loss, found, num_tokens = trained([page])
    wanted_loss, wanted, num_tokens_alone = trained(by_themselves)
    assert num_tokens_alone - num_tokens == 2 * len(page.input_ids), "what is shared is computed once"
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_questions_share_all_that_they_begin_with_and_no_answer(tmp_path: Path, processor: Processor) -> None:
    write(tmp_path, FULL, cauldron_row(("Which one?", "a"), ("Which two?", "b"), ("Which one?", "c")))
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    page = open_pages(tmp_path, "docvqa", processor)[0][0]
    assert bool((page.labels == IGNORED).all())
    picture_tokens = processor.picture_tokens(page.pictures[0])
    assert int((page.input_ids == -1).sum()) == picture_tokens
    first = torch.stack([branch.input_ids[0] for branch in page.branches])
    assert len(first.unique()) > 1, "the prefix could be longer"
    assert all(branch.labels[0] == IGNORED for branch in page.branches)


@given(
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4),
    answer=st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_a_prefix_and_its_branches_are_the_sequences_whatever_they_are(
    prompts: list[list[int]], answer: list[int]
) -> None:
    wanted = [(prompt + answer, [IGNORED] * len(prompt) + answer) for prompt in prompts]
    sample = lay_out(wanted)
    assert sequences(sample) == wanted
    assert len(sample.branches) == (len(prompts) if len(prompts) > 1 else 0)
    assert all(branch.labels[0] == IGNORED for branch in sample.branches)


def test_the_prompts_are_those_of_the_recipe_token_for_token(tmp_path: Path) -> None:
    """With the published tokenizer, from the text of the recipe's template."""
    processor = Processor.load(published_folder(), num_crops=16)
    write(tmp_path, MINI, docvqa_row("What is it?", "an invoice", "invoice"))
    write(tmp_path, TEST, docvqa_row("What is it?", "an invoice", "invoice"))
    samples, questions = open_pages(tmp_path, "docvqa", processor)
    count = processor.picture_tokens(samples[0].pictures[0])
    prompt = "<|user|>\n<|image_1|>\nWhat is it?\nAnswer briefly.<|end|>\n<|assistant|>\n"
    prompt_ids = processor.tokenize_prompt(prompt, [count])
    answer_ids = processor.tokenizer.encode("an invoice<|end|>\n<|endoftext|>", begin=False)
    assert samples[0].input_ids.tolist() == prompt_ids + answer_ids
    assert samples[0].labels.tolist() == [IGNORED] * len(prompt_ids) + answer_ids
    assert questions.prompt(0).input_ids.tolist() == prompt_ids
    assert prompt_ids[:4] == [1, 32010, 29871, 13]
    assert prompt_ids[-4:] == [32007, 29871, 13, 32001]
    assert answer_ids[-4:] == [32007, 29871, 13, 32000]


def test_docvqa_is_scored_with_all_accepted_answers_and_trained_on_the_first(
    tmp_path: Path, processor: Processor
) -> None:
    row = docvqa_row("Which year?", "1999", "in 1999")
    write(tmp_path, MINI, row)
    write(tmp_path, TEST, row, row)
    samples, questions = open_pages(tmp_path, "docvqa", processor)
    trained = [token for token in samples[0].labels.tolist() if token != IGNORED]
    assert processor.decode(trained).strip().startswith("1999")
    assert len(questions) == 2
    assert questions.answers(1) == ("1999", "in 1999")
    assert questions.group(1) == ""
    assert questions.pictures(1) == (f"{questions.where(1)}:image",)
    assert Path(questions.where(1)).name == f"{Path(TEST).name}:row 1"
    prompt = questions.prompt(1)
    assert prompt.num_label_tokens == 0
    assert len(prompt.pictures) == 1


def test_full_or_mini_follows_what_is_asked_for_else_what_lies_there(
    tmp_path: Path, processor: Processor
) -> None:
    write(tmp_path, MINI, docvqa_row("What?", "x"))
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    assert len(open_pages(tmp_path, "docvqa", processor)[0]) == 1
    write(tmp_path, FULL, cauldron_row(*THREE), cauldron_row(*THREE))
    for data, count, words in [
        ({}, 2, "the full training split of DocVQA"),
        ({"train": "mini"}, 1, "the mini training split of the recipe's quick start"),
        ({"name": "nielsr/docvqa_1200_examples"}, 1, "the mini training split"),
    ]:
        job = config(tmp_path, "docvqa", **data)
        samples, questions = open_task(job, processor)
        assert len(samples) == count
        said = describe_data(job, samples, len(questions or ()))
        assert words in said
        assert f"{count} pages with {6 if count == 2 else 1} questions to train on" in said
        assert "1 held out to score: the mini test split of DocVQA" in said


def test_the_files_to_fetch_are_those_that_the_task_reads(tmp_path: Path) -> None:
    def wanted(task: str, **settings: Any) -> dict[str, tuple[str, ...]]:
        return {one.repo: one.patterns for one in hub_sources(config(tmp_path, task, **settings))}

    cauldron, docvqa = "HuggingFaceM4/the_cauldron", "nielsr/docvqa_1200_examples"
    off = {"enabled": False, "baseline": False}
    assert wanted("docvqa") == {cauldron: ("docvqa/*.parquet",), docvqa: ("data/test-*.parquet",)}
    assert wanted("docvqa", evaluation=off) == {cauldron: ("docvqa/*.parquet",)}
    assert wanted("docvqa", train="mini") == {docvqa: ("data/train-*.parquet", "data/test-*.parquet")}
    assert wanted("docvqa", name=docvqa) == wanted("docvqa", train="mini")
    assert wanted("docvqa", name="me/copy") == {"me/copy": ("docvqa/*.parquet", "data/test-*.parquet")}
    assert wanted("nlvr2") == {cauldron: ("nlvr2/*.parquet",)}
    assert wanted("hatefulMemes") == {cauldron: ("hateful_memes/*.parquet",)}
    assert wanted("ucf101") == {"sayakpaul/ucf101-subset": ("UCF101_subset.tar.gz",)}
    assert hub_sources(config(tmp_path, "jsonl", evaluation=off)) == ()


def nlvr2_row(number: int) -> dict[str, Any]:
    texts = [
        (f'Is the sentence "There are  {number % 3} dogs." true?\nAnswer yes or no.', "Yes."),
        (f'Considering both pictures, is "A cat {number}." right?\nAnswer yes or no.', "No."),
    ]
    return cauldron_row(*texts, images=[encoded(grey=10), encoded(28, 60, grey=20)], source="nlvr2")


def test_the_first_500_pairs_of_nlvr2_are_held_out_and_the_rest_is_trained(
    tmp_path: Path, processor: Processor
) -> None:
    rows = [nlvr2_row(number) for number in range(503)]
    write(tmp_path, NLVR2, *rows[:300], group_size=100)
    write(tmp_path, NLVR2.replace("00000-of", "00001-of"), *rows[300:], group_size=100)
    samples, questions = open_pages(tmp_path, "nlvr2", processor)
    assert (len(samples), len(questions)) == (3, 500)
    assert Path(samples.where(0)).name == "train-00001-of-00001-0123456789abcdef.parquet:row 200"
    assert Path(questions.where(299)).name == f"{Path(NLVR2).name}:row 299"
    pair = samples[1]
    assert len({tuple(picture.shape) for picture in pair.pictures}) == 2
    texts = rows[501]["texts"]
    assert sequences(pair) == [alone(processor, pair, one["user"], one["assistant"]) for one in texts]
    assert {questions.answers(index) for index in range(500)} == {("Yes.",)}
    assert [questions.group(index) for index in range(4)] == [
        f"there are {number} dogs." for number in (0, 1, 2, 0)
    ]
    assert questions.pictures(0) == tuple(f"{questions.where(0)}:images[{number}]" for number in (0, 1))
    prompt, _ = alone(processor, questions.prompt(7), rows[7]["texts"][0]["user"], "Yes.")
    ids = questions.prompt(7).input_ids.tolist()
    assert ids == prompt[: len(ids)]
    assert TASKS["nlvr2"].choices == ("Yes.", "No.")


def test_the_first_500_hateful_memes_are_held_out(tmp_path: Path, processor: Processor) -> None:
    rows = [cauldron_row(("Is this meme hateful?\nAnswer yes or no.", "No."))] * 501
    write(tmp_path, MEMES, *rows, group_size=100)
    samples, questions = open_pages(tmp_path, "hatefulMemes", processor)
    assert (len(samples), len(questions)) == (1, 500)
    assert samples[0].branches == ()
    assert questions.group(0) == ""
    said = describe_data(config(tmp_path, "hatefulMemes"), samples, len(questions))
    assert "without the first 500" in said


def test_a_question_that_is_too_long_is_left_out_and_a_page_without_any_is_too(
    tmp_path: Path, processor: Processor
) -> None:
    long = "why " * 200
    write(tmp_path, FULL, cauldron_row(*THREE, (long, "b")), cauldron_row((long, "b")), cauldron_row(*THREE))
    write(tmp_path, TEST, docvqa_row("What?", "x"), docvqa_row(long, "x"))
    roomy = open_pages(tmp_path, "docvqa", processor)[0]
    longest = max(len(ids) for ids, _ in sequences(roomy[2]))
    samples, questions = open_pages(tmp_path, "docvqa", processor, max_length=longest)
    assert len(samples) == 2
    assert (samples.num_skipped, samples.pages.num_questions_skipped) == (1, 2)
    assert sequences(samples[0]) == sequences(roomy[0])[:3]
    assert Path(samples[1].where).name == f"{Path(FULL).name}:row 2"
    assert (len(questions), questions.num_skipped) == (1, 1)
    said = describe_data(config(tmp_path, "docvqa", max_length=longest), samples, 1)
    assert f"2 questions and 1 pages longer than {longest} tokens left out" in said
    with pytest.raises(DataError, match=r"all 8 questions are longer than 3 tokens; raise maxLength"):
        open_pages(tmp_path, "docvqa", processor, max_length=3)


def test_data_sets_can_be_sent_to_another_process(tmp_path: Path, processor: Processor) -> None:
    write(tmp_path, FULL, *[cauldron_row(*THREE)] * 5)
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    samples, questions = open_pages(tmp_path, "docvqa", processor)
    before = samples[4]
    there, asked = pickle.loads(pickle.dumps((samples, questions)))
    assert sequences(there[4]) == sequences(before)
    assert bool((there[4].pictures[0] == before.pictures[0]).all())
    assert asked.answers(0) == ("x",)
    assert len(pickle.dumps(samples)) < 2 * len(pickle.dumps(processor)) + 20_000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param(cauldron_row(), r"row 1: texts: is empty", id="no question"),
        pytest.param(cauldron_row((" ", "a")), r"row 1: texts\[0\]: asks nothing", id="empty question"),
        pytest.param(cauldron_row(("q", "")), r"row 1: texts\[0\]\.assistant: is empty", id="empty answer"),
        pytest.param(
            cauldron_row(("q", "a"), ("<|image_2|>", "a")),
            r"row 1: texts\[1\]\.user: has '<\|image_2\|>'",
            id="placeholder",
        ),
        pytest.param(
            cauldron_row(("q", "a<|end|>")), r"row 1: texts\[0\]\.assistant: .*<\|end\|>", id="special token"
        ),
    ],
)
def test_a_row_that_cannot_be_trained_is_named_when_the_files_are_opened(
    row: dict[str, Any], message: str, tmp_path: Path, processor: Processor
) -> None:
    write(tmp_path, FULL, cauldron_row(*THREE), row)
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    with pytest.raises(DataError, match=rf"{Path(FULL).name}:{message}"):
        open_pages(tmp_path, "docvqa", processor)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param([], r"row 1: images: is empty", id="no picture"),
        pytest.param([encoded(), encoded()], r"row 1: must have 1 pictures, has 2", id="two pictures"),
        pytest.param(
            [{"bytes": None, "path": "a.png"}], r"row 1: images\[0\]: has no bytes", id="a path alone"
        ),
        pytest.param(
            [{"bytes": b"GIF", "path": None}], r"row 1: images\[0\]: picture: not a", id="no picture"
        ),
        pytest.param(
            [{"bytes": encoded()["bytes"][:60], "path": None}],
            r"row 1: images\[0\]: picture: ",
            id="cut short",
        ),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_named_when_it_is_taken(
    images: list[dict[str, Any]], message: str, tmp_path: Path, processor: Processor
) -> None:
    write(tmp_path, FULL, cauldron_row(*THREE), cauldron_row(*THREE, images=images))
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    samples, _ = open_pages(tmp_path, "docvqa", processor)
    assert samples[0].pictures
    with pytest.raises(DataError, match=rf"{Path(FULL).name}:{message}"):
        samples[1]


def test_files_that_are_not_there_are_named_with_where_to_get_them(
    tmp_path: Path, processor: Processor
) -> None:
    with pytest.raises(DataError, match=r"docvqa/\*\.parquet: no such files; .*HuggingFaceM4/the_cauldron"):
        open_pages(tmp_path, "docvqa", processor)
    write(tmp_path, FULL, cauldron_row(*THREE))
    with pytest.raises(DataError, match=r"data/test-\*\.parquet.*or set evaluation\.enabled: false"):
        open_pages(tmp_path, "docvqa", processor)
    off = config(tmp_path, "docvqa", evaluation={"enabled": False, "baseline": False})
    samples, questions = open_task(off, processor)
    assert (len(samples), questions) == (1, None)


def test_frames_that_were_not_made_yet_are_named_with_what_makes_them(
    tmp_path: Path, processor: Processor
) -> None:
    with pytest.raises(DataError, match=r"ucf101_train\.jsonl: not found; `phitune data ucf101 .*` makes it"):
        open_task(config(tmp_path, "ucf101"), processor)


def test_held_out_questions_open_without_the_training_files(tmp_path: Path, processor: Processor) -> None:
    write(tmp_path, TEST, docvqa_row("What?", "x"))
    questions = open_questions(config(tmp_path, "docvqa"), processor)
    assert questions is not None
    assert len(questions) == 1


def test_a_split_that_the_task_has_not_is_refused_with_those_it_has(
    tmp_path: Path, processor: Processor
) -> None:
    with pytest.raises(DataError, match=r"data\.train: task docvqa has no split 'all'; it has full and mini"):
        open_task(config(tmp_path, "docvqa", train="all"), processor)
    with pytest.raises(DataError, match=r"data\.eval: task ucf101 has no split 'full'; it has val and test"):
        open_questions(config(tmp_path, "ucf101", eval="full"), processor)
