"""What a checkpoint that is written beside the training costs the training."""

import statistics
import time
from pathlib import Path
from typing import Final

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import alone

WIDTH: Final = 2048
NUM_LAYERS: Final = 6
"""25 M weights: 0.3 GB of state."""
ROWS: Final = 64
NUM_STEPS: Final = 10
NUM_ROUNDS: Final = 5
FULL_STATE_BYTES: Final = 4_150_000_000 * 12 // 8
"""Of a rank: full fine-tuning on 8 ranks, a weight and AdamW's two averages in float32."""
INTERVAL_SECONDS: Final = 15 * 60
"""checkpoint.everyMinutes, where the user says nothing."""


def measure(work: Workplace) -> float:
    """Seconds that a save of a full-size rank adds to the steps beside it / seconds between two saves."""
    num_bytes, pairs = alone(rounds, work.folder)
    for plain, saving in pairs:
        work.say(f"{NUM_STEPS} steps: {plain:.2f} s, with a save of {num_bytes / 1e9:.2f} GB {saving:.2f} s")
    added = statistics.median(saving - plain for plain, saving in pairs)
    work.say(f"{added / num_bytes * 1e9:.2f} s for each GB of a rank's state")
    return added * FULL_STATE_BYTES / num_bytes / INTERVAL_SECONDS


def rounds(folder: Path) -> tuple[int, list[tuple[float, float]]]:
    """Bytes of the state; seconds of some steps without a save and with one, for each round."""
    import torch

    from phitune_trainer.checkpoint.saver import Saver
    from phitune_trainer.checkpoint.start import Start
    from phitune_trainer.engine.data_parallel import DataParallel
    from phitune_trainer.engine.world import alone as one_rank
    from phitune_trainer.run_layout import RunLayout

    layout = RunLayout(folder / "runs" / "bench" / "stall" / "00000001")
    layout.incarnation(1).path.mkdir(parents=True)
    model = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(NUM_LAYERS)])
    inputs = torch.randn(ROWS, WIDTH)
    with one_rank(torch.device("cpu")) as world:
        engine = DataParallel(model, world, weight_decay=0.01, precision="fp32")
        saver = Saver(layout, Start(layout.incarnation(1), None, []), world, keep=1)

        def steps(number: int | None) -> float:
            """Some steps as the loop takes them; with a number, the first is followed by a save of that."""
            began = time.perf_counter()
            for step in range(NUM_STEPS):
                if saver.pending is not None and not saver.is_busy:
                    saver.advance()
                loss = model(inputs).square().mean()
                engine.backward(loss, is_last=True)
                engine.step(1e-4, loss.detach())
                if step == 0 and number is not None:
                    saver.begin(number, engine, {})
            saver.finish(lambda _written, _total: None)  # where these steps were too few, the wait counts too
            return time.perf_counter() - began

        steps(1)  # takes the snapshot's memory
        pairs = [(steps(None), steps(number)) for number in range(2, NUM_ROUNDS + 2)]
        return sum(part.values.nbytes for part in engine.fragments()), pairs


ROW = Row(
    name="checkpoint_stall_share",
    unit="share",
    bar=Bar(sign="<=", limit=0.05),
    summary="what a save of a full-size rank adds to the steps beside it / the default interval",
    measure=measure,
)
