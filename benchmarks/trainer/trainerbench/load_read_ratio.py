"""How close loading a model is to reading its files."""

import time
from collections.abc import Callable
from pathlib import Path

from benchrows.row import Bar, NotMeasured, Row, Workplace
from trainerbench.alone import alone
from trainerbench.full_model import full_model
from trainerbench.memory import GIB, bytes_from_disk

WANTED_ROUNDS = 4
MOST_ROUNDS = 8

_NO_DISK_BYTES = GIB // 16
"""A round that gets more than this from the disk did not find the files in the page cache."""


def measure(work: Workplace) -> float:
    """Seconds to load / seconds to read the files into memory, the shortest of several rounds of each.

    The shortest, since what else a machine does can only make either longer. Only rounds count in which both
    find the files in the page cache. Raises NotMeasured where there is none.
    """
    pairs = alone(rounds, full_model(work.say))
    for read, loaded in pairs:
        work.say(f"read {read:.2f} s, load {loaded:.2f} s")
    if not pairs:
        raise NotMeasured(
            f"{MOST_ROUNDS} times in turn, the files did not stay in the page cache; 18 GB must be free"
        )
    return min(load for _, load in pairs) / min(read for read, _ in pairs)


def rounds(folder: Path) -> list[tuple[float, float]]:
    """Seconds to read the files and to load the model, for each round without a disk."""
    import torch

    from phitune_trainer.model.load import load_model

    def read() -> None:
        for path in sorted(folder.glob("*.safetensors")):
            path.read_bytes()

    def load() -> None:
        load_model(folder, dtype=torch.bfloat16, attention="sdpa")

    pairs: list[tuple[float, float]] = []
    for _ in range(MOST_ROUNDS):
        before = bytes_from_disk()
        pair = _seconds(read), _seconds(load)
        if bytes_from_disk() - before < _NO_DISK_BYTES:
            pairs.append(pair)
        if len(pairs) == WANTED_ROUNDS:
            break
    return pairs


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


ROW = Row(
    name="load_read_ratio",
    unit="times",
    bar=Bar(sign="<=", limit=1.5),
    summary="time to load full size / time to read its files, both from the page cache",
    measure=measure,
)
