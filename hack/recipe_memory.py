"""Writes the table of docs/benchmarks.md that sets our estimates beside the memory that the recipe publishes.

With --check nothing is written; 1 if the page has other numbers than the memory model gives today.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import table_in_page

from phitune_trainer.config import Method
from phitune_trainer.memory import Content, Setup, estimate, gib

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

GLOBAL_BATCH = 64
LORA_RANK = 64
"""Assumed: the recipe publishes none for its speed table. Its flag's default."""
SAMPLE = Content(tokens=2443, crops=17, picture_tokens=2353, label_tokens=40)
"""Tokens in the mean and crops at most, as published; that 90 tokens are text, and 40 labels, is assumed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the recipe's table of speed and memory."""

    method: Method
    freeze_vision: bool = False
    ranks: int = 8
    flash: bool
    """On A100; there is none on V100."""
    a100: int
    """Published peak on A100-80GB, in GB."""
    v100: int | None = None
    """The same on V100-32GB, in fp16."""

    @property
    def setup(self) -> Setup:
        """One sample a pass, recomputed, as far as the recipe says what it did."""
        has_adapters = self.method != "full"
        return Setup(
            method=self.method,
            freeze_vision=self.freeze_vision,
            lora_rank=LORA_RANK if has_adapters else 0,
            lora_vision=has_adapters,
            attention="flash" if self.flash else "sdpa",
            ranks=self.ranks,
            content=SAMPLE,
        )


PUBLISHED = (
    Row(method="full", flash=False, a100=42, v100=32),
    Row(method="full", flash=True, a100=36),
    Row(method="full", flash=True, ranks=16, a100=29, v100=32),
    Row(method="full", flash=True, ranks=32, a100=26, v100=32),
    Row(method="full", freeze_vision=True, flash=False, a100=29, v100=27),
    Row(method="full", freeze_vision=True, flash=True, a100=27),
    Row(method="lora", flash=False, a100=50, v100=30),
    Row(method="lora", flash=True, a100=16),
    Row(method="qlora", flash=False, a100=32),
    Row(method="qlora", flash=True, a100=10),
)


def main(arguments: list[str], page: Path = PAGE) -> int:
    """Write the table, or with --check compare it."""
    return table_in_page.main(
        arguments, command="hack/recipe_memory.py", description=__doc__, page=page, table=table
    )


def table() -> Iterator[str]:
    """The lines of the table."""
    yield (
        "| method | GPUs | flash on A100 | recipe, A100-80GB | recipe, V100-32GB "
        "| ours, 1 sample a pass, recomputed | a rank's whole share, recomputed | 1 sample, kept |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in PUBLISHED:
        share = GLOBAL_BATCH // row.ranks
        cells = [
            f"{_words(row.method)}{', vision frozen' if row.freeze_vision else ''}",
            str(row.ranks),
            "yes" if row.flash else "no",
            str(row.a100),
            "-" if row.v100 is None else str(row.v100),
            _gib(row.setup),
            f"{share}: {_gib(replace(row.setup, micro_batch=share))}",
            _gib(replace(row.setup, recompute=False)),
        ]
        yield f"| {' | '.join(cells)} |"


def _words(method: Method) -> str:
    return {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[method]


def _gib(setup: Setup) -> str:
    return gib(estimate(setup).total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
