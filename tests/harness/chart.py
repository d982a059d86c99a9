"""What helm makes of our chart and some values, without installing it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from harness.cluster import OPERATOR_NAMESPACE, REPOSITORY, Cluster, Object

CHART = str(REPOSITORY / "charts/phitune")


def rendered(
    cluster: Cluster,
    *settings: str,
    release: str = "phitune",
    namespace: str = OPERATOR_NAMESPACE,
    options: tuple[str, ...] = (),
) -> list[Object]:
    """The objects of a release with these values, each given as name=JSON."""
    text = cluster.helm("template", release, CHART, "--namespace", namespace, *options, *_chosen(settings))
    return [found for found in yaml.safe_load_all(text) if found]


def notes(cluster: Cluster, *settings: str) -> str:
    """What helm tells who installs a release with these values."""
    where = ("--namespace", OPERATOR_NAMESPACE, "--dry-run=client")
    return cluster.helm("install", "phitune", CHART, *where, *_chosen(settings)).partition("\nNOTES:\n")[2]


def job_of(notes: str) -> str:
    """The manifest of the job that the notes show."""
    (job,) = re.findall(r"^kubectl apply .*-f - <<END\n(.*?)^END$", notes, re.MULTILINE | re.DOTALL)
    return str(job)


def commands_of(notes: str) -> list[list[str]]:
    """The words of the other commands that they show, each on a line of its own."""
    return [line.split() for line in notes.splitlines() if line.startswith("  kubectl ")]


def _chosen(settings: tuple[str, ...]) -> list[str]:
    return [part for setting in settings for part in ("--set-json", setting)]


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
