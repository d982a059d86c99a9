"""Steps of the full-size model on one GPU, on pages like DocVQA's; beside them those of the recipe's way."""

import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from phitune_trainer.batch_flops import amounts_in
from phitune_trainer.config import Lora
from phitune_trainer.engine import Engine
from phitune_trainer.engine.data_parallel import DataParallel
from phitune_trainer.engine.world import World, join_world
from phitune_trainer.flops import Trained, model_flops
from phitune_trainer.memory import Choice, Content, Setup, choose
from phitune_trainer.methods.full import train_all
from phitune_trainer.methods.lora import add_adapters
from phitune_trainer.model import Phi3V, Sample, collate, load_model
from phitune_trainer.model.attention import sdpa
from phitune_trainer.model.flash import why_not
from phitune_trainer.model_config import full_config
from phitune_trainer.peak_flops import peak_flops
from trainerbench.docvqa import one_question, pages
from trainerbench.speedup import our_way, recipes_way, rounds

FULL = full_config()
RANK = 64
BATCHES = 4
"""Times the pages of docvqa.py in a step."""
ROUNDS = 3
PORT = "29511"


@dataclass(frozen=True)
class Measured:
    """What a GPU did."""

    seconds: float
    """Of our step, the median."""
    recipe: float | None
    """Of the recipe's way; None where it was not asked for."""
    mfu: float | None
    """None where the GPU's peak is not known."""
    used: int
    """Bytes of the GPU's memory at the peak: torch's, and what CUDA takes beside it."""
    reserved: int
    """Bytes that torch's allocator held at the peak."""
    choice: Choice


def measure_steps(folder: Path, method: str, *, cap: int | None, with_recipe: bool) -> Measured:
    """Train `method` (full, frozen, lora or qlora) with what the memory model chooses for `cap` bytes.

    `cap` None: the memory that the GPU has. Torch may take no more than the cap, or fails.
    """
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
    world = join_world("cuda")
    total = torch.cuda.get_device_properties(world.device).total_memory
    if cap is not None:
        torch.cuda.set_per_process_memory_fraction(cap / total, world.device)
    samples = [one_question(page) for seed in range(BATCHES) for page in pages(FULL, seed=seed)]
    choice = choose(_setup(method, samples, world), cap or total, rank_batch=len(samples))
    model, engine = _prepare(folder, choice, world)
    size = choice.setup.micro_batch
    passes = [samples[start : start + size] for start in range(0, len(samples), size)]
    ways = [our_way(model, passes)]
    if with_recipe:
        ways.append(recipes_way(model, samples, kernel=sdpa))
    torch.cuda.reset_peak_memory_stats(world.device)
    ours = rounds(engine, ways[:1], world.device, count=ROUNDS)
    reserved = torch.cuda.max_memory_reserved(world.device)
    free, _ = torch.cuda.mem_get_info(world.device)
    beside = total - free - torch.cuda.memory_reserved(world.device)
    both = rounds(engine, ways, world.device, count=ROUNDS) if with_recipe else ours
    seconds = statistics.median(times[0] for times in both)
    amounts = amounts_in(collate(samples), FULL)
    peak = peak_flops(torch.cuda.get_device_name(world.device), "bf16")
    return Measured(
        seconds=seconds,
        recipe=statistics.median(times[1] for times in both) if with_recipe else None,
        mfu=None if peak is None else model_flops(FULL, _trained(method), amounts) / seconds / peak,
        used=reserved + beside,
        reserved=reserved,
        choice=choice,
    )


def _trained(method: str) -> Trained:
    if method in ("full", "frozen"):
        return Trained(method="full", freeze_vision=method == "frozen")
    return Trained(method="qlora" if method == "qlora" else "lora", lora_rank=RANK, lora_vision=True)


def _setup(method: str, samples: list[Sample], world: World) -> Setup:
    trained = _trained(method)
    largest = amounts_in(collate([max(samples, key=lambda sample: sample.num_tokens)]), FULL)
    reason = why_not(world.device, torch.bfloat16)
    return Setup(
        model=FULL,
        method=trained.method,
        freeze_vision=trained.freeze_vision,
        lora_rank=trained.lora_rank,
        lora_vision=trained.lora_vision,
        attention="sdpa" if reason else "flash",
        content=Content(
            tokens=largest.tokens,
            crops=largest.crops,
            picture_tokens=largest.picture_tokens,
            label_tokens=largest.label_tokens,
        ),
    )


def _prepare(folder: Path, choice: Choice, world: World) -> tuple[Phi3V, Engine]:
    """The model with its method and engine on the GPU, as a run builds them."""
    setup = choice.setup
    model = load_model(folder, dtype=torch.bfloat16, attention=setup.attention)
    model.set_gradient_checkpointing(setup.recompute)
    if setup.method == "full":
        from phitune_trainer.engine.zero2 import Zero2

        train_all(model, freeze_vision=setup.freeze_vision)
        model.to(world.device).train()
        return model, Zero2(model, world, weight_decay=0.01, precision="bf16", offload_optimizer=False)
    if setup.method == "qlora":
        from phitune_trainer.methods.qlora import quantize

        quantize(model)
    add_adapters(model, Lora(rank=RANK, alpha=2.0 * RANK, dropout=0.0, vision=True), seed=0)
    model.to(world.device).train()
    return model, DataParallel(model, world, weight_decay=0.01, precision="bf16")
