"""A pass that does not fit into a GPU's memory is halved by the next start, once; then activations are
recomputed; then the run ends.

There is no GPU here whose memory could run out: the model raises torch's own error for a pass of too many
samples, or one that keeps its activations, on one rank of two, in the middle of a step.
"""

import json
import re
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
from phitune_trainer.same_run import keep_config
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

torch.set_num_threads(1)

TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.10 "
    "GiB is free. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF to anything else"
)
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}

Ending = tuple[int, str, str]


def run(config: TrainConfig, *, room: int, room_if_kept: int | None = None) -> Callable[[World], Ending]:
    """A run in which the memory of rank 1 has room for so many samples a pass, from its second step on.

    `room_if_kept`: for so many whose activations are kept, if that is another number.
    """

    def rank(world: World) -> Ending:
        forward, passes = Phi3V.forward, 0

        def limited(self: Phi3V, batch: Batch) -> torch.Tensor:
            nonlocal passes
            passes += 1
            most = room if room_if_kept is None or self.model.gradient_checkpointing else room_if_kept
            if world.rank == 1 and passes > config.accumulation_steps and batch.num_samples > most:
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


def on_two_ranks(make_config: Any, method: dict[str, Any], uid: str, *, micro_batch: int) -> TrainConfig:
    """Three steps, each of them saved."""
    config: TrainConfig = make_config(
        **method,
        run={"uid": uid},
        world={"processesPerNode": 2},
        training={"maxSteps": 3, "microBatchSize": micro_batch},
        checkpoint={"everySteps": 1},
    )
    return config


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="adapters")])
def test_the_next_start_halves_the_pass_and_takes_the_same_steps(
    method: dict[str, Any], make_config: Any, in_ranks: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def job(uid: str) -> TrainConfig:
        return on_two_ranks(make_config, method, uid, micro_batch=2)

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


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="adapters")])
def test_where_one_sample_does_not_fit_the_next_start_recomputes_and_takes_the_same_steps(
    method: dict[str, Any], make_config: Any, in_ranks: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def job(uid: str) -> TrainConfig:
        return on_two_ranks(make_config, method, uid, micro_batch=1)

    assert [code for code, _, _ in in_ranks(2, run(job("00000001"), room=1))] == [DONE, DONE]
    expected = losses(job("00000001"), 1)

    lost, ended = in_ranks(2, run(job("00000002"), room=1, room_if_kept=0))
    assert (lost[0], lost[1]) == (FAULT, "RankLost")
    assert (ended[0], ended[1]) == (FAULT, "OutOfGpuMemory")
    assert ended[2].startswith("out of memory with 1 sample a pass: CUDA out of memory. Tried to")
    assert ended[2].endswith("is free; the next start recomputes activations")

    capfd.readouterr()
    again = in_ranks(2, run(job("00000002"), room=1, room_if_kept=0))
    assert [code for code, _, _ in again] == [DONE, DONE]
    said = " ".join(capfd.readouterr().out.split())
    assert "activations recomputed: an earlier start ran out of memory data" in said
    assert "ran out of memory with 1 sample a pass; this one recomputes activations" in said
    resumed = losses(job("00000002"), 2)
    assert resumed == pytest.approx(expected[-len(resumed) :], rel=1e-5)


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


NEVER = {"gradientCheckpointing": False, "gradientCheckpointingForbidden": True}
ALWAYS = {"gradientCheckpointing": True}


@pytest.mark.parametrize(
    ("training", "starts"),
    [
        pytest.param(
            {"microBatchSize": 4}, [(4, False), (2, False), (2, True)], id="halved, then recomputed"
        ),
        pytest.param({"microBatchSize": 1}, [(1, False), (1, True)], id="one sample"),
        pytest.param({"microBatchSize": 4, "packing": False}, [(4, False), (4, True)], id="not packed"),
        pytest.param({"microBatchSize": 4, **ALWAYS}, [(4, True), (2, True)], id="recomputed from the start"),
        pytest.param({"microBatchSize": 4, **NEVER}, [(4, False), (2, False)], id="never recomputed"),
        pytest.param({"microBatchSize": 1, **NEVER}, [(1, False)], id="never, one sample"),
        pytest.param({"microBatchSize": 1, **ALWAYS}, [(1, True)], id="always, one sample"),
    ],
)
def test_each_start_needs_less_until_nothing_is_left_to_try(
    training: dict[str, Any], starts: list[tuple[int, bool]], make_config: Any
) -> None:
    """The run then ends as one that the user must mend, with the numbers."""
    config = make_config(training=training)
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    taken, ended = [], None
    while not isinstance(ended, GpuTooSmall):
        fitted = fit(layout, config)
        now = fitted.config.training
        taken.append((now.micro_batch_size, now.gradient_checkpointing))
        with (
            pytest.raises((OutOfGpuMemory, GpuTooSmall)) as raised,
            ending_out_of_memory(layout, config, fitted),
        ):
            raise torch.OutOfMemoryError(TOLD)
        ended = raised.value
    assert taken == starts
    assert ending_of(ended)[:2] == (USER_ERROR, "OutOfGpuMemory")
    assert "79.25 GiB" in str(ended)
    assert "PYTORCH_ALLOC_CONF" not in str(ended)
    assert layout.micro_batch.exists() == (len(starts) > 1)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        pytest.param(
            {}, "1 sample a pass: CUDA.*; activations are recomputed; use GPUs with more", id="auto"
        ),
        pytest.param(
            NEVER, "is free; use GPUs with more memory, training.gradientCheckpointing: always, a", id="never"
        ),
    ],
)
def test_a_run_that_ends_says_what_was_tried_and_what_would_help(
    training: dict[str, Any], said: str, make_config: Any
) -> None:
    config = make_config(training={"microBatchSize": 1, **training})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    for ending in [OutOfGpuMemory] * (not training) + [GpuTooSmall]:
        with pytest.raises(ending) as ended, ending_out_of_memory(layout, config, fit(layout, config)):
            raise torch.OutOfMemoryError(TOLD)
    assert re.search(said, str(ended.value))


def test_a_user_who_forbids_recomputation_later_is_obeyed(make_config: Any) -> None:
    config = make_config(training={"microBatchSize": 1})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, config, fit(layout, config)):
        raise torch.OutOfMemoryError(TOLD)
    later = make_config(training={"microBatchSize": 1, **NEVER})
    for start in (config, later):  # the run goes on, though its config has changed in that
        keep_config(layout, start)
    assert fit(layout, later) == Fitted(later, "cpu")


def test_a_record_of_a_release_that_only_halved_still_counts(make_config: Any) -> None:
    """And one that such a release could not follow has another version, which it takes no notice of."""
    config = make_config(training={"microBatchSize": 4})
    layout = RunLayout(config.run_dir)
    layout.path.mkdir(parents=True)
    world = {"nodes": 1, "processesPerNode": 1, "device": "cpu"}
    asked = {"world": world, "device": "cpu", "microBatchSize": 4, "packing": True, "attention": "sdpa"}
    asked |= {"gradientCheckpointing": False, "offloadOptimizer": False}
    layout.micro_batch.write_text(
        json.dumps({"version": 1, "asked": asked, "microBatchSize": 2, "because": ""})
    )
    fitted = fit(layout, config)
    assert (fitted.config.training.micro_batch_size, fitted.recomputes) == (2, False)
    with pytest.raises(OutOfGpuMemory), ending_out_of_memory(layout, config, fitted):
        raise torch.OutOfMemoryError(TOLD)
    record = json.loads(layout.micro_batch.read_text())
    assert record["because"].startswith("CUDA out of memory.")
    del record["because"]
    assert record == {"version": 2, "asked": asked, "microBatchSize": 2, "recompute": True}


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
        pytest.param(lambda text: text.replace('"because"', '"recompute": "no", "because"'), id="no flag"),
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
