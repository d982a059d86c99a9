"""What helm makes of our chart and some values, without installing it."""

from __future__ import annotations

from typing import Any

import yaml

from harness.cluster import REPOSITORY, Cluster, Object

CHART = str(REPOSITORY / "charts/phitune")


def rendered(
    cluster: Cluster, *settings: str, release: str = "phitune", options: tuple[str, ...] = ()
) -> list[Object]:
    """The objects of a release with these values, each given as name=JSON."""
    chosen = [part for setting in settings for part in ("--set-json", setting)]
    text = cluster.helm("template", release, CHART, "--namespace", "phitune-system", *options, *chosen)
    return [found for found in yaml.safe_load_all(text) if found]


def one(objects: list[Object], kind: str) -> Object:
    """The only object of a kind."""
    (found,) = [found for found in objects if found["kind"] == kind]
    return found


def pod_spec(objects: list[Object]) -> Any:
    """How the operator's pods are to run."""
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def told(objects: list[Object]) -> dict[str, str]:
    """The variables of the operator."""
    (container,) = pod_spec(objects)["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}
