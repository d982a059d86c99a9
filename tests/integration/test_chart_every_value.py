"""No value of the chart is without effect: each has a row that names a value, and where it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from harness.chart import one, rendered, told
from harness.cluster import REPOSITORY, Cluster, Object

DIGEST = "sha256:" + "a" * 64
POOL = {
    "name": "a",
    "product": "H100",
    "gpusPerNode": 8,
    "cpu": "9",
    "memory": "9Gi",
    "maxNodes": 2,
    "labels": {"a": "b"},
}
PROFILE = {"product": "H100", "env": {"NCCL_IB_HCA": "mlx5"}}
POD = "Deployment.spec.template.spec"
OPERATOR = f"{POD}.containers.0"
MONITORS = ("monitoring.serviceMonitor=true", "monitoring.podMonitor=true", "monitoring.prometheusRule=true")
NOTHING: Any = None

VALUES: dict[str, tuple[Any, str, Any]] = {
    # value: another than its default, a place of what is made, and what is there then
    "fullnameOverride": ("other", "Deployment.metadata.name", "other"),
    "image.repository": ("r/operator", f"{OPERATOR}.image", "r/operator:0.1.0"),
    "image.tag": ("9", f"{OPERATOR}.image", "localhost/phitune/operator:9"),
    "image.digest": (DIGEST, f"{OPERATOR}.image", f"localhost/phitune/operator@{DIGEST}"),
    "image.pullPolicy": ("Always", f"{OPERATOR}.imagePullPolicy", "Always"),
    "trainer.image": ("r/trainer:9", "env.PHITUNE_TRAINER_IMAGE", "r/trainer:9"),
    **{
        f"trainer.images.{build}": ("r/one:9", f"env.PHITUNE_TRAINER_IMAGES.{build}", "r/one:9")
        for build in ("flash", "plain", "v100")
    },
    "pools": ([POOL], "env.PHITUNE_POOLS", [POOL]),
    "poolWaitSeconds": (60, "env.PHITUNE_POOL_WAIT", 60),
    "networkProfiles": ([PROFILE], "env.PHITUNE_NETWORK_PROFILES", [PROFILE]),
    "hub.endpoint": ("https://mirror", "env.PHITUNE_HUB_ENDPOINT", "https://mirror"),
    "hub.proxy": ("http://proxy:1", "env.PHITUNE_HUB_PROXY", "http://proxy:1"),
    "hub.noProxy": (".cluster", "env.PHITUNE_HUB_NO_PROXY", ".cluster"),
    "hub.caConfigMap": ("ca", "env.PHITUNE_HUB_CA_CONFIG_MAP", "ca"),
    "replicas": (2, "Deployment.spec.replicas", 2),
    "imagePullSecrets": ([{"name": "pull"}], f"{POD}.imagePullSecrets", [{"name": "pull"}]),
    "namespaces": (["a"], "env.PHITUNE_NAMESPACES", "a"),
    "networkPolicy.enabled": (False, "env.PHITUNE_OPERATOR_NAMESPACE", NOTHING),
    "networkPolicy.prometheusNamespace": ("monitoring", "env.PHITUNE_PROMETHEUS_NAMESPACE", "monitoring"),
    "networkPolicy.dnsNamespace": ("dns", "env.PHITUNE_DNS_NAMESPACE", "dns"),
    "networkPolicy.apiServerPorts": (
        [1],
        "NetworkPolicy.spec.egress.0.ports",
        [{"protocol": "TCP", "port": 1}],
    ),
    "placementGraceSeconds": (5, "env.PHITUNE_PLACEMENT_GRACE", 5),
    "backend": ("jobset", "env.PHITUNE_BACKEND", "jobset"),
    "gangScheduling": ("enabled", "env.PHITUNE_GANG_SCHEDULING", "true"),
    "logLevel": ("debug", "env.PHITUNE_LOG_LEVEL", "debug"),
    "monitoring.serviceMonitor": (True, "ServiceMonitor.kind", "ServiceMonitor"),
    "monitoring.podMonitor": (True, "PodMonitor.kind", "PodMonitor"),
    "monitoring.prometheusRule": (True, "PrometheusRule.kind", "PrometheusRule"),
    "monitoring.dashboard": (True, "ConfigMap.kind", "ConfigMap"),
    "monitoring.interval": ("9s", "ServiceMonitor.spec.endpoints.0.interval", "9s"),
    "monitoring.labels": ({"team": "a"}, "PrometheusRule.metadata.labels.team", "a"),
    "crds.enabled": (False, "CustomResourceDefinition.kind", NOTHING),
    "crds.keep": (False, "CustomResourceDefinition.metadata.annotations", NOTHING),
    "serviceAccount.create": (False, "ServiceAccount.kind", NOTHING),
    "serviceAccount.name": ("mine", f"{POD}.serviceAccountName", "mine"),
    "serviceAccount.annotations": ({"a": "b"}, "ServiceAccount.metadata.annotations", {"a": "b"}),
    "resources": ({"limits": {"memory": "1Gi"}}, f"{OPERATOR}.resources.limits.memory", "1Gi"),
    "aggregateRoles": (False, "roles", 1),
    "podAnnotations": ({"a": "b"}, "Deployment.spec.template.metadata.annotations", {"a": "b"}),
    "nodeSelector": ({"a": "b"}, f"{POD}.nodeSelector", {"a": "b"}),
    "tolerations": ([{"operator": "Exists"}], f"{POD}.tolerations", [{"operator": "Exists"}]),
    "affinity": ({"nodeAffinity": {}}, f"{POD}.affinity", {"nodeAffinity": {}}),
    "priorityClassName": ("high", f"{POD}.priorityClassName", "high"),
}


def paths(values: Object, above: str = "") -> Iterator[str]:
    """Every value, groups taken apart down to what one sets as a whole."""
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value and path != "resources":
            yield from paths(value, f"{path}.")
        else:
            yield path


def at(objects: list[Object], place: str) -> Any:
    """What is there; None where there is no such object, field or variable."""
    if place == "roles":
        return sum(found["kind"] == "ClusterRole" for found in objects)
    kind, *steps = place.split(".")
    if kind == "env":
        value: Any = told(objects)
    elif kind in {found["kind"] for found in objects}:
        value = one(objects, kind)
    else:
        return None
    for step in steps:
        if isinstance(value, str):
            value = json.loads(value)
        value = value[int(step)] if isinstance(value, list) else (value or {}).get(step)
    return value


@cache
def without(cluster: Cluster, *settings: str) -> list[Object]:
    """What is made with the defaults, and what is needed to see the value at all."""
    return rendered(cluster, *settings)


def test_every_value_has_a_row() -> None:
    values = yaml.safe_load((REPOSITORY / "charts/phitune/values.yaml").read_text(encoding="utf-8"))
    assert set(paths(values)) == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_shows_where_it_should_and_its_default_does_not(cluster: Cluster, name: str) -> None:
    value, place, expected = VALUES[name]
    beside = MONITORS if name in ("monitoring.interval", "monitoring.labels") else ()
    found = at(rendered(cluster, *beside, f"{name}={json.dumps(value)}"), place)
    if isinstance(found, str) and not isinstance(expected, str) and expected is not None:
        found = json.loads(found)
    assert found == expected
    assert at(without(cluster, *beside), place) != expected
