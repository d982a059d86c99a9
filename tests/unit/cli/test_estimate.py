"""`phitune estimate`: memory by part, what is chosen by it, and what would fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import REPOSITORY
from phitune_cli.main import main
from phitune_trainer.memory import GPUS

Estimate = Callable[..., tuple[int, str, str]]


def docvqa(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "pages"},
        "spec": {
            "task": "docvqa",
            "method": "full",
            "resources": {"nodes": 1, "gpusPerNode": 2},
            "storage": {"size": "200Gi"},
            **spec,
        },
    }


@pytest.fixture
def estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Estimate:
    def call(document: dict[str, Any], *options: str) -> tuple[int, str, str]:
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps(document), encoding="utf-8")
        code = main(["estimate", str(file), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_without_a_gpu_every_known_one_has_a_line(estimate: Estimate) -> None:
    code, out, err = estimate(docvqa())
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert GPUS.keys() <= lines.keys()
    assert " no " in lines["T4"]
    assert " no " not in lines["H200"]
    assert "bf16" in lines["H200"]
    assert "fp16" in lines["V100-32GB"]
    assert lines["V100-32GB"].endswith("recomputed   on the host")
    assert lines["H200"].endswith("kept         on the GPU")


def test_parts_add_up_to_the_total(estimate: Estimate) -> None:
    _, out, _ = estimate(docvqa(), "--gpu", "A100-80GB", "--gpus", "8")
    assert "A100-80GB: fits, about " in out
    numbers = [float(found) for found in re.findall(r"^  [A-Za-z, ]+ (\d+\.\d\d)$", out, re.MULTILINE)]
    assert len(numbers) >= 8
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.1)


def test_what_would_fit_is_said_where_a_gpu_is_too_small(estimate: Estimate) -> None:
    code, out, _ = estimate(docvqa(training={"offloadOptimizer": "never"}), "--gpu", "V100-32GB")
    assert code == 0
    assert "V100-32GB: does not fit, about " in out
    remedies = out.partition("would fit, with one change:")[2]
    assert "4 GPUs in all" in remedies
    assert "training.offloadOptimizer: auto" in remedies
    assert "method: lora" in remedies


def test_optimizer_goes_to_the_host_where_that_alone_lets_the_job_fit(estimate: Estimate) -> None:
    code, out, _ = estimate(docvqa(), "--gpu", "V100-32GB")
    assert code == 0
    assert "V100-32GB: fits, about " in out
    assert "; optimizer on the host (about 35 GiB for each GPU), since with it on the GPU at least " in out
    assert "  optimizer  " not in out


def test_gpus_that_cannot_do_what_is_asked_are_named_and_left_out(estimate: Estimate) -> None:
    flash = docvqa(training={"attention": "flash"})
    code, out, err = estimate(flash)
    assert (code, "H100" in out, "V100" in out) == (0, True, False)
    assert "V100-32GB: spec.training.attention: flash needs compute capability 8.0" in err
    code, out, err = estimate(flash, "--gpu", "T4")
    assert (code, out) == (2, "")
    assert err.startswith("T4: spec.training.attention: flash needs")


def test_several_gpus_are_shown_one_after_the_other(estimate: Estimate) -> None:
    _, out, _ = estimate(docvqa(method="qlora"), "--gpu", "NVIDIA-L4", "--gpu", "Tesla-T4", "--nodes", "2")
    assert out.index("\nL4: fits") < out.index("\nT4: fits")
    assert "2 x 2 GPUs" in out


def test_both_sizes_of_a_gpu_are_shown_where_its_name_says_neither(estimate: Estimate) -> None:
    _, out, _ = estimate(docvqa(), "--gpu", "V100")
    assert out.index("\nV100-32GB: fits") < out.index("\nV100-16GB: does not fit")


def test_job_for_the_cpu_is_estimated_on_one_gpu_a_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(REPOSITORY / "examples/digits.yaml"), "--gpu", "T4"]) == 0
    assert "2 x 1 GPUs, global batch 32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        pytest.param({}, ["--gpu", "Voodoo2"], "--gpu Voodoo2: not known by name; use one of B200", id="gpu"),
        pytest.param({"lora": {"rank": 8}}, [], "spec.lora: not with method full", id="wrong file"),
        pytest.param(
            {"training": {"globalBatchSize": 32}},
            ["--nodes", "3"],
            "on 3 x 2 GPUs: training.globalBatchSize: 32 does not divide over 6 ranks",
            id="batch that does not divide",
        ),
    ],
)
def test_wrong_input_ends_with_2(
    estimate: Estimate, spec: dict[str, Any], options: list[str], said: str
) -> None:
    code, out, err = estimate(docvqa(**spec), *options)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "two"])
def test_number_of_gpus_that_is_none_is_refused(
    number: str, estimate: Estimate, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        estimate(docvqa(), f"--gpus={number}")
    assert ended.value.code == 2
    assert f"a whole number from 1 is needed, got {number}" in capsys.readouterr().err


def test_estimating_needs_no_torch() -> None:
    code = """
import sys
from phitune_cli.main import main
assert main(["estimate", sys.argv[1]]) == 0
assert not {"torch", "transformers", "kubernetes", "kopf"} & sys.modules.keys()
"""
    command = [sys.executable, "-c", code, str(REPOSITORY / "examples/digits.yaml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
