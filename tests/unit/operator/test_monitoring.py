"""What the chart shows and warns of is what operator and trainer tell."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_operator.kinds import POD
from phitune_operator.metrics import Metrics
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store
from phitune_trainer.progress import Progress

FILES = REPOSITORY / "charts/phitune/files"
LABELS_OF_TARGETS = {"namespace", "phitune_dev_job"}
"""What the PodMonitor and Prometheus add to what is scraped."""


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FILES / "dashboard.json").read_text(encoding="utf-8")))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    shown = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    assert len(shown) > 10
    return shown + [rule["expr"] for rule in alerts()]


@cache
def told() -> frozenset[str]:
    """Names of all series of an operator and of a training, as they are scraped."""
    text = asyncio.run(_scraped())
    return frozenset(re.findall(r"^(phitune_\w+)", text, re.MULTILINE))


async def _scraped() -> str:
    metrics = Metrics()
    metrics.watch(Store(), WorkQueue())
    metrics.reconciled("done", 0.1)
    metrics.requested("get", 200, 0.1)
    metrics.heard(POD)
    metrics.status_written({}, {"conditions": [{"type": "Restarting", "status": "True", "reason": "Fault"}]})
    progress = Progress(attempt=1, total_steps=2)
    numbers = ("loss", "learningRate", "imagesPerSecond", "tokensPerSecond", "mfu", "memoryBytes", "dataWait")
    progress.update(**dict.fromkeys(numbers, 1.0), etaSeconds=1, evaluation={"metric": "anls", "value": 0.5})
    return metrics.text().decode() + progress.metrics()


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_is_told(query: str) -> None:
    named = set(re.findall(r"\bphitune_(?!dev_job)\w+", query))
    assert named, query
    assert named <= told()


def test_every_series_of_a_training_is_on_the_dashboard_or_part_of_a_ratio_there() -> None:
    shown = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", []))
    of_training = {name for name in told() if not name.startswith("phitune_operator_")}
    missing = {name for name in of_training if not re.search(rf"\b{name}\b", shown)}
    assert missing == {"phitune_epoch", "phitune_learning_rate"}  # they follow from the step


def test_an_alert_says_what_it_means_and_what_to_look_at() -> None:
    assert len(alerts()) >= 5
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].strip().endswith((".", "?"))


def test_an_alert_about_a_training_that_stands_still_is_silent_about_one_that_has_just_begun() -> None:
    (rule,) = [rule for rule in alerts() if rule["alert"] == "PhituneTrainingStandsStill"]
    (time,) = re.findall(r"changes\(phitune_step\[(\w+)\]\) == 0", rule["expr"])
    assert rule["expr"].endswith(f" and phitune_step offset {time}")  # changes() of a young series is 0, too


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
