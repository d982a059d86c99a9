"""docs/troubleshooting.md has messages that the product prints, word for word, and every bad end."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from harness.cluster import REPOSITORY
from harness.messages import says, texts, texts_of_product
from phitune_operator.remedies import REMEDIES
from phitune_operator.status import duration_text
from phitune_trainer.memory import GIB, gib
from phitune_trainer.transfer import size

PAGE = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| (`+) ?(.+?) ?\1 \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("message", [message for _, message in MESSAGES])
def test_a_message_of_the_page_is_one_that_the_product_prints(message: str) -> None:
    assert says(texts_of_product(REPOSITORY), message)


def test_there_is_a_message_in_every_row() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(MESSAGES) == sum(not row.startswith("| message |") for row in rows) > 70


GIVEN = "not done within activeDeadline (2h)"
"""A message with a duration as the user wrote it."""
SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def test_durations_are_written_as_the_operator_writes_them() -> None:
    spoken = [message for _, message in MESSAGES if message != GIVEN]
    found = [one for message in spoken for one in re.findall(r"(?<![\w.])(?:\d+[dhms])+\b", message)]
    assert len(found) > 4
    for written in found:
        seconds = sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", written))
        assert written == duration_text(timedelta(seconds=seconds))


def test_sizes_are_written_as_the_product_writes_them() -> None:
    spoken = " ".join(message for _, message in MESSAGES)
    assert all(gib(float(number) * GIB) == number for number in re.findall(r"([\d.]+) GiB", spoken))
    fetching = PAGE.partition("## Model or data are not fetched\n")[2].partition("\n## ")[0]
    assert re.findall(r"needs (\S+ \w+) more .* and (\S+ \w+) are free", fetching) == [
        (size(8_300_000_000), size(2_100_000_000))
    ]


def test_every_bad_end_of_a_gang_is_on_the_page() -> None:
    assert set(REMEDIES) <= set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE))


@pytest.mark.parametrize(
    ("source", "is_said"),
    [
        pytest.param('fail(f"the volume {name} is full; enlarge it")', True, id="as it is"),
        pytest.param('fail(f"the volume {name} has no room; enlarge it")', False, id="other words"),
        pytest.param('fail(f"volume {name} is full; enlarge it, please")', False, id="more words"),
        pytest.param('fail("the volume " + name + " is full; " f"enlarge {it}")', True, id="put together"),
        pytest.param('"""the volume data is full; enlarge it"""', False, id="a docstring"),
        pytest.param('# "the volume data is full; enlarge it"', False, id="a comment"),
        pytest.param('fail(f"{what}; enlarge it")', False, id="next to nothing of it"),
        pytest.param('NAME = "data"\nfail(f"the volume {NAME} is full; enlarge it")', True, id="a constant"),
        pytest.param('NAME = "db"\nfail(f"the volume {NAME} is full; enlarge it")', False, id="another one"),
        pytest.param('fail(f"the volume {name!r} is full; enlarge it")', False, id="with quotes"),
        pytest.param('fail(f"the volume {name:,} is full; enlarge it")', False, id="a number"),
    ],
)
def test_a_message_whose_wording_changes_is_noticed(source: str, is_said: bool) -> None:
    assert bool(says(texts(source), "the volume data is full; enlarge it")) is is_said
