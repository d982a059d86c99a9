"""How fast `phitune data check` goes through a data set, its start included."""

import time

from benchrows.row import Bar, Row, Workplace
from trainerbench.commands import phitune
from trainerbench.samples import PICTURES_EACH, write_samples

NUM_SAMPLES = 20_000
ROUNDS = 3


def measure(work: Workplace) -> float:
    """Samples of three pictures each / seconds from the command's start to its end, the shortest of a few."""
    model = work.folder / "model"
    phitune("init-model", "--size", "tiny", "--out", str(model))
    file = write_samples(work.folder, NUM_SAMPLES)
    work.say(f"checking {NUM_SAMPLES:,} samples of {PICTURES_EACH} pictures")
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        phitune("data", "check", str(file), "--model", str(model))
        seconds.append(time.perf_counter() - began)
        work.say(f"{seconds[-1]:.1f} s")
    return NUM_SAMPLES / min(seconds)


ROW = Row(
    name="data_check_rate",
    unit="samples/s",
    bar=Bar(sign=">=", limit=1000),
    summary="samples that `phitune data check` looks at in a second",
    measure=measure,
)
