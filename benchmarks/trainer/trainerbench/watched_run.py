"""A real run of the trainer on this machine's processor, and how long its steps spent on what.

One rank trains adapters on scanned pages, their pictures decoded and scaled by as many data workers as the
trainer chooses by itself, while somebody asks for /progress and /metrics more often than the operator does.
"""

import contextlib
import functools
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchrows.row import Workplace
from trainerbench.alone import alone
from trainerbench.commands import phitune

DIVISOR = 8
"""Of the model's widths, layers and vocabulary."""
NUM_STEPS, PAGES_EACH = 8, 4
_PAGE = (1700, 2200)
_SECONDS_BETWEEN_POLLS = 1.0


@dataclass
class Watched:
    """Seconds within the steps of a run, but for the first of them, which fills the queues."""

    steps: float = 0.0
    """From the first step's end to the last one's."""
    waits: float = 0.0
    """In which the training thread waited for samples."""
    telemetry: float = 0.0
    """For the log, the metrics and the FLOPs, and of the processor for answers to /progress and /metrics."""


def watched_run(work: Workplace) -> Watched:
    """Train a few steps, in a process of its own. Raises NotMeasured where that fails."""
    config = _make_workspace(work.folder)
    port = _free_port()
    with _polled(port):
        watched = alone(train_watched, config, port)
    work.say(
        f"{watched.steps:.1f} s in {NUM_STEPS - 1} steps: {watched.waits * 1e3:.1f} ms of waiting for data, "
        f"{watched.telemetry * 1e3:.1f} ms of telemetry"
    )
    return watched


def train_watched(config: Path, port: int) -> Watched:
    """Run one rank as its launcher does, with its own functions timed."""
    for name, value in {
        "PHITUNE_CONFIG": str(config),
        "PHITUNE_PROGRESS_PORT": str(port),
        "PHITUNE_PROGRESS_HOST": "127.0.0.1",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }.items():
        os.environ[name] = value
    from phitune_trainer import build, progress, train
    from phitune_trainer.batches import BatchesAhead
    from phitune_trainer.narrator import Narrator

    waits, steps, counts, answers = _Times(), _Times(), _Times(), _Times(time.thread_time)
    waits.watch(BatchesAhead, "next")
    steps.watch(Narrator, "step_done")
    counts.watch(build, "batch_flops")
    answers.watch(progress._Handler, "do_GET")
    with (config.parent / "log").open("w") as log, contextlib.redirect_stdout(log):
        train.main()
    assert len(steps.spans) == NUM_STEPS, (config.parent / "log").read_text()[-2000:]
    assert answers.spans, "nobody asked for /progress"
    began, ended = steps.spans[0][1], steps.spans[-1][1]
    return Watched(
        steps=ended - began,
        waits=waits.within(began, ended),
        telemetry=steps.within(began, ended)
        + counts.within(began, ended)
        + sum(end - start for start, end in answers.spans),
    )


@dataclass
class _Times:
    """When a function was called and came back."""

    clock: Callable[[], float] = time.perf_counter
    spans: list[tuple[float, float]] = field(default_factory=list)

    def watch(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = self.clock()
            try:
                return function(*arguments, **named)
            finally:
                self.spans.append((began, self.clock()))

        setattr(owner, name, timed)

    def within(self, began: float, ended: float) -> float:
        """Seconds of the calls that began and came back between two moments."""
        return sum(end - start for start, end in self.spans if start >= began and end <= ended)


@contextlib.contextmanager
def _polled(port: int) -> Iterator[None]:
    """Ask for progress and metrics on this port within the block, once they are there."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(_SECONDS_BETWEEN_POLLS):
            for path in ("progress", "metrics"):
                with contextlib.suppress(urllib.error.URLError, OSError):  # not there yet, or no longer
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5).read()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_workspace(folder: Path) -> Path:
    """A volume with a small model, pages to train on, and a config, whose path it is."""
    model = folder / "models" / "small"
    phitune("init-model", "--size", "tiny", "--out", str(model))
    alone(make_small, model)
    _write_pages(folder / "data" / "pages")
    config = folder / "train.yaml"
    config.write_text(_config(folder), encoding="utf-8")
    return config


def make_small(folder: Path) -> None:
    """Replace the weights of a model folder by those of a model of published proportions."""
    import torch

    from phitune_trainer.init_model import random_weight
    from phitune_trainer.model import Phi3V
    from phitune_trainer.model.save import write_shards
    from trainerbench.speedup import small_config

    config = small_config(DIVISOR)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Phi3V(config).state_dict().items()}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    sizes = {name: shape.numel() * 4 for name, shape in shapes.items()}
    write_shards(folder, sizes, lambda name: random_weight(name, shapes[name], 0))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings |= config.to_published(dtype="float32")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_pages(folder: Path) -> None:
    """Scanned pages as PNG files: grey paper with noise, and lines of dark words."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(PAGES_EACH):
        page = random.integers(245, 256, (_PAGE[1], _PAGE[0], 3), dtype=np.uint8)
        for top in range(150, 2050, 40):
            words = np.repeat(random.integers(0, 2, 140, dtype=np.uint8), 10)
            page[top : top + 18, 150:1550][:, words == 1] = 40
        Image.fromarray(page).save(folder / "images" / f"{number}.png")
        turn = {
            "images": [f"{number}.png"],
            "user": f"What is the total of page {number}?",
            "assistant": "$ 1,234.00",
        }
        rows.append({"id": str(number), "source": "made", "conversations": [turn]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _config(folder: Path) -> str:
    """What the operator makes of a job of adapters on these pages, on a processor."""
    from phitune_operator import names
    from phitune_operator.api import FineTuneJob
    from phitune_operator.defaults import resolve

    spec = {
        "task": "jsonl",
        "method": "lora",
        "model": {"path": "models/small"},
        "data": {"path": "data/pages"},
        "lora": {"rank": 8},
        "training": {
            "maxSteps": NUM_STEPS,
            "globalBatchSize": PAGES_EACH,
            "perDeviceBatchSize": PAGES_EACH,
            "warmupSteps": 0,
            "gradientCheckpointing": "never",
        },
        "resources": {"nodes": 1, "gpusPerNode": 0},
        "storage": {"claimName": "bench"},
        "checkpoint": {"everySteps": 1000},
        "evaluation": {"enabled": False},
        "export": {"merged": False},
    }
    job = FineTuneJob.model_validate(
        {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "watched"}, "spec": spec}
    )
    config = resolve(job, namespace="bench", uid="01234567-89ab").train
    run = config.run.model_copy(update={"workspace": str(folder)})
    return config.model_copy(update={"run": run}).to_yaml()
