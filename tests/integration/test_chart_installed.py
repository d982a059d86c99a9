"""The chart on a real API server: installed, removed, installed again, and the rights that it grants."""

from __future__ import annotations

import json

import pytest

from harness.chart import commands_of, job_of
from harness.cluster import OPERATOR_NAMESPACE, REPOSITORY, CommandError
from harness.documented import commands_in_blocks, page
from harness.installed import CHART, CRD, RELEASE, Installed, install, uninstall
from harness.jobs import finetunejob
from harness.lab import Lab

ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:phitune"


def allowed(phitune: Installed, verb: str, resource: str) -> bool:
    """What the API server says of the operator's service account, in all namespaces."""
    group_resource, _, subresource = resource.partition("/")
    plural, _, group = group_resource.partition(".")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ACCOUNT,
            "resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": plural,
                "subresource": subresource,
            },
        },
    }
    answer = phitune.cluster.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


@pytest.mark.parametrize(
    ("resource", "verbs"),
    [
        ("finetunejobs.phitune.dev", "list watch delete"),
        ("finetunejobs.phitune.dev/status", "patch"),
        ("persistentvolumeclaims", "get list watch create"),
        ("configmaps", "get list watch create"),
        ("networkpolicies.networking.k8s.io", "get create"),
        ("jobs.batch", "get list watch create delete"),
        ("pytorchjobs.kubeflow.org", "get list watch create delete"),
        ("jobsets.jobset.x-k8s.io", "get list watch create delete"),
        ("trainjobs.trainer.kubeflow.org", "get list watch create delete"),
        ("trainingruntimes.trainer.kubeflow.org", "get list watch create delete"),
        ("pods", "list watch delete"),
        ("pods/log", "get"),
        ("events", "get list create patch"),
        ("nodes", "get list"),
    ],
)
def test_operator_may_do_what_it_does(phitune: Installed, resource: str, verbs: str) -> None:
    assert [verb for verb in verbs.split() if not allowed(phitune, verb, resource)] == []


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("patch", "nodes"),
        ("update", "nodes"),
        ("delete", "nodes"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "finetunejobs.phitune.dev"),
        ("patch", "finetunejobs.phitune.dev"),
        ("delete", "persistentvolumeclaims"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("create", "namespaces"),
        ("impersonate", "users"),
        ("create", "serviceaccounts/token"),
        ("*", "*"),
    ],
)
def test_operator_may_not(phitune: Installed, verb: str, resource: str) -> None:
    assert not allowed(phitune, verb, resource)


def test_operator_runs_where_restricted_is_enforced(phitune: Installed) -> None:
    namespace = phitune.cluster.get("namespace", OPERATOR_NAMESPACE)
    assert namespace is not None
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (pod,) = phitune.cluster.list("pods", OPERATOR_NAMESPACE, "app.kubernetes.io/name=phitune-operator")
    assert all(status["ready"] for status in pod["status"]["containerStatuses"])


def test_chart_removed_and_installed_again_keeps_the_jobs(phitune: Installed, lab: Lab) -> None:
    cluster = phitune.cluster
    lab.apply(finetunejob("kept", {"runPolicy": {"suspend": True}}))
    uid = lab.job("kept")["metadata"]["uid"]

    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")

    everything = (
        "deployments,serviceaccounts,configmaps,secrets,roles,rolebindings,clusterroles,clusterrolebindings"
    )
    left = json.loads(cluster.kubectl("get", everything, "-A", "-l", "helm.sh/chart", "-o", "json"))["items"]
    ours = [found for found in left if found["metadata"]["labels"]["helm.sh/chart"].startswith("phitune-")]
    assert not ours
    assert lab.job("kept")["metadata"]["uid"] == uid

    install(cluster)
    assert lab.wait_for_phase("kept", "Suspended")
    assert lab.job("kept")["metadata"]["uid"] == uid


def test_operator_limited_to_a_namespace_serves_that_one_alone(phitune: Installed, lab: Lab) -> None:
    cluster = phitune.cluster
    limited = ["--reuse-values", "--set", f"namespaces={{{lab.namespace}}}", "--wait", "--timeout", "2m"]
    cluster.helm("upgrade", RELEASE, CHART, "--namespace", OPERATOR_NAMESPACE, *limited)
    try:
        with cluster.temporary_namespace("elsewhere") as elsewhere:
            job = finetunejob("limited", {"runPolicy": {"suspend": True}})
            cluster.apply(job, namespace=elsewhere)
            lab.apply(job)
            lab.wait_for_phase("limited", "Suspended")
            left_alone = cluster.get("finetunejob", "limited", elsewhere)
            assert left_alone is not None
            assert "status" not in left_alone
            assert not allowed(phitune, "list", "pods")
    finally:
        install(cluster)


def test_notes_name_commands_that_work(phitune: Installed, lab: Lab) -> None:
    notes = phitune.cluster.helm("get", "notes", RELEASE, "--namespace", OPERATOR_NAMESPACE)
    lab.apply_text(job_of(notes))
    lab.wait_for_phase("digits", "Evaluating", "Running", "Succeeded")
    commands = commands_of(notes)
    assert [words[1] for words in commands] == ["get", "get", "logs", "explain"]
    for words in commands:
        once = [word for word in words[1:] if word not in ("-f", "-w")]
        assert phitune.cluster.kubectl(*once, "--namespace", lab.namespace).strip(), words
    lab.delete("digits")


def test_uninstalled_operator_is_no_longer_there_to_be_found(phitune: Installed) -> None:
    """`uninstall` is what every other test relies on to leave nothing behind."""
    uninstall(phitune.cluster)
    try:
        assert phitune.cluster.get("crd", "finetunejobs.phitune.dev") is None
        assert phitune.cluster.get("namespace", OPERATOR_NAMESPACE) is None
    finally:
        install(phitune.cluster)


def test_a_crd_that_was_put_back_by_hand_is_taken_over_as_troubleshooting_says(
    phitune: Installed, lab: Lab
) -> None:
    cluster = phitune.cluster
    (command,) = [
        words
        for words in commands_in_blocks(page("docs/troubleshooting.md"))
        if words[:2] == ["helm", "upgrade"]
    ]
    cluster.kubectl("delete", "crd", CRD, "--timeout", "60s")
    cluster.kubectl("create", "-f", str(REPOSITORY / "crds/phitune.dev_finetunejobs.yaml"))
    with pytest.raises(CommandError, match='conflict with "kubectl-create"'):
        install(cluster)
    cluster.helm(*command[1:])
    lab.apply(finetunejob("again", {"runPolicy": {"suspend": True}}))
    lab.wait_for_phase("again", "Suspended")


def test_helm_test_asks_the_operator_and_passes(phitune: Installed) -> None:
    said = phitune.cluster.helm("test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout", "120s")
    assert "Succeeded" in said
