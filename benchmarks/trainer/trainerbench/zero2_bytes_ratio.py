"""Whether ZeRO-2 sends what it must and no more, between ranks that really talk to each other."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import side_by_side
from trainerbench.commands import phitune
from trainerbench.sent_bytes import sent_bytes

if TYPE_CHECKING:
    from phitune_trainer.model import Batch, Phi3V

NUM_RANKS = 4
QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Rank:
    """One of the processes."""

    number: int
    folder: Path
    """Where the model lies, and where the ranks meet."""


def measure(work: Workplace) -> float:
    """The most that a rank sent in a step of one pass / (ranks - 1) / ranks of gradients and of weights."""
    phitune("init-model", "--size", "tiny", "--out", str(work.folder / "model"))
    work.say(f"one optimizer step in bf16 on {NUM_RANKS} ranks")
    found = side_by_side(step_of, *(Rank(number, work.folder) for number in range(NUM_RANKS)))
    sent, formula = max(sent for sent, _ in found), found[0][1]
    work.say(f"{sent:,} bytes sent by the rank that sent most; the formula says {formula:,.0f}")
    return sent / formula


def step_of(rank: Rank) -> tuple[int, float]:
    """The bytes that this rank sends in its second step, and what they are to be."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo", LOCAL_RANK=str(rank.number))
    import torch
    import torch.distributed as dist

    from phitune_trainer.engine.world import World
    from phitune_trainer.engine.zero2 import Zero2
    from phitune_trainer.methods.full import train_all
    from phitune_trainer.model.load import load_model

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rank.folder}/meeting", rank=rank.number, world_size=NUM_RANKS
    )
    model = load_model(rank.folder / "model", dtype=torch.bfloat16, attention="sdpa").train()
    train_all(model, freeze_vision=False)
    world = World(rank.number, NUM_RANKS, torch.device("cpu"))
    engine = Zero2(model, world, weight_decay=0.01, precision="bf16", offload_optimizer=False)
    before = after = 0
    for _ in range(2):
        before = _when_quiet()
        loss = model(_batch(model, rank.number))
        engine.backward(loss, is_last=True)
        engine.step(1e-5, loss.detach())
        after = _when_quiet()
    trained = sum(parameter.nbytes for parameter in engine.parameters.values())
    dist.destroy_process_group()
    return after - before, (NUM_RANKS - 1) / NUM_RANKS * 2 * trained


def _batch(model: Phi3V, number: int) -> Batch:
    """A picture and a few words, others on every rank."""
    import torch

    from phitune_trainer.model import Sample, collate

    vision = model.model_config.vision
    picture = torch.full((vision.image_size, vision.image_size, 3), 40 * number, dtype=torch.uint8)
    ids = torch.tensor([1, *[-1] * vision.image_tokens(1, 1), 5 + number, 6, 7])
    return collate([Sample(input_ids=ids, labels=ids.where(ids > 4, -100), pictures=(picture,))])


def _when_quiet() -> int:
    """What this rank has sent, counted while no rank sends."""
    import torch.distributed as dist

    dist.barrier()
    time.sleep(QUIET_SECONDS)
    sent = sent_bytes()
    time.sleep(QUIET_SECONDS)
    return sent


ROW = Row(
    name="zero2_bytes_ratio",
    unit="times",
    bar=Bar(sign="<=", limit=1.05),
    summary=f"bytes sent by a rank and step, {NUM_RANKS} ranks / ZeRO-2's formula",
    measure=measure,
)
