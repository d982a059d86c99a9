"""The chart's alerts and dashboard in a real Prometheus, over what a real operator and a training tell it.

A minute of a rule takes a second here: else most of an hour would pass until the slowest alert fires.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from harness.chart import one, rendered
from harness.cluster import REPOSITORY, Object, wait_for
from harness.faulty_api import ApiProxy, refusal
from harness.installed import Installed, no_installed_operator
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.kill import hang_a_rank
from harness.lab import Lab
from harness.operator_process import OperatorProcess
from harness.prometheus import Prometheus, prometheus_of, seconds_for_minutes

pytestmark = pytest.mark.timeout(900)
FILES = REPOSITORY / "charts/phitune/files"
DASHBOARD: Object = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
QUERIES = {
    target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
}
RULES = seconds_for_minutes((FILES / "alerts.yaml").read_text(encoding="utf-8"))
SCORED: Object = {
    "storage": {"size": None, "claimName": "shared"},
    "evaluation": {"enabled": True, "maxSamples": 8},
}
"""What one job has prepared on the claim, the others do not wait for."""
NUM_IDLE = 7
"""Jobs whose gangs are deleted at once: the alert is about more than five restarts."""
NUM_WAITING = 160
"""Jobs of which sixteen are looked at and the others wait: the alert is about more than a hundred."""
SLOW = 15.0
"""Seconds until the API server answers."""


@pytest.fixture(scope="module")
def prometheus(phitune: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes what the chart's monitors choose."""
    cluster = phitune.cluster
    if not cluster.is_local:
        pytest.skip("scrapes pods from this machine, which takes a local cluster")
    objects = rendered(cluster, "monitoring.serviceMonitor=true", "monitoring.podMonitor=true")
    monitors = [one(objects, kind) for kind in ("ServiceMonitor", "PodMonitor")]
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus_of(cluster, folder, rules=RULES, monitors=monitors) as found:
        yield found


def fired(prometheus: Prometheus, name: str) -> Object:
    """Wait until an alert fires; what it says is whole."""

    def firing() -> Object | None:
        return prometheus.firing().get(name)

    alert = wait_for(firing, 120, lambda: json.dumps(prometheus.rules(), indent=1))
    assert not re.search(r"<no value>|<error|\{\{|%!", " ".join(alert["annotations"].values()))
    return alert


def empty_panels(prometheus: Prometheus, **chosen: str) -> set[str]:
    """Titles of the panels that show no number now, when these values of the variables are chosen."""
    found = {query: prometheus.query(filled(query, chosen)) for query in QUERIES}
    return {
        title
        for query, title in QUERIES.items()
        if not any(value == value for _, value in found[query])  # NaN differs from itself
    }


def offered(prometheus: Prometheus, **chosen: str) -> dict[str, list[str]]:
    """What each of the dashboard's variables offers, when these values of those before it are chosen."""
    values = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert asked, variable["query"]
            values[variable["name"]] = prometheus.values_of(asked[2], filled(asked[1], chosen))
    return values


def filled(query: str, chosen: Mapping[str, str]) -> str:
    """A query as Grafana sends it."""
    for name, value in chosen.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query
    return query


def test_panels_show_a_training_and_alerts_fire_when_gangs_restart_and_when_it_stands_still(
    lab: Lab, prometheus: Prometheus
) -> None:
    lab.make_claim("shared")
    lab.apply(finetunejob("digits", long_enough_to_disturb({**SCORED, "training": {"maxSteps": 5000}})))
    lab.wait_for_step("digits", 3)
    chosen = {"namespace": lab.namespace, "job": "digits"}
    without = {"Model FLOPs utilisation", "Restarts an hour, by cause"}  # of a CPU no peak is known

    def all_shown() -> bool:
        return empty_panels(prometheus, **chosen) <= without

    wait_for(all_shown, 60, lambda: f"empty: {empty_panels(prometheus, **chosen)}")
    choices = offered(prometheus, **chosen)
    assert all(value in choices[name] for name, value in chosen.items())
    assert prometheus.firing() == {}
    assert {rule["health"] for rule in prometheus.rules()} == {"ok"}

    idle = {**SCORED, "image": "localhost/phitune/nothing:1", "resources": {"nodes": 1}}
    names = [f"idle-{number}" for number in range(NUM_IDLE)]
    lab.apply(*(finetunejob(name, idle) for name in names))
    gangs = [f"{name}-1" for name in names]
    lab.wait("the gangs of all jobs", lambda: all(lab.gangs(name) for name in names))
    lab.cluster.kubectl("delete", "pytorchjobs", *gangs, "-n", lab.namespace, "--wait=false")
    assert fired(prometheus, "PhituneRestarts")["labels"]["cause"] == "GangDeleted"
    assert "Restarts an hour, by cause" not in empty_panels(prometheus, **chosen)
    lab.cluster.kubectl("delete", "ftj", "-n", lab.namespace, *names)

    (worker,) = [pod for pod in lab.pods("digits", role="trainer") if "-worker-" in pod["metadata"]["name"]]
    hang_a_rank(lab, worker["metadata"]["name"])
    said = fired(prometheus, "PhituneTrainingStandsStill")["annotations"]["description"]
    assert f"{lab.namespace}/digits has stood at one step" in said


def test_an_operator_that_is_gone_is_missed_and_one_that_is_back_is_not(
    phitune: Installed, prometheus: Prometheus
) -> None:
    with no_installed_operator(phitune.cluster):
        fired(prometheus, "PhituneOperatorAbsent")
    wait_for(
        lambda: "PhituneOperatorAbsent" not in prometheus.firing(),
        30,
        lambda: json.dumps(prometheus.rules(), indent=1),
    )


def test_an_api_server_that_is_slow_and_then_fails_is_said_by_three_alerts(
    phitune: Installed, namespace: str, tmp_path: Path
) -> None:
    cluster = phitune.cluster
    proxy = ApiProxy(cluster)
    proxy.start()
    operator = OperatorProcess(
        cluster,
        tmp_path / "operator",
        server=f"http://127.0.0.1:{proxy.port}",
        trainer_image=phitune.trainer_image,
        namespaces=[namespace],
    )

    def slow(request: web.Request) -> float | None:
        return None if "watch" in request.query else SLOW

    def failing(request: web.Request) -> web.Response | None:
        return None if "watch" in request.query else refusal(503, "ServiceUnavailable")

    try:
        with no_installed_operator(cluster):
            operator.start()
            operator.wait_until_it_serves()
            target = f"127.0.0.1:{operator.health_port}"
            with prometheus_of(cluster, tmp_path, rules=RULES, targets=[target]) as prometheus:
                proxy.answer = slow
                paused = {"runPolicy": {"suspend": True}}
                jobs = [finetunejob(f"waits-{number}", paused) for number in range(NUM_WAITING)]
                cluster.apply(*jobs, namespace=namespace)
                fired(prometheus, "PhituneQueueGrows")
                proxy.answer = failing
                fired(prometheus, "PhituneReconcileErrors")
                fired(prometheus, "PhituneApiServerTrouble")
    finally:
        operator.end()
        proxy.stop()


def test_every_alert_has_been_made_to_fire() -> None:
    """Each of them is named above, in the test in which its trouble comes."""
    named = re.findall(r'fired\(prometheus, "(\w+)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(named) == sorted(re.findall(r"- alert: (\w+)", RULES))
