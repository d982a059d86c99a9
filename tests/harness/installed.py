"""Our chart on a cluster: installed as a user would, and removed without a trace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from harness.cluster import OPERATOR_NAMESPACE, REPOSITORY, Cluster, namespace_object, run, wait_for
from harness.provision import load

RELEASE = "phitune"
CHART = str(REPOSITORY / "charts/phitune")
CRD = "finetunejobs.phitune.dev"


_TAKEN: set[Cluster] = set()
"""Clusters of somebody else's that were empty when the tests came."""


@dataclass(frozen=True)
class Installed:
    """The operator at work on a cluster."""

    cluster: Cluster
    trainer_image: str
    operator_image: str


@dataclass(frozen=True)
class Images:
    """Names of our images, as the cluster's nodes know them."""

    operator: str
    trainer: str


def install(cluster: Cluster, *, chart: str = CHART, operator_image: str = "") -> Installed:
    """Install the chart from its sources, or upgrade to them, and wait until the operator is ready.

    `chart` and `operator_image`: those of another release, if they are given.
    """
    refuse_cluster_in_use(cluster)
    images = provided_images(cluster)
    repository, _, tag = (operator_image or images.operator).rpartition(":")
    values = {"image.repository": repository, "image.tag": tag, "trainer.image": images.trainer}
    chosen = [part for name, value in values.items() for part in ("--set-string", f"{name}={value}")]
    cluster.apply(namespace_object(OPERATOR_NAMESPACE))
    cluster.helm(
        "upgrade",
        "--install",
        RELEASE,
        chart,
        "--namespace",
        OPERATOR_NAMESPACE,
        "--wait",
        "--timeout",
        "2m",
        *chosen,
    )
    return Installed(cluster, images.trainer, images.operator)


@contextmanager
def other_trainer_image(cluster: Cluster, image: str) -> Iterator[None]:
    """Upgrade the operator to one that has another trainer image, and back."""
    where = ("--namespace", OPERATOR_NAMESPACE, "--reuse-values", "--wait", "--timeout", "2m")
    try:
        cluster.helm("upgrade", RELEASE, CHART, *where, "--set-string", f"trainer.image={image}")
        yield
    finally:
        install(cluster)


def uninstall(cluster: Cluster) -> None:
    """Remove the chart, the CRD that it leaves on purpose, and the namespace."""
    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
    cluster.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout", "120s")
    cluster.kubectl("delete", "namespace", OPERATOR_NAMESPACE, "--ignore-not-found", "--timeout", "120s")


def refuse_cluster_in_use(cluster: Cluster) -> None:
    """Raise where the operator is installed already: removing ours would take other people's jobs along."""
    if cluster.is_local or cluster in _TAKEN:
        return
    if cluster.get("crd", CRD) is not None:
        raise RuntimeError(f"{cluster.kubeconfig}: this cluster has FineTuneJobs already; test on another")
    _TAKEN.add(cluster)


@contextmanager
def no_installed_operator(cluster: Cluster) -> Iterator[None]:
    """Stop the operator that the chart brought, if it did, for a test that runs its own."""
    found = cluster.get("deployment", RELEASE, namespace=OPERATOR_NAMESPACE)
    if found is None:
        yield
        return
    scale(cluster, 0)
    try:
        yield
    finally:
        scale(cluster, found["spec"]["replicas"])


def scale(cluster: Cluster, replicas: int) -> None:
    """Set the number of the installed operator's pods, and wait until it is so."""
    where = ("--namespace", OPERATOR_NAMESPACE)
    pods = ("get", "pods", "-o", "name", "--selector", f"app.kubernetes.io/instance={RELEASE}", *where)
    cluster.kubectl("scale", "deployment", RELEASE, f"--replicas={replicas}", *where)
    cluster.kubectl("rollout", "status", "deployment", RELEASE, "--timeout", "60s", *where)
    wait_for(
        lambda: len(cluster.kubectl(*pods).splitlines()) == replicas,
        60,
        lambda: f"not {replicas} operators: {cluster.kubectl(*pods)}",
    )


@cache
def provided_images(cluster: Cluster) -> Images:
    """Build both images, once a session, and bring them to where the nodes find them."""
    where = [] if cluster.is_local else ["--push", os.environ["REGISTRY"]]
    text = run([sys.executable, str(REPOSITORY / "hack/images"), "build", "--json", *where], timeout=1800)
    built = {image["name"]: image for image in json.loads(text)}
    if cluster.is_local:
        load(cluster, [image["archive"] for image in built.values()])
    return Images(built["operator"]["reference"], built["trainer"]["reference"])
