"""What the chart renders from its values, without a cluster's help beyond helm itself."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY, Cluster, CommandError, Object
from phitune_operator.main import hub_access
from phitune_operator.observed import HubAccess

CHART = str(REPOSITORY / "charts/phitune")


def rendered(cluster: Cluster, *settings: str, release: str = "phitune") -> list[Object]:
    chosen = [part for setting in settings for part in ("--set-json", setting)]
    text = cluster.helm("template", release, CHART, "--namespace", "phitune-system", *chosen)
    return [found for found in yaml.safe_load_all(text) if found]


def one(objects: list[Object], kind: str) -> Object:
    (found,) = [found for found in objects if found["kind"] == kind]
    return found


def pod_spec(objects: list[Object]) -> Any:
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def test_lint_finds_nothing(cluster: Cluster) -> None:
    assert "0 chart(s) failed" in cluster.helm("lint", "--strict", CHART)


def test_every_value_has_a_comment_and_a_schema() -> None:
    text = (REPOSITORY / "charts/phitune/values.yaml").read_text(encoding="utf-8")
    schema = json.loads((REPOSITORY / "charts/phitune/values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load(text)
    assert set(values) == set(schema["properties"]) - {"global"}
    lines = text.splitlines()
    uncommented = [
        line
        for above, line in itertools.pairwise(lines)
        if line.endswith((": {}", ": []", ': ""'))
        if not above.strip().startswith("#")
    ]
    assert not uncommented, f"values without a comment above: {uncommented}"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        pytest.param("replica=2", "replica", id="unknown at the top"),
        pytest.param('image.name="x"', "name", id="unknown in a group"),
        pytest.param('image.pullPolicy="Sometimes"', "pullPolicy", id="not one of the choices"),
        pytest.param('image.digest="abc"', "digest", id="not a digest"),
        pytest.param('namespaces=["Not_A_Name"]', "namespaces", id="not a namespace's name"),
    ],
)
def test_wrong_value_is_refused_by_name(cluster: Cluster, setting: str, named: str) -> None:
    with pytest.raises(CommandError) as refusal:
        rendered(cluster, setting)
    assert named in refusal.value.stderr


def test_trainer_image_reaches_the_operator(cluster: Cluster) -> None:
    (container,) = pod_spec(rendered(cluster, 'trainer.image="registry.example/trainer:9"'))["containers"]
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert env["PHITUNE_TRAINER_IMAGE"] == "registry.example/trainer:9"


def test_way_to_the_hub_reaches_the_operator(cluster: Cluster) -> None:
    settings = ['hub.endpoint="https://mirror"', 'hub.proxy="http://proxy:1"', 'hub.noProxy=".cluster"']
    (container,) = pod_spec(rendered(cluster, *settings, 'hub.caConfigMap="ca"'))["containers"]
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert hub_access(env) == HubAccess(
        endpoint="https://mirror", proxy="http://proxy:1", no_proxy=".cluster", ca_config_map="ca"
    )


def test_digest_wins_over_tag(cluster: Cluster) -> None:
    digest = "sha256:" + "a" * 64
    objects = rendered(cluster, 'image.repository="r/operator"', 'image.tag="1"', f'image.digest="{digest}"')
    assert pod_spec(objects)["containers"][0]["image"] == f"r/operator@{digest}"


def test_places_and_pull_secrets_reach_the_pod(cluster: Cluster) -> None:
    spec = pod_spec(
        rendered(
            cluster,
            'nodeSelector={"disk":"fast"}',
            'tolerations=[{"key":"k","operator":"Exists"}]',
            'affinity={"nodeAffinity":{}}',
            'imagePullSecrets=[{"name":"pull"}]',
            'priorityClassName="high"',
        )
    )
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["tolerations"] == [{"key": "k", "operator": "Exists"}]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["priorityClassName"] == "high"


def test_every_operator_of_a_release_waits_for_the_lease_that_its_role_names(cluster: Cluster) -> None:
    objects = rendered(cluster, "replicas=2")
    assert one(objects, "Deployment")["spec"]["replicas"] == 2
    (container,) = pod_spec(objects)["containers"]
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    _, rule = one(objects, "Role")["rules"]
    assert env["PHITUNE_LEASE"] == f"phitune-system/{rule['resourceNames'][0]}"


def test_list_of_namespaces_limits_the_rights_to_them(cluster: Cluster) -> None:
    objects = rendered(cluster, 'namespaces=["a","b"]')
    roles = [
        found for found in objects if found["kind"] == "Role" and "-lease" not in found["metadata"]["name"]
    ]
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    cluster_wide = {
        resource for rule in one(objects, "ClusterRole")["rules"] for resource in rule["resources"]
    }
    assert cluster_wide == {"nodes"}


def test_no_role_names_a_wildcard_or_secrets(cluster: Cluster) -> None:
    objects = rendered(cluster)
    rules = [rule for found in objects if found["kind"] in ("Role", "ClusterRole") for rule in found["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]


def test_custom_resource_is_left_out_when_disabled(cluster: Cluster) -> None:
    kinds = [found["kind"] for found in rendered(cluster, "crds.enabled=false")]
    assert "CustomResourceDefinition" not in kinds
    assert "Deployment" in kinds


@pytest.mark.parametrize(("keep", "policy"), [("true", "keep"), ("false", None)])
def test_custom_resource_outlives_the_chart_only_if_asked(
    cluster: Cluster, keep: str, policy: str | None
) -> None:
    definition = one(rendered(cluster, f"crds.keep={keep}"), "CustomResourceDefinition")
    assert definition["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == policy
