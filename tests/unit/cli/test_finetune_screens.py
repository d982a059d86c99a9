"""What `kubectl finetune` shows of jobs: on 80 columns, and nothing that acts on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from harness.jobs import finetunejob, merged
from phitune_cli.finetune.status_screen import is_over, screen, table
from phitune_cli.finetune.top_cmd import table as top_table

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)

TRAINING: dict[str, Any] = {
    "phase": "Running",
    "attempt": 2,
    "restarts": 1,
    "restartsCounted": 1,
    "progress": {
        "state": "training",
        "step": 160,
        "totalSteps": 400,
        "percent": 40.0,
        "learningRate": 4e-5,
        "tokensPerSecond": 12423.0,
        "updatedAt": "2026-11-21T12:29:57Z",
    },
    "lastCheckpoint": {"step": 150, "path": "runs/a", "time": "2026-11-21T12:28:00Z"},
    "evaluation": {"metric": "anls", "value": 0.9, "baseline": 0.5, "samples": 300, "step": 100},
    "summary": {
        "gpus": "2x8",
        "progress": "160/400 (40%)",
        "eta": "4m10s",
        "loss": "0.3127",
        "score": "0.900",
        "imagesPerSecond": "31.7",
        "mfu": "51%",
    },
    "placement": {"product": "NVIDIA-A100-SXM4-80GB", "precision": "bf16"},
}


def job(name: str = "receipts", **status: Any) -> dict[str, Any]:
    """A job as the API server has it."""
    made = finetunejob(name, {"method": "lora", "runPolicy": {"restartLimit": 3}})
    times = {"namespace": "team-a", "uid": "22b63cc4-0cea", "creationTimestamp": "2026-11-21T12:17:30Z"}
    return merged(made, {"metadata": times, "status": status})


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def test_a_job_that_trains_says_all_that_a_person_asks() -> None:
    assert screen(job(**TRAINING), NOW) == (
        "receipts in team-a                                            Running, attempt 2\n"
        "jsonl, lora, 2x8, NVIDIA-A100-SXM4-80GB, bf16                         age 12m30s\n"
        "\n"
        "  step        [################........................]  160/400 (40%)\n"
        "  state       training, 4m10s left, heard 3s ago\n"
        "  loss        0.3127, learning rate 4.00e-05\n"
        "  speed       31.7 images/s, 12,423 tokens/s, MFU 51%\n"
        "  score       anls 0.900 of 300 samples at step 100, before training 0.500\n"
        "  saved       step 150, 2m00s ago\n"
        "  restarts    1, of which 1 of at most 3 count"
    )


def test_a_job_without_gpus_is_said_to_run_on_cpu_once() -> None:
    status = {"summary": {"gpus": "2x1 CPU"}, "placement": {"product": "CPU", "precision": "fp32"}}
    assert "\njsonl, lora, 2x1 CPU, fp32  " in screen(job(phase="Running", **status), NOW)
    del status["summary"]
    assert "\njsonl, lora, CPU, fp32  " in screen(job(phase="Pending", **status), NOW)


def test_a_job_that_cannot_start_says_why_in_the_operators_words() -> None:
    message = "no nodes have NVIDIA-H100; this cluster has NVIDIA-A100-SXM4-80GB: change spec.resources " * 2
    waiting = job(phase="Pending", conditions=[condition("Accepted", "False", "NoSuchGPU", message)])
    shown = screen(waiting, NOW)
    assert "Accepted is False, NoSuchGPU: no nodes have NVIDIA-H100; this cluster has" in shown
    assert not is_over(waiting)


def test_a_job_that_failed_shows_where_and_its_last_lines() -> None:
    failure = {
        "pod": "receipts-1-master-0",
        "node": "gpu-7",
        "exitCode": 2,
        "reason": "UserError",
        "message": "train.jsonl:7: picture 'a.png': not found",
        "lastLines": [f"line {number}" for number in range(9)],
    }
    shown = screen(job(phase="Failed", failure=failure), NOW)
    assert "failed: UserError: train.jsonl:7: picture 'a.png': not found" in shown
    assert "  receipts-1-master-0, gpu-7, exit code 2" in shown
    assert "line 8" in shown
    assert "line 3" not in shown


def test_a_job_that_is_done_says_how_to_get_its_results() -> None:
    done = job(
        phase="Succeeded", artifacts={"merged": "runs/x/export/merged", "report": "runs/x/report.html"}
    )
    assert is_over(done)
    assert "kubectl finetune download receipts -n team-a" in screen(done, NOW)
    assert "heard" not in screen(done, NOW)


def test_a_job_that_nobody_has_looked_at_yet_is_pending() -> None:
    fresh = job()
    del fresh["status"]
    assert "Pending" in screen(fresh, NOW)
    assert "Pending" in table([fresh], NOW)


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x9b31m", "\u202e", "\r"])
def test_no_screen_is_wider_than_80_columns_or_acts_on_the_terminal(evil: str) -> None:
    long = f"{evil}word " * 90
    failure = {"pod": long, "reason": evil, "message": long, "lastLines": [long]}
    conditions = [condition("Running", "False", evil, long)]
    texts = {"gpus": long, "progress": long, "loss": long, "eta": long}
    bad = job(
        phase="Running", failure=failure, conditions=conditions, summary=texts, placement={"product": long}
    )
    shown = [screen(bad, NOW), table([bad, job()], NOW), top_table({long: {"state": long, "step": long}})]
    for text in shown:
        assert evil not in text
        assert max(map(len, text.splitlines())) <= 80


def test_the_longest_names_leave_room_for_what_is_asked_of_the_jobs() -> None:
    names = [f"receipts-of-the-whole-year-{year}-lora-r16" for year in (2025, 2026)]
    assert {len(name) for name in names} == {40}
    told = {"state": "training", "step": 160, "totalSteps": 400, "imagesPerSecond": 31.7}
    told |= {"memoryBytes": 71 * 2**30, "tokensPerSecond": 12423.0, "mfu": 0.51, "dataWait": 0.031}
    lines = top_table(dict.fromkeys(names, told)).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.endswith("71.0 GiB  3.1%") for line in lines[1:])
    lines = table([job(name, **TRAINING) for name in names], NOW).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[0] == "receipts-of-...25-lora-r16"
    assert all(line.endswith("12m30s") for line in lines[1:])


def test_all_jobs_are_in_a_table_the_newest_first() -> None:
    newer = merged(job("newer"), {"metadata": {"creationTimestamp": "2026-11-21T12:29:50Z"}})
    lines = table([job(**TRAINING), newer], NOW).splitlines()
    assert lines[0].split() == ["JOB", "PHASE", "PROGRESS", "ETA", "LOSS", "SCORE", "AGE"]
    assert lines[1].split() == ["newer", "Pending", "10s"]
    assert lines[2].split() == [
        "receipts",
        "Running",
        "160/400",
        "(40%)",
        "4m10s",
        "0.3127",
        "0.900",
        "12m30s",
    ]


def test_top_shows_a_dash_for_what_is_not_known() -> None:
    told = {"state": "training", "step": 5, "totalSteps": 9, "imagesPerSecond": 31.7, "memoryBytes": 2**30}
    told |= {"tokensPerSecond": 1234.5, "mfu": None, "dataWait": 0.031}
    line = top_table({"receipts": told}).splitlines()[1]
    assert line.split() == ["receipts", "training", "5/9", "31.7", "1,234", "-", "1.0", "GiB", "3.1%"]
