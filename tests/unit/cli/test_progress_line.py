"""How far a command is: drawn again and again on a terminal, now and then elsewhere."""

from __future__ import annotations

import io

import pytest

from phitune_cli.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, every: float | None) -> str:
    """What is written of ten lines, a tenth of a second from one to the next."""
    now = 0.0
    with ProgressLine(stream, every=every, clock=lambda: now) as progress:
        for number in range(1, 11):
            now = number / 10
            progress.show(f"{number} of 10", is_last=number == 10)
        assert progress.seconds == 1.0
    return stream.getvalue()


def test_a_terminal_shows_one_line_four_times_a_second_and_is_left_clean() -> None:
    drawn = shown(Terminal(), every=5).split("\r\x1b[K")
    assert drawn == ["", "3 of 10", "6 of 10", "9 of 10", "10 of 10", ""]


@pytest.mark.parametrize(
    ("every", "lines"),
    [
        pytest.param(0.45, ["5 of 10", "10 of 10"], id="now and then, and the last"),
        pytest.param(5, ["10 of 10"], id="the last alone"),
        pytest.param(None, [], id="none"),
    ],
)
def test_a_log_gets_a_line_now_and_then_or_none(every: float | None, lines: list[str]) -> None:
    assert shown(io.StringIO(), every).splitlines() == lines
