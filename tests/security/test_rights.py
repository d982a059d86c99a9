"""The operator's rights are least: what it has asked for in all the tests before, and what the chart grants.

This folder runs last, so that the audit log of the cluster holds the end-to-end tests.
"""

from __future__ import annotations

import pytest

from harness.cluster import OPERATOR_NAMESPACE, Cluster
from harness.installed import Installed
from harness.rights import Right, asked_for, granted

ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:phitune"

NEVER_ASKED_FOR = {
    Right("phitune.dev", "finetunejobs/finalizers", "update"): "some API servers want it of whoever sets an "
    "owner reference that blocks deletion; no request is ever made with it",
}
SELDOM_ASKED_FOR = {
    **{
        Right(group, resource, "get"): "tells whose an object is, where one of its name is there already"
        for group, resource in (
            ("", "configmaps"),
            ("networking.k8s.io", "networkpolicies"),
            ("batch", "jobs"),
            ("kubeflow.org", "pytorchjobs"),
        )
    },
    **{
        Right(group, resource, verb): "gangs that are JobSets or TrainJobs, where a cluster has these"
        for group, resource in (
            ("jobset.x-k8s.io", "jobsets"),
            ("trainer.kubeflow.org", "trainjobs"),
            ("trainer.kubeflow.org", "trainingruntimes"),
        )
        for verb in ("get", "list", "watch", "create", "delete")
    },
    **{
        Right("kueue.x-k8s.io", resource, "list"): "a job that names a queue"
        for resource in ("localqueues", "workloads")
    },
    Right("", "events", "get"): "an Event that was posted before, word for word, counts up",
    Right("", "events", "patch"): "the same",
    Right("", "nodes", "get"): "whether the node of a pod that does not end is alive",
    Right("", "nodes", "list"): "where a job wants GPUs",
    Right("", "pods", "delete"): "pods of a failed gang that do not end by themselves",
    Right("batch", "jobs", "delete"): "a job that is suspended, or gets another image, while it prepares",
    Right("phitune.dev", "finetunejobs", "delete"): "runPolicy.ttlAfterFinished",
}
"""Granted for what a run of the tests need not meet, with what that is."""


@pytest.fixture(scope="module")
def asked(phitune: Installed) -> set[Right]:
    """What the operator has asked for since the cluster was started."""
    state = phitune.cluster.state
    if state is None:
        pytest.skip("reads the audit log of the local cluster")
    # A long log is continued in a new file.
    return set().union(*(asked_for(log, ACCOUNT) for log in (state / "logs").glob("audit*.log")))


@pytest.fixture(scope="module")
def grants(phitune: Installed) -> set[Right]:
    """What the roles of the installed chart grant to the operator."""
    return granted(roles_of(phitune.cluster, ACCOUNT))


def roles_of(cluster: Cluster, account: str) -> list[dict[str, object]]:
    """Every Role and ClusterRole that is bound to a service account."""
    _, _, namespace, name = account.split(":")
    found = []
    for binding in (
        *cluster.list("rolebindings", OPERATOR_NAMESPACE),
        *cluster.list("clusterrolebindings", OPERATOR_NAMESPACE),
    ):
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        if subject in binding.get("subjects", []):
            role = cluster.get(binding["roleRef"]["kind"], binding["roleRef"]["name"], OPERATOR_NAMESPACE)
            assert role is not None
            found.append(role)
    return found


def test_operator_has_asked_for_nothing_that_is_not_granted(asked: set[Right], grants: set[Right]) -> None:
    assert len(asked) > 10, "the audit log holds what the operator does"
    assert sorted(map(str, asked - grants)) == []


def test_what_is_granted_was_asked_for_or_is_known_to_be_seldom_or_never(
    request: pytest.FixtureRequest, asked: set[Right], grants: set[Right]
) -> None:
    if not any(item.get_closest_marker("e2e") for item in request.session.items):
        pytest.skip("the end-to-end tests have not run before")
    assert sorted(map(str, grants - asked - {*NEVER_ASKED_FOR, *SELDOM_ASKED_FOR})) == []


def test_what_is_listed_as_seldom_or_never_is_granted_and_never_is_never(
    asked: set[Right], grants: set[Right]
) -> None:
    assert {*NEVER_ASKED_FOR, *SELDOM_ASKED_FOR} <= grants
    assert not asked & set(NEVER_ASKED_FOR)
