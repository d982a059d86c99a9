"""A pass that does not fit into a GPU's memory is halved by the next start, once; then the run ends.

There is no GPU here whose memory could run out: the model raises torch's own error for a pass of too many
samples, on one rank of two, in the middle of a step.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phitune_trainer import out_of_memory
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.endings import ending_of
from phitune_trainer.engine.world import World
from phitune_trainer.errors import FAULT, GpuTooSmall, OutOfGpuMemory
from phitune_trainer.exit_codes import DONE, USER_ERROR
from phitune_trainer.model import Batch, Phi3V
from phitune_trainer.narrator import Narrator
from phitune_trainer.out_of_memory import Fitted, ending_out_of_memory, fit
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

torch.set_num_threads(1)

TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.10 "
    "GiB is free. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF to anything else"
)
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}

Ending = tuple[int, str, str]


def run(config: TrainConfig, *, room: int) -> Callable[[World], Ending]:
    """A run in which the memory of rank 1 has room for so many samples a pass, from its second step on."""

    def rank(world: World) -> Ending:
        forward, passes = Phi3V.forward, 0

        def limited(self: Phi3V, batch: Batch) -> torch.Tensor:
            nonlocal passes
            passes += 1
            if world.rank == 1 and passes > 3 and batch.num_samples > room:
                raise torch.OutOfMemoryError(TOLD)
            return forward(self, batch)

        Phi3V.forward = limited  # type: ignore[method-assign]
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        try:
            message = run_rank(config, world, narrator, progress, StopRequest(), InProcess())
        except Exception as error:  # noqa: BLE001 - as train.py does
            return ending_of(error)
        return DONE, "Completed", message

    return rank


def losses(config: TrainConfig, incarnation: int) -> list[float]:
    metrics = RunLayout(config.run_dir).incarnation(incarnation).metrics
    return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="adapters")])
def test_the_next_start_halves_the_pass_and_takes_the_same_steps(
    method: dict[str, Any], make_config: Any, in_ranks: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def job(uid: str) -> TrainConfig:
        config: TrainConfig = make_config(
            **method,
            run={"uid": uid},
            world={"processesPerNode": 2},
            training={"maxSteps": 3, "microBatchSize": 2},
            checkpoint={"everySteps": 1},
        )
        return config

    assert [code for code, _, _ in in_ranks(2, run(job("00000001"), room=2))] == [DONE, DONE]
    expected = losses(job("00000001"), 1)

    lost, ended = in_ranks(2, run(job("00000002"), room=1))
    assert (lost[0], lost[1]) == (FAULT, "RankLost")
    assert (ended[0], ended[1]) == (FAULT, "OutOfGpuMemory")
    assert ended[2].startswith("out of memory with 2 samples a pass: CUDA out of memory. Tried to")
    assert ended[2].endswith("is free; the next start takes 1, and as many samples a step")
    assert losses(job("00000002"), 1) == expected[:1]

    capfd.readouterr()
    assert [code for code, _, _ in in_ranks(2, run(job("00000002"), room=1))] == [DONE, DONE]
    said = capfd.readouterr().out
    assert "ran out of memory with 2 samples a pass; this one takes 1, and 12 a step as before" in said
    assert "2 ranks x 6 passes x 1" in said
    again = losses(job("00000002"), 2)  # from step 1 if its checkpoint was complete by then
    assert len(again) in (2, 3)
    assert again == pytest.approx(expected[-len(again) :], rel=1e-5)


@pytest.mark.parametrize(
    ("micro_batch", "ranks", "half"), [(12, 1, 6), (6, 2, 3), (3, 2, 1), (3, 1, 1), (2, 3, 1)]
)
def test_half_a_pass_still_divides_the_step(
    micro_batch: int, ranks: int, half: int, make_config: Any
) -> None:
    config = make_config(world={"processesPerNode": ranks}, training={"microBatchSize": micro_batch})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, config, fit(layout, config)):
        raise torch.OutOfMemoryError(TOLD)
    fitted = fit(layout, config).config
    assert fitted.training.micro_batch_size == half
    assert fitted.accumulation_steps * half * ranks == 12


@pytest.mark.parametrize(
    ("training", "why", "said"),
    [
        pytest.param({"microBatchSize": 4}, "halved", "it was halved before; use GPUs with more", id="twice"),
        pytest.param({"microBatchSize": 1}, None, "with 1 sample a pass: CUDA", id="one sample"),
        pytest.param({"microBatchSize": 4, "packing": False}, None, "with 1 sample a pass", id="not packed"),
    ],
)
def test_what_cannot_be_halved_is_the_users_to_mend_and_named_with_the_numbers(
    training: dict[str, Any], why: str | None, said: str, make_config: Any
) -> None:
    config = make_config(training=training)
    layout = RunLayout(config.run_dir)
    with (
        pytest.raises(GpuTooSmall, match=said) as ended,
        ending_out_of_memory(layout, config, Fitted(config, "cpu", why)),
    ):
        raise torch.OutOfMemoryError(TOLD)
    assert "79.25 GiB" in str(ended.value)
    assert "PYTORCH_ALLOC_CONF" not in str(ended.value)
    assert ending_of(ended.value)[:2] == (USER_ERROR, "OutOfGpuMemory")
    assert not layout.micro_batch.exists()


@pytest.mark.parametrize(
    ("later", "micro_batch"),
    [
        pytest.param({}, 2, id="nothing"),
        pytest.param({"training": {"microBatchSize": 3}}, 3, id="the micro-batch"),
        pytest.param({"training": {"gradientCheckpointing": True}}, 4, id="recomputation"),
        pytest.param({"world": {"processesPerNode": 3}}, 4, id="the devices"),
    ],
)
def test_what_was_found_counts_until_a_later_start_changes_what_decides_the_memory(
    later: dict[str, Any], micro_batch: int, make_config: Any
) -> None:
    def job(**changes: Any) -> TrainConfig:
        training = {"microBatchSize": 4, **changes.pop("training", {})}
        config: TrainConfig = make_config(training=training, **changes)
        return config

    layout = RunLayout(job().run_dir)
    layout.path.mkdir(parents=True)
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, job(), fit(layout, job())):
        raise torch.OutOfMemoryError(TOLD)
    assert fit(layout, job(**later)).config.training.micro_batch_size == micro_batch


def test_what_was_found_on_one_kind_of_gpu_does_not_count_on_another(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0's kind counts on all ranks, so that the next start finds what any of them recorded."""
    config = make_config(training={"microBatchSize": 4})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    first = Fitted(config, "NVIDIA A10, 23000000000 bytes")
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, config, first):
        raise torch.OutOfMemoryError(TOLD)
    for device, micro_batch in ((first.device, 2), ("NVIDIA H100, 85000000000 bytes", 4)):
        monkeypatch.setattr(out_of_memory, "device_of", lambda _, device=device: device)
        assert fit(layout, config).config.training.micro_batch_size == micro_batch


def test_a_volume_that_takes_no_note_of_it_does_not_hide_what_ran_out(make_config: Any) -> None:
    config = make_config(training={"microBatchSize": 4})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    layout.micro_batch.mkdir()
    with (
        pytest.raises(OutOfGpuMemory, match=r"79\.25 GiB.*could not be recorded: .*Is a directory"),
        ending_out_of_memory(layout, config, Fitted(config, "cpu")),
    ):
        raise torch.OutOfMemoryError(TOLD)
    assert [path.name for path in layout.path.iterdir()] == [layout.micro_batch.name], "nothing is left aside"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut short"),
        pytest.param(lambda text: "[]", id="something else"),
        pytest.param(lambda text: text.replace('"microBatchSize": 2', '"microBatchSize": "2"'), id="words"),
        pytest.param(lambda text: text.replace('"microBatchSize": 2', '"microBatchSize": 5'), id="larger"),
    ],
)
def test_a_record_that_is_damaged_is_not_used_and_said(spoil: Callable[[str], str], make_config: Any) -> None:
    config = make_config(training={"microBatchSize": 4})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, config, fit(layout, config)):
        raise torch.OutOfMemoryError(TOLD)
    layout.micro_batch.write_text(spoil(layout.micro_batch.read_text()))
    fitted = fit(layout, config)
    assert (fitted.config, fitted.why) == (config, None)
    assert fitted.trouble is not None
    assert fitted.trouble.startswith(f"{layout.micro_batch} is damaged (")
