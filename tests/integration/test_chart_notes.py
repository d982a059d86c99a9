"""What helm tells who has installed the chart. That its commands work is tried in test_chart_installed.py."""

from __future__ import annotations

import pytest
import yaml

from harness.chart import commands_of, job_of, notes
from harness.cluster import Cluster, Object
from harness.jobs import merged
from harness.operator_view import subject
from phitune_operator import names
from phitune_operator.render.jobset import jobset
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.pytorchjob import pytorchjob

UNREAD = "Prometheus will get no answer"
STAYS = "the alert PhituneOperatorAbsent stays"


def test_line_for_the_log_finds_rank_zero_of_every_kind_of_gang_and_nothing_else(cluster: Cluster) -> None:
    told = notes(cluster)
    (words,) = [words for words in commands_of(told) if words[1] == "logs"]
    selector = dict(pair.split("=") for pair in words[words.index("-l") + 1].split(","))
    spec = yaml.safe_load(job_of(told))["spec"]
    shown = subject(merged({"training": {"maxSteps": None}}, spec))
    (template,) = jobset(shown, 1)["spec"]["replicatedJobs"]
    of_jobset: Object = template["template"]["spec"]
    assert of_jobset["parallelism"] == 1
    (master,) = pytorchjob(shown, 1)["spec"]["pytorchReplicaSpecs"].values()
    assert master["replicas"] == 1
    for pods in (of_jobset, master):
        assert selector.items() <= pods["template"]["metadata"]["labels"].items()
    prepares = prepare_job(shown)["spec"]["template"]["metadata"]["labels"]
    assert prepares[names.LABEL_JOB] == selector[names.LABEL_JOB]
    assert not selector.items() <= prepares.items()


def test_notes_of_an_operator_for_some_namespaces_put_the_job_into_one_of_them(cluster: Cluster) -> None:
    told = notes(cluster, 'namespaces=["4711","b"]')
    assert "\nkubectl apply -n 4711 -f - <<END\n" in told
    assert {tuple(words[2:4]) for words in commands_of(told) if words[1] == "logs"} == {("-n", "4711")}


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        pytest.param(["monitoring.dashboard=true"], [], id="nothing is read"),
        pytest.param(["monitoring.serviceMonitor=true"], [UNREAD], id="read by nobody"),
        pytest.param(["monitoring.podMonitor=true"], [UNREAD], id="pods read by nobody"),
        pytest.param(["monitoring.prometheusRule=true"], [UNREAD, STAYS], id="alerts about nothing"),
        pytest.param(
            ["monitoring.prometheusRule=true", "networkPolicy.enabled=false"], [STAYS], id="alerts, unread"
        ),
        pytest.param(
            ["monitoring.prometheusRule=true", "monitoring.serviceMonitor=true"],
            [UNREAD],
            id="alerts about what nobody may read",
        ),
        pytest.param(
            [
                "monitoring.prometheusRule=true",
                "monitoring.serviceMonitor=true",
                'networkPolicy.prometheusNamespace="a"',
            ],
            [],
            id="all is there",
        ),
    ],
)
def test_monitoring_that_cannot_work_as_it_is_set_is_said(
    cluster: Cluster, settings: list[str], warnings: list[str]
) -> None:
    told = notes(cluster, *settings)
    assert [warning for warning in (UNREAD, STAYS) if warning in told] == warnings
