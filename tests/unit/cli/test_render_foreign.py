"""`phitune render` of what others wrote: foreign kinds, hostile texts, huge and broken files have an end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.documents import job
from phitune_cli.main import main

Rendered = tuple[int, str, str]
"""Exit code, standard output, standard error."""


@pytest.fixture
def render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Rendered]:
    def call(*texts: str | bytes) -> Rendered:
        files = []
        for index, text in enumerate(texts):
            file = tmp_path / f"{index}.yaml"
            file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
            files.append(str(file))
        code = main(["render", *files])
        return (code, *capsys.readouterr())

    return call


def text(document: Any) -> str:
    return json.dumps(document)


ACTS = "\x1b]0;title\x07\x1b[2J\x9b2J\u202e\u2028"
HALF = "\ud800"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"apiVersion": "v1", "kind": ACTS, "metadata": {"name": ACTS}}, id="another kind"),
        pytest.param(job({ACTS: 1}), id="name of a field"),
        pytest.param(job({HALF: 1}), id="half a character as the name of a field"),
        pytest.param(job({"task": ACTS}), id="value"),
        pytest.param(job({"image": HALF}), id="half a character as a value"),
        pytest.param(job(metadata={"name": "a", "labels": {ACTS: ACTS}}), id="label"),
        pytest.param(job({"env": [{"name": ACTS}]}), id="variable"),
        pytest.param(job(metadata={"name": ACTS}), id="name"),
    ],
)
def test_no_text_acts_on_a_terminal(render: Callable[..., Rendered], document: Any) -> None:
    code, out, err = render(text(document))
    assert (code, out) == (2, "")
    assert err.isprintable() or set(filter(lambda one: not one.isprintable(), err)) == {"\n"}


def test_no_text_looks_like_a_line_of_ours(render: Callable[..., Rendered]) -> None:
    _, _, err = render(text(job({"a\nfine.yaml:1: nothing is wrong": 1})))
    assert len(err.splitlines()) == 1


def test_what_is_rendered_holds_no_escape_either(render: Callable[..., Rendered]) -> None:
    code, out, _ = render(text(job({"podTemplate": {"annotations": {"a": ACTS}}})))
    assert code == 0
    assert not any(one in out for one in ACTS if not one.isprintable())
    gang = next(one for one in yaml.safe_load_all(out) if one["kind"] == "PyTorchJob")
    template = gang["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert template["metadata"]["annotations"] == {"a": ACTS}


FOREIGN = {
    "gang": {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "a"}, "spec": {}},
    "trainer v2": {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": None},
    "no metadata": {"apiVersion": "v1", "kind": "Pod"},
    "metadata is text": {"apiVersion": "v1", "kind": "Pod", "metadata": "a"},
    "name is a map": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": {"a": 1}}},
}


def test_foreign_objects_are_passed_over_one_line_each(render: Callable[..., Rendered]) -> None:
    code, out, err = render("\n---\n".join(map(text, [*FOREIGN.values(), job()])))
    assert code == 0
    assert len(err.splitlines()) == len(FOREIGN)
    assert "kind: PyTorchJob" in out


ALMOST_OURS = {
    "another version": job(apiVersion="phitune.dev/v1"),
    "another group": job(apiVersion="kubeflow.org/v1"),
    "a list of its own": {"apiVersion": "phitune.dev/v1alpha1", "kind": "FineTuneJobList", "items": [job()]},
    "capitals": job(kind="finetunejob"),
    "plural": job(kind="FineTuneJobs"),
    "no kind": {"apiVersion": "phitune.dev/v1alpha1", "spec": {}},
    "kind is a list": job(kind=["FineTuneJob"]),
    "spec is text": job(spec="a"),
    "metadata is a list": job(metadata=[]),
}


@pytest.mark.parametrize("document", ALMOST_OURS.values(), ids=ALMOST_OURS)
def test_what_is_meant_to_be_ours_is_refused_by_its_field(
    render: Callable[..., Rendered], document: Any
) -> None:
    code, out, err = render(text(document))
    assert (code, out) == (2, "")
    assert any(f": {field}" in err for field in ("apiVersion", "kind", "spec", "metadata"))


def test_the_same_job_twice_is_refused_with_both_places(render: Callable[..., Rendered]) -> None:
    code, out, err = render(f"{text(job())}\n---\n{text(job())}", text(job(metadata={"name": "other"})))
    assert (code, out) == (2, "")
    assert "0.yaml:3: metadata.name: the same job as at " in err
    assert "0.yaml:1" in err


HUGE = {
    "long text": text(job({"image": "x" * 500_000})),
    "many fields": text(job({f"a{index}": index for index in range(5_000)})),
    "many entries": text(job({"env": [{"name": "A"}] * 5_000})),
    "many documents": "---\n".join(["a: 1\n"] * 2_000),
    "deep": text(job({"a": 1})).replace("1", "[" * 5000 + "]" * 5000, 1),
    "no text": bytes(range(256)) * 4096,
    "zeros": bytes(1_000_000),
    "UTF-16": text(job()).encode("utf-16"),
    "a line without an end": "a: " + "b" * 500_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_huge_file_is_refused_in_bounded_time_and_words(
    render: Callable[..., Rendered], content: str | bytes
) -> None:
    began = time.process_time()
    code, out, err = render(content)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) < 1000
    assert time.process_time() - began < 30
