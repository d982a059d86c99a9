"""A measurement that several rows take their figure from: made for the first of them that asks."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from benchrows.row import Workplace

Figures = TypeVar("Figures")


class Once(Generic[Figures]):
    """Measures when it is first called, and remembers; what went wrong is tried again by the next row."""

    def __init__(self, measure: Callable[[Workplace], Coroutine[Any, Any, Figures]]) -> None:
        self._measure = measure
        self._figures: Figures | None = None

    def __call__(self, work: Workplace) -> Figures:
        """The figures. Raises NotMeasured."""
        if self._figures is None:
            self._figures = asyncio.run(self._measure(work))
        return self._figures
