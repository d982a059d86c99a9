"""`phitune render`: manifests to standard output, problems to standard error, nothing by halves."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from harness.documents import Refused, job
from harness.refused import REFUSED
from phitune_cli.main import main

EXAMPLES = sorted(REPOSITORY.glob("examples/*.yaml"))


class Ended:
    """What a call left behind."""

    def __init__(self, code: int, out: str, err: str):
        self.code = code
        self.out = out
        self.err = err

    @property
    def objects(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all(self.out))


class Render:
    """Calls the command on texts that are written to files."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder = folder
        self.capsys = capsys

    def __call__(self, text: str | dict[str, Any] | Path, *options: str) -> Ended:
        file = text if isinstance(text, Path) else self.folder / "job.yaml"
        if not isinstance(text, Path):
            file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        code = main(["render", str(file), *options])
        return Ended(code, *self.capsys.readouterr())


@pytest.fixture
def render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Render:
    return Render(tmp_path, capsys)


def test_small_job_becomes_claim_config_prepare_job_and_gang(render: Render) -> None:
    ended = render(job())
    assert (ended.code, ended.err) == (0, "")
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in ended.objects] == [
        ("PersistentVolumeClaim", "digits-workspace"),
        ("ConfigMap", "digits-config"),
        ("Job", "digits-prepare"),
        ("PyTorchJob", "digits-1"),
    ]
    assert {obj["metadata"]["namespace"] for obj in ended.objects} == {"default"}


def test_config_inside_can_be_read_by_people(render: Render) -> None:
    assert "  train.yaml: |\n    apiVersion: phitune.dev/train.v1alpha1\n    run:\n" in render(job()).out


def test_yaml_and_json_hold_the_same(render: Render) -> None:
    as_json = json.loads(render(job(), "-o", "json").out)
    assert (as_json["apiVersion"], as_json["kind"]) == ("v1", "List")
    assert as_json["items"] == render(job()).objects


def test_same_file_gives_the_same_bytes(render: Render) -> None:
    assert render(job()).out == render(job()).out


def test_namespace_is_the_jobs_own_or_that_of_the_command_line(render: Render) -> None:
    own = job(metadata={"name": "a", "namespace": "team"})
    assert {obj["metadata"]["namespace"] for obj in render(own).objects} == {"team"}
    assert {obj["metadata"]["namespace"] for obj in render(job(), "-n", "other").objects} == {"other"}
    ended = render(own, "-n", "other")
    assert (ended.code, ended.out) == (2, "")
    assert "metadata.namespace: is team, but --namespace is other" in ended.err


@pytest.mark.parametrize("option", ["--image", "--trainer-image"])
def test_image_of_the_command_line_yields_to_the_jobs(render: Render, option: str) -> None:
    assert "image: example.com/trainer:1" in render(job(), option, "example.com/trainer:1").out
    ended = render(job({"image": "example.com/own:2"}), option, "example.com/trainer:1")
    assert "image: example.com/own:2" in ended.out
    assert "trainer:1" not in ended.out


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_rendered_and_no_gpu_is_known_but_those_that_it_names(render: Render, file: Path) -> None:
    ended = render(file)
    assert ended.code == 0
    assert all("note: " in line for line in ended.err.splitlines())
    names_gpus = "gpuProducts:" in file.read_text(encoding="utf-8")
    assert all((" is not known" in line) != names_gpus for line in ended.err.splitlines())
    assert {"ConfigMap", "Job", "PyTorchJob"} <= {found["kind"] for found in ended.objects}


def on_gpus(*products: str, count: int = 8, **spec: Any) -> dict[str, Any]:
    """A job of the published size on the GPUs so named."""
    published = {"model": None, "data": None, "task": "docvqa", "training": {"globalBatchSize": 64}}
    resources = {"nodes": 1, "gpusPerNode": count, "processesPerNode": None, "cpu": None, "memory": None}
    return job({**published, "resources": {**resources, "gpuProducts": list(products)}, **spec})


@pytest.mark.parametrize(
    ("products", "build", "precision", "attention"),
    [
        (["Tesla-V100-SXM2-32GB"], "v100", "fp16", "sdpa"),
        (["V100"], "v100", "fp16", "sdpa"),
        (["Quadro-RTX-8000"], "plain", "fp16", "sdpa"),
        (["NVIDIA-A100-SXM4-80GB", "V100-32GB"], "flash", "bf16", "flash"),
        (["T4", "A100-80GB"], "flash", "bf16", "flash"),
    ],
)
def test_job_is_decided_for_the_first_gpu_of_its_own_on_which_it_fits(
    render: Render, products: list[str], build: str, precision: str, attention: str
) -> None:
    ended = render(on_gpus(*products))
    assert ended.code == 0
    assert " is not known" not in ended.err
    (gang,) = (obj for obj in ended.objects if obj["kind"] == "PyTorchJob")
    (container,) = gang["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f"-{build}")
    training = yaml.safe_load(ended.objects[1]["data"]["train.yaml"])["training"]
    assert (training["precision"], training["attention"]) == (precision, attention)
    assert "image: example.com/own:2" in render(on_gpus(*products), "--image", "example.com/own:2").out


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            on_gpus("V100-32GB", method="qlora"),
            "UnsuitableGPU: spec.method: qlora needs compute capability 7.5, and V100-32GB has 7.0",
        ),
        (on_gpus("T4", count=2), "DoesNotFit: spec.resources: T4 has 15 GiB, and the smallest pass"),
        (on_gpus("Tesla-P100-PCIE-16GB"), "NoImageForGPU: P100 has compute capability 6.0"),
    ],
)
def test_job_that_none_of_its_gpus_can_do_is_refused_as_the_operator_would(
    render: Render, document: dict[str, Any], said: str
) -> None:
    ended = render(document)
    assert (ended.code, ended.out) == (2, "")
    assert f"job.yaml:1: {said}" in ended.err


@pytest.mark.parametrize("product", ["Custom", "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", "Tesla-T4-SHARED"])
def test_what_a_gpu_has_that_no_table_knows_is_assumed(render: Render, product: str) -> None:
    ended = render(on_gpus(product, count=1))
    assert ended.code == 0
    assert "training.precision is bf16: the GPU is not known" in ended.err


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.id)
def test_bad_job_ends_with_2_and_its_full_path(render: Render, row: Refused) -> None:
    ended = render(row.document)
    assert (ended.code, ended.out) == (2, "")
    first = ended.err.splitlines()[0]
    assert first.startswith(f"{render.folder}/job.yaml:1: {row.path}: ")
    assert row.message in first


@pytest.mark.parametrize("value", [".nan", "-.inf"])
def test_what_is_no_number_is_refused_by_its_field(render: Render, value: str) -> None:
    text = yaml.safe_dump(job()).replace("learningRate: 0.001", f"learningRate: {value}")
    assert value in text
    ended = render(text)
    assert (ended.code, ended.out) == (2, "")
    assert "spec.training.learningRate: must be a finite number" in ended.err


def test_exponent_without_a_point_is_a_number(render: Render) -> None:
    text = yaml.safe_dump(job()).replace("learningRate: 0.001", "learningRate: 4e-5")
    assert "4e-5" in text
    config = yaml.safe_load(render(text).objects[1]["data"]["train.yaml"])
    assert config["training"]["learningRate"] == 4e-5


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [\n", "job.yaml: line 2, column 1: "),
        ("spec:\n  task: a\n  task: b\n", 'job.yaml: line 3, column 3: key "task" is given twice'),
        ("spec:\n\ttask: a\n", "job.yaml: line 2, column 1: "),
    ],
)
def test_yaml_error_is_said_by_line_and_column(render: Render, text: str, where: str) -> None:
    ended = render(text)
    assert (ended.code, ended.out) == (2, "")
    assert where in ended.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no FineTuneJob in"),
        ("# nothing\n---\n", "no FineTuneJob in"),
        ("hello\n", "not an object"),
        ("- a\n", "not an object"),
        ("spec: {}\n", "apiVersion: required"),
    ],
)
def test_file_without_a_job_is_refused(render: Render, text: str, said: str) -> None:
    ended = render(text)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_file_that_cannot_be_read_is_named(render: Render, tmp_path: Path) -> None:
    ended = render(tmp_path / "nowhere.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"{tmp_path}/nowhere.yaml: cannot be read: No such file or directory\n"
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\n")
    assert "not UTF-8 text, at byte 3" in render(tmp_path / "binary.yaml").err


CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n"


def test_other_objects_in_the_file_are_passed_over_and_said(render: Render) -> None:
    ended = render(f"{CLAIM}---\n{yaml.safe_dump(job())}---\n{yaml.safe_dump(job(metadata={'name': 'two'}))}")
    assert ended.code == 0
    assert (
        ended.err
        == f"{render.folder}/job.yaml:1: PersistentVolumeClaim data passed over: not a FineTuneJob\n"
    )
    assert [obj["metadata"]["name"] for obj in ended.objects if obj["kind"] == "PyTorchJob"] == [
        "digits-1",
        "two-1",
    ]


def test_file_of_other_objects_alone_is_refused(render: Render) -> None:
    assert render(CLAIM).code == 2


def test_list_is_taken_apart(render: Render) -> None:
    items = [job(), job(metadata={"name": "two"})]
    assert len(render({"apiVersion": "v1", "kind": "List", "items": items}).objects) == 8


def test_one_bad_job_keeps_all_from_being_printed(render: Render) -> None:
    bad = job({"lora": {"rank": 0}}, metadata={"name": "two"})
    ended = render(f"{yaml.safe_dump(job())}---\n{yaml.safe_dump(bad)}")
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert len(lines) == 2
    assert "spec.lora.rank: must be at least 1, got 0" in lines[0]
    assert "spec.lora: not with method full" in lines[1]


def test_several_files_and_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(job()), encoding="utf-8")
    stdin = io.TextIOWrapper(io.BytesIO(yaml.safe_dump(job(metadata={"name": "two"})).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["render", str(file), "-"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [obj["metadata"]["name"] for obj in objects if obj["kind"] == "Job"] == [
        "digits-prepare",
        "two-prepare",
    ]


def test_gang_of_a_queue_is_rendered_suspended(render: Render) -> None:
    ended = render(job({"queueName": "team"}))
    assert ended.code == 0
    (gang,) = (obj for obj in ended.objects if obj["kind"] == "PyTorchJob")
    assert gang["spec"]["runPolicy"]["suspend"] is True


def test_what_was_adjusted_is_a_note(render: Render) -> None:
    ended = render(job({"training": {"globalBatchSize": None}, "resources": {"nodes": 3}}))
    assert "note: training.globalBatchSize is 15, not the recipe's 16" in ended.err


def test_rendering_needs_neither_torch_nor_a_kubernetes_client() -> None:
    code = """
import sys
from phitune_cli.main import main
assert main(["render", sys.argv[1]]) == 0
assert not {"torch", "transformers", "kubernetes", "kopf"} & sys.modules.keys()
"""
    command = [sys.executable, "-c", code, str(EXAMPLES[0])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
