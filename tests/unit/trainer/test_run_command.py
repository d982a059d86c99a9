"""`phitune run`: a job for a cluster, carried out on one machine."""

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import canaries
from phitune_cli.main import main
from phitune_cli.one_job import read_one_job
from phitune_cli.progress_bar import draw
from phitune_cli.run_cmd import alone_on_this_machine, choose_run
from phitune_cli.this_machine import Machine, check_host_memory, localize
from phitune_operator.api import FineTuneJob
from phitune_trainer.errors import UserError
from phitune_trainer.memory import GPUS

TWO_CPUS = Machine(cpus=2)
V100 = Machine(cpus=16, gpus=3, gpu=GPUS["V100-32GB"], no_flash="it needs compute capability 8.0")
SIX_V100 = replace(V100, gpus=6)
H100 = Machine(cpus=16, gpus=4, gpu=GPUS["H100"])


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "colors"},
        "spec": {
            "model": {"path": "models/tiny"},
            "task": "jsonl",
            "data": {"path": "data/colors", "eval": "eval.jsonl"},
            "method": "full",
            "training": {"maxSteps": 3, "globalBatchSize": 12, "perDeviceBatchSize": 3},
            "resources": {"nodes": 2, "gpusPerNode": 0},
            "storage": {"size": "1Gi"},
            **spec,
        },
    }


def write(path: Path, *documents: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


@pytest.fixture
def job(tmp_path: Path) -> FineTuneJob:
    return read_one_job(write(tmp_path / "job.yaml", document()))


@pytest.mark.parametrize(
    ("machine", "device", "ranks", "micro_batch", "precision"),
    [
        pytest.param(Machine(cpus=1), "cpu", 1, 3, "fp32", id="one CPU"),
        pytest.param(TWO_CPUS, "cpu", 2, 3, "fp32", id="two CPUs"),
        pytest.param(Machine(cpus=64), "cpu", 2, 3, "fp32", id="no more processes than the job asks for"),
        pytest.param(V100, "cuda", 3, 2, "fp16", id="three V100: a smaller pass divides"),
        pytest.param(H100, "cuda", 4, 3, "bf16", id="four H100"),
    ],
)
def test_the_global_batch_stays_and_the_rest_follows_the_machine(
    job: FineTuneJob, machine: Machine, device: str, ranks: int, micro_batch: int, precision: str
) -> None:
    local = localize(job, machine, namespace="local", uid="0001", workspace="/somewhere")
    assert (local.train.world.device, local.train.world.size) == (device, ranks)
    assert local.train.training.global_batch_size == 12
    assert local.train.training.micro_batch_size == micro_batch
    assert local.train.training.precision == precision
    assert local.train.run_dir == Path("/somewhere/runs/local/colors/0001")
    assert "global batch of 12" in local.notes[0]


def test_attention_and_passes_follow_the_gpu_unless_the_job_says_them(tmp_path: Path) -> None:
    training = {"maxSteps": 3, "globalBatchSize": 12}
    job = read_one_job(write(tmp_path / "job.yaml", document(training=training, model=None)))
    new, old = (localize(job, one, namespace="a", uid="1", workspace="/w") for one in (H100, SIX_V100))
    assert (new.train.training.attention, old.train.training.attention) == ("flash", "sdpa")
    assert not new.train.training.gradient_checkpointing
    assert old.train.training.gradient_checkpointing
    assert any(note.startswith("H100: 1 sample a pass, activations kept: about") for note in new.notes)
    assert any("attention sdpa: flash attention cannot run here" in note for note in old.notes)


def test_an_optimizer_that_this_machines_memory_cannot_take_is_refused(tmp_path: Path) -> None:
    one = Machine(cpus=16, gpus=1, gpu=GPUS["A100-40GB"])
    job = read_one_job(write(tmp_path / "job.yaml", document(model=None)))
    train = localize(job, one, namespace="a", uid="1", workspace="/w").train
    assert train.training.offload_optimizer
    check_host_memory(train, 80 * 2**30)
    with pytest.raises(UserError, match=r"optimizer takes about 6\d GiB .* 32 are left"):
        check_host_memory(train, 32 * 2**30)
    check_host_memory(localize(job, H100, namespace="a", uid="1", workspace="/w").train, 0)


@pytest.mark.parametrize(
    ("machine", "spec", "words"),
    [
        pytest.param(
            V100, {"training": {"maxSteps": 1, "attention": "flash"}}, "spec.training.attention", id="flash"
        ),
        pytest.param(
            Machine(cpus=8, gpus=1, gpu=GPUS["H100"], no_flash="it needs PyTorch 2.11"),
            {"training": {"maxSteps": 1, "attention": "flash"}},
            "spec.training.attention: flash cannot run here, it needs PyTorch 2.11; use auto or sdpa",
            id="flash that this PyTorch has not",
        ),
        pytest.param(V100, {"method": "qlora"}, "spec.method: qlora needs .* use lora", id="4 bits"),
        pytest.param(
            Machine(cpus=8, gpus=1, gpu=GPUS["T4"]),
            {"model": None},
            "T4 has 15 GiB, and .* method: lora",
            id="too large",
        ),
    ],
)
def test_what_the_machines_gpus_cannot_do_ends_with_the_field_and_the_remedy(
    machine: Machine,
    spec: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_a_gpu = {"nodes": 1, "gpusPerNode": 1}
    file = write(tmp_path / "job.yaml", document(**{"training": None, "resources": on_a_gpu, **spec}))
    monkeypatch.setattr("phitune_cli.run_cmd.detect_machine", lambda: machine)
    assert main(["run", file, "--workspace", str(tmp_path)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_the_newest_run_goes_on_unless_a_fresh_one_is_wanted(tmp_path: Path) -> None:
    assert choose_run(tmp_path / "none", fresh=False) == "0001"
    for name in ("0001", "0009", "notes"):
        (tmp_path / name).mkdir()
    assert choose_run(tmp_path, fresh=False) == "0009"
    assert choose_run(tmp_path, fresh=True) == "0010"


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        pytest.param([], "has 0 objects of kind FineTuneJob", id="no job"),
        pytest.param([document(), document()], "has 2 objects of kind FineTuneJob", id="two jobs"),
        pytest.param([document(lora={"rank": 8})], "spec.lora", id="what the API server refuses"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(
    documents: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        read_one_job(write(tmp_path / "job.yaml", *documents))


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_the_progress_bar_fits_the_terminal(width: int) -> None:
    progress = {"state": "training", "step": 30, "totalSteps": 60, "percent": 50.0, "loss": 0.25}
    line = draw({**progress, "imagesPerSecond": 12.3, "memoryBytes": 3 * 2**29, "etaSeconds": 65}, width)
    assert len(line) <= width
    if width >= 80:
        assert " 50% " in line
        assert "30/60  loss 0.2500  12 images/s  1.5 GiB  ETA 1m05s" in line


@pytest.mark.slow
def test_a_run_is_stopped_goes_on_and_is_complete(workspace: Path, free_port: Any, wait_until: Any) -> None:
    one_rank = {"nodes": 1, "gpusPerNode": 0}
    training = {"maxSteps": 30, "globalBatchSize": 12, "perDeviceBatchSize": 12, "warmupSteps": 0}
    file = write(workspace / "my job.yaml", document(training=training, resources=one_rank))
    secret = {name: f"canary-of-{name}" for name in ("HF_TOKEN", "PHITUNE_DATA_TOKEN", "MY_PASSWORD")}
    port = str(free_port())
    environment = {**os.environ, **secret, "PHITUNE_PROGRESS_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "phitune_cli.main", "run", file, "--workspace", str(workspace)]

    def phitune_run() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    metrics = workspace / "runs/local/colors/0001/incarnations/0001/metrics.jsonl"
    with phitune_run() as first:
        wait_until(metrics.is_file, 200)
        pages = [f"http://127.0.0.1:{port}/{page}" for page in ("progress", "metrics")]
        said = [urllib.request.urlopen(page).read().decode() for page in pages]
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate(timeout=200)
    assert first.returncode == 75, output
    again = output.partition("Stopped. `")[2].partition("` goes on from the last checkpoint")[0]
    assert shlex.split(again) == ["phitune", *command[3:]], "it can be pasted into a shell"
    said.append(output)

    with phitune_run() as second:
        output, _ = second.communicate(timeout=200)
    assert second.returncode == 0, output
    assert "saved by incarnation 1" in output
    said.append(output)
    assert "exactMatch: before 0.0000, after 0." in output
    report = workspace / "runs/local/colors/0001/report.html"
    assert f"report    {report}" in output
    assert "Complete: 30 steps" in report.read_text()
    assert report.read_text().count("data:image/jpeg;base64,") == 4, "one of five samples has no picture"

    with phitune_run() as third:
        output, _ = third.communicate(timeout=200)
    assert third.returncode == 0, output
    assert "Done: 30 steps, method full." in output
    anew = output.partition("A new run: ")[2]
    assert shlex.split(anew) == ["phitune", *command[3:], "--fresh"]
    assert canaries.told(secret.values(), "".join([*said, output])) == []
    assert canaries.written(secret.values(), workspace) == []

    write(workspace / "my job.yaml", document(training={**training, "maxSteps": 31}, resources=one_rank))
    with phitune_run() as fourth:
        output, _ = fourth.communicate(timeout=200)
    assert fourth.returncode == 2
    assert "training.maxSteps: was 30, now 31" in output


def test_without_the_trainer_installed_one_sentence_says_how_to_install_it(tmp_path: Path) -> None:
    file = write(tmp_path / "job.yaml", document())
    code = f"""
import sys
sys.modules["torch"] = None
from phitune_cli.main import main
sys.exit(main(["run", {file!r}, "--workspace", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "phitune run: torch is not installed; run: pip install 'phitune[trainer]'\n"


def test_progress_of_a_local_run_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHITUNE_PROGRESS_HOST", raising=False)
    monkeypatch.setenv("PET_NNODES", "2")
    with alone_on_this_machine():
        assert os.environ["PHITUNE_PROGRESS_HOST"] == "127.0.0.1"
        assert "PET_NNODES" not in os.environ
    assert "PHITUNE_PROGRESS_HOST" not in os.environ
    assert os.environ["PET_NNODES"] == "2"
