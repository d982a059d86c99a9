"""Whether a long data set fills the memory: all samples taken once, encoded in worker processes."""

from pathlib import Path

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import alone
from trainerbench.commands import phitune
from trainerbench.memory import GIB, tree_resident_bytes
from trainerbench.samples import PICTURES_EACH, write_samples

NUM_SAMPLES = 20_000
EARLY = 1_000
NUM_WORKERS = 2


def measure(work: Workplace) -> float:
    """Resident memory after all samples / after the first thousand, worker processes included."""
    phitune("init-model", "--size", "tiny", "--out", str(work.folder / "model"))
    file = write_samples(work.folder, NUM_SAMPLES)
    work.say(
        f"taking {NUM_SAMPLES:,} samples of {PICTURES_EACH} pictures with {NUM_WORKERS} worker processes"
    )
    early, late = alone(take_all, file, work.folder / "model")
    work.say(f"{early / GIB:.3f} GiB after {EARLY:,} samples, {late / GIB:.3f} GiB after {NUM_SAMPLES:,}")
    return late / early


def take_all(file: Path, model: Path) -> tuple[int, int]:
    """Resident bytes of this process and its workers, early and at the end."""
    from phitune_trainer.data import JsonlDataset, Processor
    from phitune_trainer.data.sampler import step_indices
    from phitune_trainer.data.workers import Workers

    workers = Workers(NUM_WORKERS)
    try:
        processor = Processor.load(model, num_crops=4)
        dataset = JsonlDataset(file, file.parent / "images", processor, max_length=2048)
        order = step_indices(seed=0, step=0, num_samples=len(dataset), global_batch=NUM_SAMPLES)
        early = late = num_pictures = 0
        for number, sample in enumerate(workers.load(dataset, iter(order)), start=1):
            num_pictures += len(sample.pictures)
            if number == EARLY:
                early = tree_resident_bytes()
            elif number == NUM_SAMPLES:
                late = tree_resident_bytes()
    finally:
        workers.close()
    assert num_pictures == NUM_SAMPLES * PICTURES_EACH
    return early, late


ROW = Row(
    name="dataset_rss_growth",
    unit="times",
    bar=Bar(sign="<=", limit=1.1),
    summary="resident memory after 20,000 samples / after 1,000, data workers included",
    measure=measure,
)
