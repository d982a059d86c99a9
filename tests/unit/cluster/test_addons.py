"""What runs in the cluster from the start."""

import json

import pytest

from localkube import addons, coredns, training_operator

CERTIFICATES = {"ca.crt": "YQ=="}


def deployment(
    *, generation: int = 2, seen: int = 2, replicas: int = 1, updated: int = 1, available: int = 1
):
    status = {
        "observedGeneration": seen,
        "replicas": replicas,
        "updatedReplicas": updated,
        "availableReplicas": available,
    }
    return {"metadata": {"generation": generation}, "spec": {"replicas": 1}, "status": status}


@pytest.mark.parametrize(
    ("one", "is_rolled_out"),
    [
        pytest.param(deployment(), True, id="done"),
        pytest.param(deployment(seen=1), False, id="the change is not seen yet"),
        pytest.param(deployment(replicas=2), False, id="the old pod is still there"),
        pytest.param(deployment(updated=0), False, id="the new pod is not made yet"),
        pytest.param(deployment(available=0), False, id="not ready"),
        pytest.param({**deployment(), "status": {}}, False, id="new"),
    ],
)
def test_a_rollout_is_over_when_only_the_new_answers(one, is_rolled_out):
    assert addons.is_rolled_out(one) is is_rolled_out


def is_restricted(container: dict) -> bool:
    context = container["securityContext"]
    return (
        context["allowPrivilegeEscalation"] is False
        and context["runAsNonRoot"] is True
        and context["capabilities"] == {"drop": ["ALL"]}
        and context["seccompProfile"] == {"type": "RuntimeDefault"}
    )


def test_our_own_pods_pass_the_restricted_standard():
    objects = coredns.objects("localhost/coredns:1", [])
    (made,) = [item for item in objects if item["kind"] == "Deployment"]
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert is_restricted(container)
    kustomization = json.loads(
        training_operator.kustomization_files("localhost/op:1", CERTIFICATES)["kustomization.yaml"]
    )
    patch = json.loads(kustomization["patches"][0]["patch"])
    assert is_restricted(patch["spec"]["template"]["spec"]["containers"][0])


def test_the_training_operators_namespace_enforces_it():
    files = training_operator.kustomization_files("localhost/op:1", CERTIFICATES)
    (namespace,) = [
        item for item in json.loads(files["objects.json"])["items"] if item["kind"] == "Namespace"
    ]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_image_is_the_one_that_was_built():
    files = training_operator.kustomization_files("localhost/op:1.2", CERTIFICATES)
    patch = json.loads(json.loads(files["kustomization.yaml"])["patches"][0]["patch"])
    assert patch["spec"]["template"]["spec"]["containers"][0]["image"] == "localhost/op:1.2"


def test_without_resolvers_nothing_is_forwarded():
    assert "forward" not in coredns.corefile([])
    assert "    forward . 10.0.0.1 10.0.0.2\n" in coredns.corefile(["10.0.0.1", "10.0.0.2"])


def test_a_changed_corefile_is_a_changed_pod():
    def annotations(resolvers: list[str]) -> dict[str, str]:
        (made,) = [item for item in coredns.objects("i", resolvers) if item["kind"] == "Deployment"]
        return made["spec"]["template"]["metadata"]["annotations"]

    assert annotations([]) == annotations([])
    assert annotations([]) != annotations(["10.0.0.1"])


def test_the_init_container_is_told_where_to_look():
    for variable in ("{{.InitContainerImage}}", "{{.MasterAddr}}", "{{.MaxTries}}"):
        assert variable in training_operator.INIT_CONTAINER
