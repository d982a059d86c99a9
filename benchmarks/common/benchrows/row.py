"""What a row is: one number, the bar that it is held against, and the function that measures it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class NotMeasured(Exception):
    """A row has no value; the text says why, and what can be done."""


@dataclass(frozen=True)
class Workplace:
    """What a row is given to work with."""

    folder: Path
    """Empty, and removed afterwards."""
    say: Callable[[str], None]
    """Takes a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a value is to keep to."""

    sign: Literal[">=", "<="]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a value keeps to it; a value that is not a number never does."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    name: str
    unit: str
    bar: Bar
    summary: str
    """What is measured, in a line for `--help`."""
    measure: Callable[[Workplace], float]
    """Raises NotMeasured."""
    needs_gpu: bool = False
    """Left out without being missed where there is no GPU."""
