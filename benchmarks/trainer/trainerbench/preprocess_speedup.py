"""A page prepared by the published steps and by ours, in turn, on one core."""

import os
import statistics
import time
from collections.abc import Callable

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import alone

PAGE = (1700, 2200)
NUM_CROPS = 16
CROP_SIZE = 336
ROUNDS = 31


def measure(work: Workplace) -> float:
    """CPU time of the published steps / of ours, the median over rounds of one after the other."""
    pairs = alone(rounds)
    published, ours = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    work.say(f"published {published:.1f} ms, ours {ours:.1f} ms a page of {PAGE[0]} x {PAGE[1]} (medians)")
    return statistics.median(theirs / own for theirs, own in pairs)


def rounds() -> list[tuple[float, float]]:
    """Seconds of CPU of the published steps and of ours, for each round, on a decoded page."""
    import numpy as np
    import torch
    from PIL import Image

    from phitune_trainer.data.pictures import scale
    from trainerbench.published_pictures import pixel_values, resized_picture

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (PAGE[1] // 10, PAGE[0] // 10, 3), dtype=np.uint8)
    page = Image.fromarray(patches).resize(PAGE)

    def published() -> None:
        pixel_values(resized_picture(page, num_crops=NUM_CROPS), num_crops=NUM_CROPS)

    def ours() -> None:
        scale(page, num_crops=NUM_CROPS, crop_size=CROP_SIZE)

    for warm_up in (published, ours):
        warm_up()
    return [(_cpu_seconds(published), _cpu_seconds(ours)) for _ in range(ROUNDS)]


def _cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


ROW = Row(
    name="preprocess_speedup",
    unit="times",
    bar=Bar(sign=">=", limit=1.8),
    summary="published preparation of a page / ours, CPU time on one core",
    measure=measure,
)
