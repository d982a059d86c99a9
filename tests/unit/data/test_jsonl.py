"""A jsonl file as samples, and every way in which it can be wrong."""

import json
import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.bombs import bomb
from harness.jsonl_files import write_lines
from phitune_trainer.data import DataError, JsonlDataset, Processor

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor(base_model: Path) -> Processor:
    return Processor.load(base_model, num_crops=1)


Dataset = Callable[..., JsonlDataset]


@pytest.fixture
def dataset(tmp_path: Path, processor: Processor) -> Dataset:
    """Write lines to a file and open it."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (84, 84)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "text.png").write_text("not a picture")
    (tmp_path / "images" / "bomb.png").write_bytes(bomb(60_000, 60_000))
    Image.new("RGB", (84, 84)).save(tmp_path / "secret.png")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    whole = BytesIO()
    Image.effect_noise((84, 84), 100).save(whole, "JPEG")
    (tmp_path / "images" / "cut.jpg").write_bytes(whole.getvalue()[:-200])

    def write(*lines: str | bytes | dict[str, Any], max_length: int = 1000) -> JsonlDataset:
        file = write_lines(tmp_path / "train.jsonl", *lines)
        return JsonlDataset(file, tmp_path / "images", processor, max_length)

    return write


def line(
    *, user: object = "which digit", assistant: object = "7", images: object = ("a.png",), **more: Any
) -> Any:
    turn = {"images": images, "user": user, "assistant": assistant}
    return {"id": "1", "source": "test", "conversations": [turn], **more}


def test_samples_come_in_the_order_of_their_lines_with_their_place(dataset: Dataset) -> None:
    samples = dataset(line(assistant="1"), "", line(assistant="2", images=[]), "   ", line(assistant="3"))
    assert len(samples) == 3
    assert [samples.answers(index) for index in range(3)] == [("1",), ("2",), ("3",)]
    assert [samples.pictures(index) for index in range(3)] == [("a.png",), (), ("a.png",)]
    assert [samples.where(index) for index in range(3)] == [samples[index].where for index in range(3)]
    assert [Path(samples[index].where).name for index in range(3)] == [f"train.jsonl:{n}" for n in (1, 3, 5)]
    assert [len(samples[index].pictures) for index in range(3)] == [1, 0, 1]
    assert samples.prompt(2).num_label_tokens == 0


def test_a_conversation_without_a_picture_is_trained_as_text(dataset: Dataset) -> None:
    sample = dataset(line(images=[]))[0]
    assert sample.pictures == ()
    assert sample.num_label_tokens > 0
    assert (sample.input_ids >= 0).all()


def test_a_data_set_is_sent_to_another_process_without_its_lines(dataset: Dataset) -> None:
    one = len(pickle.dumps(dataset(line())))
    samples = dataset(*[line(user="which digit is it " * 50) for _ in range(50)])
    sent = pickle.dumps(samples)
    assert len(sent) < one + 50 * 16 + 100
    copy = pickle.loads(sent)
    assert torch.equal(copy[49].input_ids, samples[49].input_ids)
    assert copy.where(49) == samples.where(49)


def test_further_keys_of_a_line_or_a_turn_do_no_harm(dataset: Dataset) -> None:
    turn = {"images": ["a.png"], "user": "which", "assistant": "7", "source": "me"}
    assert len(dataset({"conversations": [turn], "split": "train"})) == 1


def test_a_turn_may_leave_images_out_and_a_file_may_have_windows_line_ends(dataset: Dataset) -> None:
    turn = {"user": "which", "assistant": "7"}
    samples = dataset(json.dumps({"conversations": [turn]}) + "\r", line())
    assert len(samples) == 2
    assert samples[0].pictures == ()


def test_samples_that_are_too_long_are_left_out_and_counted(dataset: Dataset) -> None:
    longest = dataset(line())[0].num_tokens
    samples = dataset(
        line(), line(user="which digit is it"), line(images=["a.png", "a.png"]), max_length=longest
    )
    assert (len(samples), samples.num_skipped) == (1, 2)
    assert Path(samples[0].where).name == "train.jsonl:1"


def test_a_file_of_samples_that_are_all_too_long_is_refused(dataset: Dataset) -> None:
    with pytest.raises(
        DataError, match=r"train\.jsonl: all 1 samples are longer than 5 tokens; raise maxLength"
    ):
        dataset(line(), max_length=5)


def test_a_missing_or_empty_file_is_refused(dataset: Dataset, tmp_path: Path, processor: Processor) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl: has no samples"):
        dataset()
    with pytest.raises(DataError, match=r"other\.jsonl: cannot be read: No such file"):
        JsonlDataset(tmp_path / "other.jsonl", tmp_path, processor, 10)


NO_TURN = {"conversations": []}

BAD_TEXT = [
    pytest.param("{", "not JSON", id="half a line"),
    pytest.param("[" * 100_000, "not JSON", id="nested too deep"),
    pytest.param(b'{"id": "\xff"}', "not UTF-8: invalid start byte at byte 8", id="not UTF-8"),
    pytest.param("[]", "the line: must be an object, got []", id="a list"),
    pytest.param('"text"', "the line: must be an object", id="a string"),
    pytest.param({"id": "1"}, "the line: has no 'conversations'; it has id", id="no conversations"),
    pytest.param({"conversations": {}}, "conversations: must be a list, got {}", id="conversations no list"),
    pytest.param(NO_TURN, "conversations: must have at least one turn", id="no turn"),
    pytest.param({"conversations": ["hi"]}, "conversations[0]: must be an object", id="a turn no object"),
    pytest.param({"conversations": [{"user": "a"}]}, "conversations[0]: has no 'assistant'", id="no answer"),
    pytest.param(
        {"conversations": [{"assistant": "a"}]}, "conversations[0]: has no 'user'", id="no question"
    ),
    pytest.param(line(id=1), "id: must be a string, got 1", id="id no string"),
    pytest.param(line(source=None), "source: must be a string, got null", id="source no string"),
    pytest.param(line(user=1), "conversations[0].user: must be a string, got 1", id="user no string"),
    pytest.param(line(assistant=None), "conversations[0].assistant: must be a string", id="answer no string"),
    pytest.param(line(images="a.png"), "conversations[0].images: must be a list", id="images no list"),
    pytest.param(
        {"conversations": [{"image": "a.png", "user": "a", "assistant": "b"}]},
        "conversations[0]: has 'image'; the key is 'images'",
        id="image for images",
    ),
    pytest.param(
        line(image="a.png"), "the line: has 'image'; pictures belong to a turn", id="outside a turn"
    ),
    pytest.param(line(images=[1]), "conversations[0].images[0]: must be a string", id="image no string"),
    pytest.param(line(assistant=""), "conversations[0].assistant: is empty", id="empty answer"),
    pytest.param(line(assistant=" \n"), "conversations[0].assistant: is empty", id="blank answer"),
    pytest.param(
        line(user="", images=[]), "conversations[0].user: is empty and the turn", id="nothing asked"
    ),
    pytest.param(line(user="<|image_1|> what"), "conversations[0].user: has '<|image_1|>'", id="placeholder"),
    pytest.param(
        line(assistant="<|image_12|>"), "conversations[0].assistant: has '<|image_12|>'", id="in answer"
    ),
    pytest.param(
        line(user="a<|end|>b"), "conversations[0].user: has the special token '<|end|>'", id="end token"
    ),
    pytest.param(
        line(assistant="a<|user|>"), "has the special token '<|user|>'", id="user token in an answer"
    ),
    pytest.param(
        '{"conversations": [{"user": "\\ud800", "assistant": "a"}]}', "half a character", id="surrogate"
    ),
    pytest.param(
        '{"conversations": [{"images": ["\\ud800"], "user": "a", "assistant": "a"}]}',
        "conversations[0].images[0]: has half a character",
        id="surrogate in a picture's name",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD_TEXT)
def test_a_bad_line_is_refused_when_the_file_is_opened(dataset: Dataset, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl:2: .*" + re.escape(message)):
        dataset(line(), bad, line())


BAD_PICTURES = [
    pytest.param("none.png", "picture 'none.png': not found", id="missing"),
    pytest.param("../train.jsonl", "must be a path inside", id="outside"),
    pytest.param("/etc/passwd", "must be a path inside", id="absolute"),
    pytest.param("text.png", "not a picture that can be read; replace the file", id="not a picture"),
    pytest.param("link.png", "a symbolic link leads out of the images folder", id="link out"),
    pytest.param("cut.jpg", "cannot be decoded (image file is truncated", id="truncated"),
    pytest.param("bomb.png", "has more than 89478485 pixels; scale it down", id="decompression bomb"),
    pytest.param("a" * 300 + ".png", "cannot be looked up: File name too long", id="name too long"),
]


@pytest.mark.parametrize(("name", "message"), BAD_PICTURES)
def test_a_bad_picture_is_refused_when_its_sample_is_taken(dataset: Dataset, name: str, message: str) -> None:
    samples = dataset(line(), line(images=["a.png", name]))
    for take in (samples.__getitem__, samples.prompt):
        with pytest.raises(DataError, match=r"train\.jsonl:2: .*" + re.escape(message)):
            take(1)
