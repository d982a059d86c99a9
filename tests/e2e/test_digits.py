"""The demo's job, as the README shows it: two pods on two nodes learn to read digits."""

from __future__ import annotations

import json
import re

import pytest

from harness.jobs import example
from harness.lab import Lab, last_words

pytestmark = pytest.mark.timeout(600)

READ_RESULT = """
import json, pathlib, sys
(run,) = pathlib.Path("/workspace/runs").glob("*/digits/*")
print(json.dumps({"result": json.loads((run / "result.json").read_text()),
                  "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())}))
"""


def test_two_pods_learn_to_read_digits(lab: Lab) -> None:
    lab.apply_text(example("digits.yaml"))
    assert lab.job("digits")["spec"]["resources"]["nodes"] == 2
    status = lab.wait_for_phase("digits", "Succeeded", timeout=480)

    score = status["evaluation"]
    assert score["value"] >= 0.90
    assert score["baseline"] < 0.5
    assert score["samples"] >= 100
    assert status["attempt"] == 1
    assert status["restarts"] == 0
    assert status["progress"]["step"] == status["progress"]["totalSteps"]

    pods = lab.pods("digits", role="trainer")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    proofs = [proof for pod in pods for proof in last_words(pod)["ranks"]]
    assert sorted(proof["rank"] for proof in proofs) == [0, 1]
    assert {proof["steps"] for proof in proofs} == {status["progress"]["totalSteps"]}
    assert all(proof["samples"] > 0 and proof["tokens"] > 0 for proof in proofs)
    assert len({proof["parametersHash"] for proof in proofs}) == 1, (
        "every rank holds the same trained weights"
    )

    row = lab.cluster.kubectl("get", "ftj", "digits", "-n", lab.namespace, "--no-headers")
    assert "Succeeded" in row
    assert f"{score['value']:.3f}"[:4] in row

    log = ["-n", lab.namespace, "-l", "phitune.dev/job=digits,phitune.dev/rank=0"]
    said = lab.cluster.kubectl("logs", *log, "--tail", "-1")
    assert "loss" in said
    assert not re.findall(r"^\[[IWE]\d.*", said, re.MULTILINE), "torch's own lines would only puzzle"
    assert any("kubectl logs -f" in message for _, message in lab.events("digits"))

    found = json.loads(lab.on_claim(status["artifacts"]["claim"], READ_RESULT))
    assert found["result"]["evaluation"]["value"] == pytest.approx(score["value"])
    assert [file for file in found["files"] if file.startswith("export/merged/")]
    assert "config.yaml" in found["files"]
