"""Order and marks of all tests, and the cluster that integration and end-to-end tests share.

The cluster is started for the first test that asks for it, never for unit tests. With KUBECONFIG set, that
cluster is used instead (and REGISTRY names where its nodes pull our images from); the tests then remove what
they installed, but not the cluster.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import Cluster
from harness.installed import Installed, install, uninstall
from harness.lab import Lab
from harness.provision import provided_cluster

SUITES = ("unit", "integration", "e2e", "chaos", "addons", "security")
"""Folders of tests, in the order in which they run: what fails fastest comes first; `security` looks back
on what the others have done."""
ON_A_CLUSTER = ("e2e", "chaos", "addons", "security")
"""Suites all of whose tests need a cluster; of the others, those that ask for the fixture do."""


def pytest_configure() -> None:
    """Let a test run that is terminated tidy up as one that is interrupted does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the suites in order; mark tests with their suite, but for `unit`, and where they need a cluster."""
    here = Path(__file__).parent
    suites = {item: item.path.relative_to(here).parts[0] for item in items}
    for item, suite in suites.items():
        if suite == "unit":
            continue
        item.add_marker(suite)
        if suite in ON_A_CLUSTER or "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")
    items.sort(key=lambda item: SUITES.index(suites[item]))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes of at least two nodes with the training-operator."""
    with provided_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def phitune(cluster: Cluster) -> Iterator[Installed]:
    """The chart installed, its operator ready and the trainer's image where the nodes find it."""
    installed = install(cluster)
    yield installed
    uninstall(cluster)


@pytest.fixture
def lab(phitune: Installed, namespace: str) -> Lab:
    """A namespace of the test's own, and what a test does there with jobs."""
    return Lab(phitune.cluster, namespace, phitune.trainer_image)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own that enforces Pod Security `restricted`, removed with all in it."""
    with cluster.temporary_namespace(request.node.name) as name:
        yield name
