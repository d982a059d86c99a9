"""What a run prints and keeps of its steps: lines, metrics.jsonl, TensorBoard, and no terminal escapes."""

import json
import os
import pty
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from harness.train_configs import train_config
from phitune_cli.progress_bar import can_draw, draw
from phitune_trainer.logs import Step, StepLog, say, step_line
from phitune_trainer.narrator import Narrator
from phitune_trainer.plain_text import inert
from phitune_trainer.progress import Progress
from phitune_trainer.rank_output import RankOutput
from phitune_trainer.run_layout import IncarnationFolder
from phitune_trainer.score_words import first_weights
from phitune_trainer.step_files import StepFiles


@pytest.fixture
def folder(tmp_path: Path) -> IncarnationFolder:
    (tmp_path / "0001").mkdir()
    return IncarnationFolder(tmp_path / "0001")


def step_log(folder: IncarnationFolder, progress: Progress, *, peak_flops: float | None = None) -> StepLog:
    return StepLog(
        progress,
        StepFiles(folder, say),
        total_steps=4,
        samples_per_epoch=8,
        device=torch.device("cpu"),
        peak_flops=peak_flops,
    )


def step(number: int, *, loss: float = 0.5) -> Step:
    return Step(
        step=number,
        loss=loss,
        grad_norm=1.5,
        learning_rate=1e-3,
        num_samples=4,
        num_images=8,
        num_tokens=1600,
        num_flops=10**9,
    )


def events(folder: IncarnationFolder) -> list[Event]:
    """The events of the TensorBoard files, read by the format's own rules."""
    found = []
    for path in sorted(folder.tensorboard.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            data = content[12 : 12 + length]
            checksums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length :][:4])
            assert checksums == (masked_crc32c(content[:8]), masked_crc32c(data))
            found.append(Event.FromString(data))
            content = content[16 + length :]
    return found


def test_each_step_is_a_line_of_metrics_jsonl(folder: IncarnationFolder) -> None:
    log = step_log(folder, Progress(attempt=1, total_steps=4), peak_flops=1e12)
    began = time.time()
    for number in (1, 2, 3, 4):
        time.sleep(0.02)
        log.record(step(number, loss=float("nan") if number == 2 else 0.5))
    lines = folder.metrics.read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in rows] == [0.5, None, 0.5, 0.5]
    last = rows[-1]
    assert began - 1 < last["time"] < time.time() + 1
    assert last["imagesPerSecond"] * last["seconds"] == pytest.approx(8, rel=0.05)
    assert last["mfu"] * last["seconds"] * 1e12 == pytest.approx(1e9, rel=0.05)
    assert last["memoryBytes"] > 10 * 2**20
    assert {"gradNorm", "learningRate", "samples", "images", "tokens", "tokensPerSecond"} <= last.keys()


def test_the_share_of_the_time_that_goes_into_waiting_for_samples_is_told(folder: IncarnationFolder) -> None:
    progress = Progress(attempt=1, total_steps=4)
    log = step_log(folder, progress)
    log.record(step(1))
    time.sleep(0.05)
    log.record(replace(step(2), data_seconds=0.02))
    log.flush()
    last = json.loads(folder.metrics.read_text().splitlines()[-1])
    assert last["dataSeconds"] == 0.02
    assert progress.snapshot()["dataWait"] == pytest.approx(0.02 / last["seconds"], rel=0.05)
    assert "phitune_data_wait 0." in progress.metrics()


def test_tensorboard_gets_the_steps_and_the_scores(folder: IncarnationFolder, tmp_path: Path) -> None:
    narrator = Narrator(0, tmp_path, Progress(attempt=1, total_steps=4))
    log = narrator.steps = step_log(folder, Progress(attempt=1, total_steps=4))
    for number in (1, 2, 3, 4):
        log.record(step(number, loss=1 / number))
    narrator.evaluating(4)
    detail = {"value": 0.5, "low": 0.25, "high": 0.75}
    metrics = {"metric": "accuracy", "samples": 4, "step": 4, "baseline": None, "notes": [], **detail}
    narrator.evaluated({**metrics, "details": {"consistency": detail}})
    first, *rest = events(folder)
    assert first.file_version == "brain.Event:2"
    scalars = [(event.step, value.tag, value.simple_value) for event in rest for value in event.summary.value]
    losses = [(at, value) for at, tag, value in scalars if tag == "train/loss"]
    assert losses == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    tags = {tag for _, tag, _ in scalars}
    assert {"speed/imagesPerSecond", "memory/bytes", "train/learningRate", "train/gradNorm"} <= tags
    assert "speed/mfu" not in tags, "what is not known is left out"
    assert {"score/accuracy", "score/accuracy/low", "score/consistency/high"} <= tags


def test_after_trouble_with_the_volume_tensorboard_goes_on_in_a_new_file(
    folder: IncarnationFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log = step_log(folder, Progress(attempt=1, total_steps=4))
    folder.tensorboard.write_text("in the way")
    log.record(step(1))
    folder.tensorboard.unlink()
    log.record(step(4))
    assert [event.step for event in events(folder)] == [0, 4]
    assert capsys.readouterr().out.count("steps are missing") == 1
    assert len(folder.metrics.read_text().splitlines()) == 2


def test_what_happens_off_the_clock_is_in_no_steps_time(folder: IncarnationFolder, tmp_path: Path) -> None:
    narrator = Narrator(0, tmp_path, Progress(attempt=1, total_steps=4))
    log = narrator.steps = step_log(folder, Progress(attempt=1, total_steps=4))
    log.record(step(1))
    with narrator.off_the_clock():
        time.sleep(1.5)
    log.record(step(4))
    last = json.loads(folder.metrics.read_text().splitlines()[-1])
    assert last["seconds"] < 1.5


@pytest.mark.parametrize(
    ("resume_from", "words"),
    [
        pytest.param(None, "with the base model", id="from the base model"),
        pytest.param("runs/a/b/00000001", "with the weights it starts with", id="from another run"),
    ],
)
def test_what_is_scored_before_training_is_called_what_it_is(
    resume_from: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train_config(tmp_path, {"resumeFrom": resume_from})
    narrator = Narrator(0, tmp_path, Progress(attempt=1))
    narrator.evaluating(0, first_weights=first_weights(config.resume_from))
    assert f"scoring held-out samples {words}" in capsys.readouterr().out


def test_the_line_of_a_step_has_what_people_ask() -> None:
    progress = Progress(attempt=1, total_steps=1000)
    numbers = {"loss": 0.25, "learningRate": 2e-5, "imagesPerSecond": 12.34, "tokensPerSecond": 12345.6}
    progress.update(step=20, epoch=0.5, memoryBytes=3 * 2**29, etaSeconds=3700, mfu=0.413, **numbers)
    assert step_line(progress.snapshot()) == (
        "step   20/1000  epoch 0.50  loss 0.2500  lr 2.00e-05  12.3 images/s  12,346 tokens/s  MFU 41.3%  "
        "memory 1.5 GiB  ETA 1h01m"
    )
    progress.update(mfu=None, loss=float("nan"))
    line = step_line(progress.snapshot())
    assert "MFU" not in line
    assert "loss not finite" in line
    assert "phitune_memory_bytes 1610612736" in progress.metrics()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07", id="escapes"),
        pytest.param("\x9b31m", r"\x9b31m", id="escapes of one byte"),
        pytest.param("10%\r20%", r"10%\r20%", id="overwriting"),
        pytest.param("a\u202eb\u2066", r"a\u202eb\u2066", id="writing turned round"),
        pytest.param("a\u2028b\x85", r"a\u2028b\x85", id="line ends of Unicode"),
        pytest.param("\udcff", r"\udcff", id="a file name that is not UTF-8"),
        pytest.param("tab\tline\n你好 é ✓", "tab\tline\n你好 é ✓", id="text"),
    ],
)
def test_what_a_terminal_would_act_upon_is_spelled_out(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inert(text) == shown
    assert inert(shown) == shown
    say(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_nothing_that_a_rank_prints_reaches_a_terminal_or_its_log_as_an_escape(tmp_path: Path) -> None:
    lines: list[str] = []
    code = r"import sys; sys.stdout.buffer.write(b'\x1b[31mred\xff\r\n' + b'\x1b]0;t\x07\n')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None
        output = RankOutput(rank.stdout, find_log=lambda: str(tmp_path), rank=3, show=lines.append)
        output.finish()
    expected = ["\\x1b[31mred\ufffd", "\\x1b]0;t\\x07"]
    assert lines == expected
    assert output.last_lines() == expected
    assert (tmp_path / "rank-3.log").read_text().splitlines() == expected


def test_while_it_scores_the_bar_leaves_out_the_numbers_of_the_steps() -> None:
    progress = {"step": 30, "totalSteps": 60, "percent": 50.0, "loss": 0.25, "imagesPerSecond": 9.0}
    numbers = {**progress, "memoryBytes": 2**30, "etaSeconds": 60}
    assert "loss" in draw({**numbers, "state": "training"}, 79)
    assert "loss" not in draw({**numbers, "state": "evaluating"}, 79)
    assert "30/60" in draw({**numbers, "state": "evaluating"}, 79)


BAR = """
import time
from phitune_cli.progress_bar import ProgressBar, can_draw
assert can_draw()
progress = {"state": "training", "step": 3, "totalSteps": 9, "percent": 33.3, "loss": 0.5,
            "imagesPerSecond": 2.0, "memoryBytes": 2**30, "etaSeconds": 9}
bar = ProgressBar(lambda: progress)
with bar.drawing():
    time.sleep(0.6)
    bar.show("step 3/9  loss 0.5")
    bar.show("step  4/19  loss 0.5")
    bar.show("step 4 is left out: it overflows in fp16")
    bar.show("saved \\x1b[31m somewhere")
    time.sleep(0.4)
print("done")
"""


def on_a_terminal(code: str, **variables: str) -> str:
    """What a program writes to a terminal of 80 columns."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **variables}
    with subprocess.Popen([sys.executable, "-c", code], stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        written = b""
        try:
            while piece := os.read(ours, 4096):
                written += piece
        except OSError:  # how a terminal tells that nobody writes to it any more
            pass
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_the_bar_is_one_line_that_leaves_nothing_behind(variables: dict[str, str]) -> None:
    screen = on_a_terminal(BAR, **variables)
    assert "\x1b[31m" not in screen
    assert "3/9  loss 0.5000  2 images/s  1.0 GiB  ETA 9s" in screen
    # What is left on the screen: of each line, what follows the last time it was cleared.
    left = [line.rsplit("\r\x1b[K", 1)[-1] for line in screen.replace("\r\n", "\n").split("\n")]
    assert left == [
        "step 4 is left out: it overflows in fp16",
        r"saved \x1b[31m somewhere",
        "done",
        "",
    ]
    assert max(len(part) for part in screen.split("\r\x1b[K")) <= 80
    assert set(screen.replace("\x1b[K", "")) & {"\x1b"} == set(), "no colours, no other escapes"


def test_no_bar_where_lines_cannot_be_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_draw(), "pytest has taken standard output"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert can_draw()
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw()
