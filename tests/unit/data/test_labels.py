"""What a conversation becomes: which tokens, and which of them are trained."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.tiny_models import published_folder
from phitune_trainer.data import Processor
from phitune_trainer.data.conversation import Conversation, Turn
from phitune_trainer.tokenizer import TextTokenizer, build_tokenizer

torch.set_num_threads(1)

PLACE = ["(1)"] * 25  # one crop of 3 x 3 tokens and the global view, each row with its end, and the middle


@pytest.fixture(scope="module")
def processor(base_model: Path) -> Processor:
    return Processor.load(base_model, num_crops=1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (84, 84)).save(tmp_path / name)
    return tmp_path


def spelled(processor: Processor, ids: torch.Tensor) -> list[str]:
    """Tokens as text; (n) stands for one of picture n."""
    names = build_tokenizer()
    return [f"({-token})" if token < 0 else names.id_to_token(token) for token in ids.tolist()]


def trained(processor: Processor, conversation: Conversation, images: Path) -> str:
    """The whole conversation as text, what is trained in brackets."""
    sample = processor.encode(conversation, images)
    words = spelled(processor, sample.input_ids)
    assert torch.equal(sample.labels[sample.labels != -100], sample.input_ids[sample.labels != -100])
    marked = [
        f"[{word}]" if label != -100 else word for word, label in zip(words, sample.labels, strict=True)
    ]
    return " ".join(word for word in marked if not word.startswith("(") or word != "(0)")


def test_one_picture_and_one_answer(processor: Processor, images: Path) -> None:
    conversation = Conversation((Turn(("a.png",), "which digit", "7"),))
    assert trained(processor, conversation, images).split() == [
        *("<s>", "<|user|>", "▁", "<0x0A>", *PLACE, "<s>", "▁", "<0x0A>", "w", "h", "i", "c", "h", "▁digit"),
        *("<|end|>", "▁", "<0x0A>", "<|assistant|>"),
        *("[▁7]", "[<|end|>]", "[▁]", "[<0x0A>]", "[<|endoftext|>]"),
    ]


def test_every_answer_of_several_turns_is_trained_and_the_end_comes_once(
    processor: Processor, images: Path
) -> None:
    turns = (
        Turn((), "a", "is"),
        Turn(("a.png", "b.png"), "b", "it"),
        Turn(("c.png",), "c", "7"),
    )
    second = [word.replace("1", "2") for word in PLACE]
    third = [word.replace("1", "3") for word in PLACE]
    assert trained(processor, Conversation(turns), images).split() == [
        *("<s>", "<|user|>", "▁", "<0x0A>", "a", "<|end|>", "▁", "<0x0A>", "<|assistant|>"),
        *("[▁is]", "[<|end|>]", "[▁]", "[<0x0A>]"),
        *("<|user|>", "▁", "<0x0A>", *PLACE, "<s>", *second, "<s>", "▁", "<0x0A>", "b"),
        *("<|end|>", "▁", "<0x0A>", "<|assistant|>"),
        *("[▁it]", "[<|end|>]", "[▁]", "[<0x0A>]"),
        *(
            "<|user|>",
            "▁",
            "<0x0A>",
            *third,
            "<s>",
            "▁",
            "<0x0A>",
            "c",
            "<|end|>",
            "▁",
            "<0x0A>",
            "<|assistant|>",
        ),
        *("[▁7]", "[<|end|>]", "[▁]", "[<0x0A>]", "[<|endoftext|>]"),
    ]


def test_the_prompt_is_the_sample_up_to_its_last_answer(processor: Processor, images: Path) -> None:
    conversation = Conversation((Turn(("a.png",), "a", "is"), Turn((), "b", "it")))
    whole, prompt = (encode(conversation, images) for encode in (processor.encode, processor.encode_prompt))
    assert torch.equal(whole.input_ids[: prompt.num_tokens], prompt.input_ids)
    assert spelled(processor, whole.input_ids[prompt.num_tokens :])[0] == "▁it"
    assert prompt.num_label_tokens == 1 + 3, "the first answer"
    assert len(prompt.pictures) == 1


def test_tokens_are_counted_without_decoding_and_never_exceed_their_bound(
    processor: Processor, images: Path
) -> None:
    texts = ["", "which digit is this?", "ünïcødé 漢字 🙂", "   \n\n\t"]
    for text in texts:
        turns = (Turn(("a.png", "b.png"), text, f"x{text}"), Turn((), f"y{text}", f"z{text}"))
        conversation = Conversation(turns)
        counted = processor.num_tokens(conversation, images)
        assert counted == processor.encode(conversation, images).num_tokens
        assert counted <= processor.most_tokens(conversation)


def test_any_text_survives_the_small_tokenizer(processor: Processor) -> None:
    for text in ("Which digit is this?", "ünïcødé 漢字 🙂", "a  b", "line\nbreak", "0123456789"):
        assert processor.decode(processor.tokenizer.encode(text, begin=False)) == text


def test_decoding_leaves_special_tokens_out(processor: Processor) -> None:
    assert processor.decode(processor.tokenizer.encode("7<|end|>\n<|endoftext|>", begin=False)) == "7"


def test_the_published_tokenizer_gives_the_published_ids(images: Path) -> None:
    folder = published_folder()
    processor = Processor.load(folder, num_crops=4)
    sample = processor.encode(Conversation((Turn(("a.png",), "What is this?", "x"),)), images)
    ids = sample.input_ids.tolist()
    assert ids[:4] == [1, 32010, 29871, 13]
    assert ids[4:761] == [-1] * 757
    assert ids[761:] == [
        1,
        29871,
        13,
        5618,
        338,
        445,
        29973,
        32007,
        29871,
        13,
        32001,
        921,
        32007,
        29871,
        13,
        32000,
    ]
    assert sample.labels.tolist()[-6:] == [-100, 921, 32007, 29871, 13, 32000]
    assert sample.num_label_tokens == 5
    assert processor.tokenizer.eos_ids == {32000, 32007}


def test_several_turns_are_tokenised_as_the_published_template_does() -> None:
    tokenizer = TextTokenizer.load(published_folder())
    first = "<|user|>\nHow many?<|end|>\n<|assistant|>\nTwo dogs.<|end|>\n"
    second = "<|user|>\nWhere?<|end|>\n<|assistant|>\nThere.<|end|>\n"
    conversation = Conversation((Turn((), "How many?", "Two dogs."), Turn((), "Where?", "There.")))
    ids, _ = Processor.load(published_folder(), num_crops=1).tokenize(conversation, [])
    assert ids == [*tokenizer.encode(first + second, begin=True), 32000]


WORDS = st.text("ab 7?\n.", min_size=1, max_size=12).map(lambda text: f"is{text}it")
TURNS = st.lists(
    st.builds(Turn, st.lists(st.just("a.png"), max_size=2).map(tuple), WORDS, WORDS), min_size=1, max_size=4
)


def runs_of(labels: list[int]) -> list[list[int]]:
    """The stretches of labels that are trained."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == -100:
            runs += [[]] if runs[-1] else []
        else:
            runs[-1].append(label)
    return [run for run in runs if run]


@settings(max_examples=40, deadline=None)
@given(turns=TURNS)
def test_in_several_turns_pictures_are_numbered_through_and_begin_and_end_come_once(
    processor: Processor, turns: list[Turn]
) -> None:
    conversation = Conversation(tuple(turns))
    num_pictures = len(conversation.images)
    special = processor.tokenizer.special_ids
    ids, _ = processor.tokenize(conversation, [3] * num_pictures)
    places = [-token for token in ids if token < 0]
    assert places == [number for number in range(1, num_pictures + 1) for _ in range(3)]
    assert [token for token, next_ in pairwise(ids) if next_ == special["<s>"]] == [
        -number for number in range(1, num_pictures + 1)
    ], "but for the first one, <s> stands after each picture alone"
    assert ids[0] == special["<s>"]
    assert ids.count(special["<|endoftext|>"]) == 1
    assert ids[-1] == special["<|endoftext|>"]
    for name in ("<|user|>", "<|assistant|>"):
        assert ids.count(special[name]) == len(turns)
    assert ids.count(special["<|end|>"]) == 2 * len(turns)
    prompt, _ = processor.tokenize(conversation, [3] * num_pictures, prompt_only=True)
    assert prompt == ids[: len(prompt)]
    assert prompt.count(special["<|end|>"]) == 2 * len(turns) - 1, "once for each text in front of the answer"


@settings(max_examples=40, deadline=None)
@given(turns=TURNS)
def test_labels_are_the_answers_and_their_ends_though_the_end_is_also_the_padding_token(
    processor: Processor, turns: list[Turn]
) -> None:
    conversation = Conversation(tuple(turns))
    ids, labels = processor.tokenize(conversation, [3] * len(conversation.images))
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    encode = processor.tokenizer.encode
    expected = [encode(f"{turn.assistant}<|end|>\n", begin=False) for turn in turns]
    expected[-1].append(processor.tokenizer.special_ids["<|endoftext|>"])
    assert runs_of(labels) == expected
    total, trained = processor.count_tokens(conversation, [3] * len(conversation.images))
    assert (total, trained) == (len(ids), sum(map(len, expected)))


def test_the_published_padding_token_is_trained_where_it_ends_a_conversation() -> None:
    folder = published_folder()
    names = json.loads((folder / "special_tokens_map.json").read_text())
    assert names["pad_token"]["content"] == names["eos_token"]["content"] == "<|endoftext|>"
    processor = Processor.load(folder, num_crops=4)
    turns = (Turn((), "What is it?", "x"), Turn(("a.png",), "And this?", "y"), Turn((), "Sure?", "x"))
    ids, labels = processor.tokenize(Conversation(turns), [2])
    assert ids == [
        *(1, 32010, 29871, 13, 5618, 338, 372, 29973, 32007, 29871, 13, 32001),
        *(921, 32007, 29871, 13),
        *(32010, 29871, 13, -1, -1, 1, 29871, 13, 2855, 445, 29973, 32007, 29871, 13, 32001),
        *(343, 32007, 29871, 13),
        *(32010, 29871, 13, 29903, 545, 29973, 32007, 29871, 13, 32001),
        *(921, 32007, 29871, 13, 32000),
    ]
    assert runs_of(labels) == [
        [921, 32007, 29871, 13],
        [343, 32007, 29871, 13],
        [921, 32007, 29871, 13, 32000],
    ]
