"""A real Prometheus on this machine, which scrapes a local cluster and evaluates rules.

It is told where to look by the chart's ServiceMonitor and PodMonitor. What makes its configuration of them on
a user's cluster is Prometheus' operator, which is not there: `scrape_config` does so for the fields that the
chart sets.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster import Cluster, Object, run, wait_for
from harness.ports import free_port
from harness.provision import hack_cluster
from localkube.build import default_cache, find_built

Series = tuple[Mapping[str, str], float]
"""Labels, and the newest value."""


@dataclass(frozen=True)
class Prometheus:
    """Asked over its HTTP API, as Grafana asks."""

    url: str

    def query(self, expression: str) -> list[Series]:
        """What an expression gives now; AssertionError, with Prometheus' words, for one that is wrong."""
        found = self._ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def values_of(self, label: str, selector: str) -> list[str]:
        """The values that a label has among the series that a selector finds."""
        values: list[str] = self._ask(f"label/{label}/values", **{"match[]": selector})
        return values

    def rules(self) -> list[Object]:
        """Every alerting rule, with what it has come to."""
        groups = self._ask("rules", type="alert")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> dict[str, Object]:
        """One alert of each rule that fires, by the rule's name."""
        alerts = self._ask("alerts")["alerts"]
        return {one["labels"]["alertname"]: one for one in alerts if one["state"] == "firing"}

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{path} {parameters}: {refusal.read().decode()}") from refusal


@contextmanager
def prometheus_of(
    cluster: Cluster,
    folder: Path,
    *,
    rules: str,
    monitors: Sequence[Object] = (),
    targets: Sequence[str] = (),
) -> Iterator[Prometheus]:
    """A Prometheus that reads a local cluster with its administrator's rights.

    Args:
        folder: For its configuration and its store.
        rules: Text of a file of rules.
        monitors: ServiceMonitors and PodMonitors, whose intervals become a second.
        targets: Further addresses, HOST:PORT.
    """
    run(hack_cluster("build", "--with", "prometheus"), timeout=1800)
    (folder / "rules.yaml").write_text(rules, encoding="utf-8")
    scraped: list[Object] = [scrape_config(monitor, cluster.kubeconfig) for monitor in monitors]
    scraped.append({"job_name": "targets", "static_configs": [{"targets": list(targets)}]})
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": scraped,
    }
    (folder / "prometheus.yaml").write_text(json.dumps(settings), encoding="utf-8")
    found = Prometheus(f"http://127.0.0.1:{free_port()}")
    command = [
        find_built(default_cache(), ["prometheus"]).path("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'store'}",
        f"--web.listen-address={found.url.removeprefix('http://')}",
        "--log.level=warn",
    ]
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            return found.is_ready()

        try:
            wait_for(is_ready, 60, log.read_text)
            yield found
        finally:
            process.terminate()


def scrape_config(monitor: Object, kubeconfig: Path) -> Object:
    """How Prometheus looks for what a ServiceMonitor or a PodMonitor chooses."""
    spec = monitor["spec"]
    is_pods = monitor["kind"] == "PodMonitor"
    (endpoint,) = spec["podMetricsEndpoints" if is_pods else "endpoints"]
    of, port = ("pod", "pod_container_port_name") if is_pods else ("service", "endpointslice_port_name")
    chosen = spec["selector"]
    rules = [_keep(f"{of}_label_{meta(label)}", value) for label, value in chosen["matchLabels"].items()]
    for rule in chosen.get("matchExpressions", []):
        assert rule["operator"] == "Exists"
        rules.append(_keep(f"{of}_labelpresent_{meta(rule['key'])}", "true"))
    rules.append(_keep(port, endpoint["port"]))
    shown = {"namespace": "namespace", "pod": "pod_name"}
    shown |= {meta(label): f"pod_label_{meta(label)}" for label in spec.get("podTargetLabels", [])}
    rules += [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
        for label, source in shown.items()
    ]
    rules += [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in rule.items()}
        for rule in endpoint.get("relabelings", [])
    ]
    where: Object = {"role": "pod" if is_pods else "endpointslice", "kubeconfig_file": str(kubeconfig)}
    # Without the field a monitor looks at its own namespace.
    asked = spec.get("namespaceSelector", {"matchNames": [monitor["metadata"]["namespace"]]})
    if not asked.get("any"):
        where["namespaces"] = {"names": asked["matchNames"]}
    return {
        "job_name": monitor["metadata"]["name"],
        "kubernetes_sd_configs": [where],
        "relabel_configs": rules,
    }


def _keep(source: str, value: str) -> Object:
    return {
        "action": "keep",
        "source_labels": [f"__meta_kubernetes_{source}"],
        "regex": re.escape(value),
    }


def meta(label: str) -> str:
    """A label of Kubernetes as Prometheus calls it."""
    return re.sub(r"\W", "_", label)


def seconds_for_minutes(rules: str) -> str:
    """The same rules sixty times as fast: a minute in them becomes a second, an hour a minute."""
    faster = re.sub(r"\b(\d+)m\b", r"\1s", rules)
    return re.sub(r"\b(\d+)h\b", r"\1m", faster)
