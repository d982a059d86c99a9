"""What the chart renders from its values, without a cluster's help beyond helm itself."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
import yaml

from harness.chart import CHART, one, pod_spec, rendered, told
from harness.cluster import REPOSITORY, Cluster, CommandError, Object
from harness.kubernetes_versions import MINORS, is_known, problems
from harness.network import Peer, lets_through
from harness.operator_view import subject
from phitune_operator import names
from phitune_operator.cluster_settings import (
    NetworkProfile,
    Pool,
    network_profiles,
    pools,
    wants_gang_scheduling,
)
from phitune_operator.main import hub_access, network_access
from phitune_operator.observed import HubAccess, NetworkAccess
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pytorchjob import pytorchjob


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
        pytest.param('fullnameOverride="Foo_Bar"', "fullnameOverride", id="not an object's name"),
    ],
)
def test_wrong_value_is_refused_by_name(cluster: Cluster, setting: str, named: str) -> None:
    with pytest.raises(CommandError) as refusal:
        rendered(cluster, setting)
    assert named in refusal.value.stderr


def test_way_to_the_hub_reaches_the_operator(cluster: Cluster) -> None:
    settings = ['hub.endpoint="https://mirror"', 'hub.proxy="http://proxy:1"', 'hub.noProxy=".cluster"']
    env = told(rendered(cluster, *settings, 'hub.caConfigMap="ca"'))
    assert hub_access(env) == HubAccess(
        endpoint="https://mirror", proxy="http://proxy:1", no_proxy=".cluster", ca_config_map="ca"
    )


def test_pools_and_network_profiles_reach_the_operator(cluster: Cluster) -> None:
    pool = {
        "name": "a100",
        "product": "A100-80GB",
        "gpusPerNode": 8,
        "cpu": 96,
        "memory": "1100Gi",
        "maxNodes": 4,
        "labels": {"pool": "a100"},
    }
    profile = {"product": "H100", "env": {"NCCL_IB_HCA": "mlx5"}, "resources": {"rdma/hca": 1}}
    env = told(rendered(cluster, f"pools=[{json.dumps(pool)}]", f"networkProfiles=[{json.dumps(profile)}]"))
    assert pools(env) == (Pool.model_validate({**pool, "cpu": "96"}),)
    assert network_profiles(env) == (NetworkProfile.model_validate(profile),)
    assert env["PHITUNE_POOL_WAIT"] == "900"
    with pytest.raises(CommandError, match="labels"):
        rendered(cluster, f"pools=[{json.dumps({**pool, 'labels': {}})}]")


def test_digest_wins_over_tag(cluster: Cluster) -> None:
    digest = "sha256:" + "a" * 64
    objects = rendered(cluster, 'image.repository="r/operator"', 'image.tag="1"', f'image.digest="{digest}"')
    assert pod_spec(objects)["containers"][0]["image"] == f"r/operator@{digest}"


def test_every_operator_of_a_release_waits_for_the_lease_that_its_role_names(cluster: Cluster) -> None:
    objects = rendered(cluster, "replicas=2")
    assert one(objects, "Deployment")["spec"]["replicas"] == 2
    env = told(objects)
    _, rule = one(objects, "Role")["rules"]
    assert env["PHITUNE_LEASE"] == f"phitune-system/{rule['resourceNames'][0]}"


def test_list_of_namespaces_limits_the_rights_to_them(cluster: Cluster) -> None:
    objects = rendered(cluster, 'namespaces=["a","b"]')
    roles = [
        found for found in objects if found["kind"] == "Role" and "-lease" not in found["metadata"]["name"]
    ]
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    (ours,) = [
        found
        for found in objects
        if found["kind"] == "ClusterRole" and found["metadata"]["name"] == "phitune-system-phitune"
    ]
    assert {resource for rule in ours["rules"] for resource in rule["resources"]} == {"nodes"}


ROLES = {
    # what may be done with FineTuneJobs, and to which of the cluster's own roles it is added
    "view": ({"get", "list", "watch"}, {"view", "edit", "admin"}),
    "edit": ({"create", "update", "patch", "delete", "deletecollection"}, {"edit", "admin"}),
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_of_people_are_aggregated_and_leave_status_to_the_operator(cluster: Cluster, name: str) -> None:
    (role,) = [
        found for found in rendered(cluster) if found["metadata"]["name"] == f"phitune-system-phitune-{name}"
    ]
    verbs, into = ROLES[name]
    (rule,) = role["rules"]
    assert set(rule["verbs"]) == verbs
    assert ("finetunejobs/status" in rule["resources"]) == (name == "view")
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels = {label for label in role["metadata"]["labels"] if label.startswith(prefix)}
    assert labels == {prefix + one for one in into}


def test_without_aggregation_only_the_operator_gets_rights(cluster: Cluster) -> None:
    made = {found["metadata"]["name"] for found in rendered(cluster, "aggregateRoles=false")}
    assert not {"phitune-system-phitune-view", "phitune-system-phitune-edit"} & made


OPERATOR = Peer(
    "phitune-system", {"app.kubernetes.io/name": "phitune-operator", "app.kubernetes.io/instance": "phitune"}
)
RANK_ZERO = Peer("team", {"phitune.dev/role": "trainer"})
PREPARE = Peer("team", {"phitune.dev/role": "prepare"})
PROMETHEUS = Peer("monitoring", {})
HELM_TEST = Peer(
    "phitune-system", {"app.kubernetes.io/name": "phitune-test", "app.kubernetes.io/instance": "phitune"}
)
ANYBODY = Peer("team", {"app": "web"})
API_SERVER = Peer(address="10.0.0.1")


def test_operator_reaches_the_api_server_rank_zero_and_dns_and_prometheus_reaches_it(
    cluster: Cluster,
) -> None:
    policy = one(rendered(cluster, 'networkPolicy.prometheusNamespace="monitoring"'), "NetworkPolicy")
    for rule in policy["spec"]["ingress"]:
        assert [port.pop("port") for port in rule["ports"]] == ["health"], "the pod's port of that name"
        rule["ports"][0]["port"] = 8080
    for source, target, port in (
        *((OPERATOR, API_SERVER, port) for port in (443, 6443, 8443, 16443)),
        (OPERATOR, RANK_ZERO, names.PROGRESS_PORT),
        (OPERATOR, Peer("kube-system", {"k8s-app": "kube-dns"}), 53),
        (PROMETHEUS, OPERATOR, 8080),
        (HELM_TEST, OPERATOR, 8080),
    ):
        assert lets_through([policy], source, target, port), (source, target, port)
    for source, target, port in (
        (OPERATOR, RANK_ZERO, 22),
        (OPERATOR, PREPARE, names.PROGRESS_PORT),
        (OPERATOR, API_SERVER, 25),
        (ANYBODY, OPERATOR, 8080),
        (PROMETHEUS, OPERATOR, 8081),
    ):
        assert not lets_through([policy], source, target, port), (source, target, port)


def test_the_jobs_policies_follow_the_charts_values(cluster: Cluster) -> None:
    settings = [
        'networkPolicy.prometheusNamespace="monitoring"',
        'networkPolicy.dnsNamespace="openshift-dns"',
    ]
    env = told(rendered(cluster, *settings))
    assert network_access(env) == NetworkAccess(
        operator_namespace="phitune-system",
        dns_namespace="openshift-dns",
        prometheus_namespace="monitoring",
    )


def test_without_network_policies_there_is_none_and_no_right_to_make_one(cluster: Cluster) -> None:
    objects = rendered(cluster, "networkPolicy.enabled=false")
    assert "NetworkPolicy" not in {found["kind"] for found in objects}
    assert "networkpolicies" not in json.dumps(objects)
    env = told(objects)
    assert network_access(env) is None


POD_GROUPS = "scheduling.k8s.io/v1alpha2/PodGroup"
POLICIES = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"


@pytest.mark.parametrize(
    ("settings", "served", "is_on"),
    [
        pytest.param([], [], False, id="not there"),
        pytest.param([], [POD_GROUPS], False, id="no way to bring pods to their groups"),
        pytest.param([], [POD_GROUPS, POLICIES], True, id="there"),
        pytest.param(
            ['gangScheduling="disabled"'], [POD_GROUPS, POLICIES], False, id="there, and not wished for"
        ),
        pytest.param(['gangScheduling="enabled"'], [], True, id="wished for"),
    ],
)
def test_scheduler_places_gangs_where_it_can_and_may_and_only_then_there_is_a_right_to_their_groups(
    cluster: Cluster, settings: list[str], served: list[str], is_on: bool
) -> None:
    objects = rendered(cluster, *settings, options=tuple(f"--api-versions={api}" for api in served))
    kinds = {found["kind"] for found in objects}
    policies = {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"}
    assert policies & kinds == (policies if is_on else set())
    assert ("podgroups" in json.dumps(objects)) is is_on
    assert wants_gang_scheduling(told(objects)) is is_on


def test_policy_for_gangs_is_bound_and_knows_pods_of_gangs_by_what_they_carry(cluster: Cluster) -> None:
    objects = rendered(cluster, 'gangScheduling="enabled"', 'namespaces=["a"]')
    policy = one(objects, "MutatingAdmissionPolicy")
    assert one(objects, "MutatingAdmissionPolicyBinding")["spec"]["policyName"] == policy["metadata"]["name"]
    matched = policy["spec"]["matchConstraints"]
    (within,) = matched["namespaceSelector"]["matchExpressions"]
    assert (within["operator"], within["values"]) == ("In", ["a"])
    pods = pytorchjob(replace(subject(), has_pod_group=True), 1)["spec"]["pytorchReplicaSpecs"]["Master"]
    labels = pods["template"]["metadata"]["labels"]
    assert matched["objectSelector"]["matchLabels"].items() <= labels.items()
    (carried,) = matched["objectSelector"]["matchExpressions"]
    assert carried == {"key": names.LABEL_POD_GROUP, "operator": "Exists"}
    (mutation,) = policy["spec"]["mutations"]
    assert f'object.metadata.labels["{names.LABEL_POD_GROUP}"]' in mutation["jsonPatch"]["expression"]
    assert policy["spec"]["failurePolicy"] == "Fail"


def test_no_role_names_a_wildcard_or_secrets(cluster: Cluster) -> None:
    objects = rendered(cluster)
    rules = [rule for found in objects if found["kind"] in ("Role", "ClusterRole") for rule in found["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]


@pytest.mark.parametrize(("keep", "policy"), [("true", "keep"), ("false", None)])
def test_custom_resource_outlives_the_chart_only_if_asked(
    cluster: Cluster, keep: str, policy: str | None
) -> None:
    definition = one(rendered(cluster, f"crds.keep={keep}"), "CustomResourceDefinition")
    assert definition["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == policy


def test_prometheus_and_grafana_get_what_is_asked_for_and_nothing_else(cluster: Cluster) -> None:
    wanted = {
        "serviceMonitor": "ServiceMonitor",
        "podMonitor": "PodMonitor",
        "prometheusRule": "PrometheusRule",
        "dashboard": "ConfigMap",
    }
    assert not set(wanted.values()) & {found["kind"] for found in rendered(cluster)}
    for value, kind in wanted.items():
        found = one(rendered(cluster, f"monitoring.{value}=true", 'monitoring.labels={"team":"a"}'), kind)
        assert value == "dashboard" or found["metadata"]["labels"]["team"] == "a"
    monitors = rendered(cluster, "monitoring.serviceMonitor=true", 'monitoring.interval="15s"')
    (endpoint,) = one(monitors, "ServiceMonitor")["spec"]["endpoints"]
    service = one(monitors, "Service")
    assert endpoint == {"port": service["spec"]["ports"][0]["name"], "interval": "15s"}
    labels = service["metadata"]["labels"]
    assert one(monitors, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_pod_monitor_looks_at_the_pods_that_the_operator_makes(cluster: Cluster) -> None:
    monitor = one(rendered(cluster, "monitoring.podMonitor=true"), "PodMonitor")
    assert monitor["spec"]["selector"]["matchExpressions"][0]["key"] == names.LABEL_JOB
    assert monitor["spec"]["podTargetLabels"] == [names.LABEL_JOB, names.LABEL_ATTEMPT]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == names.PROGRESS_PORT_NAME
    (template,) = jobset(subject(), 1)["spec"]["replicatedJobs"]
    of_jobset = template["template"]["spec"]["template"]["metadata"]["labels"]
    replicas = pytorchjob(subject(), 1)["spec"]["pytorchReplicaSpecs"]
    master, worker = (replicas[role]["template"]["metadata"]["labels"] for role in ("Master", "Worker"))
    gangs = (master, worker, {**of_jobset, names.LABEL_INDEX: "0"}, {**of_jobset, names.LABEL_INDEX: "10"})
    for labels in gangs:
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert is_kept(endpoint["relabelings"], labels) == names.is_rank_zero(labels)
    limited = one(rendered(cluster, "monitoring.podMonitor=true", 'namespaces=["a"]'), "PodMonitor")
    assert limited["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


def is_kept(relabelings: list[Object], labels: Mapping[str, str]) -> bool:
    """Whether Prometheus keeps a pod with these labels."""
    meta = {"__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", key): labels[key] for key in labels}
    assert {rule["action"] for rule in relabelings} == {"keep"}
    return all(
        re.fullmatch(rule["regex"], ";".join(meta.get(label, "") for label in rule["sourceLabels"]))
        for rule in relabelings
    )


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_a_drain_leaves_one_of_several_operators_and_is_not_held_up_by_a_single_one(
    cluster: Cluster, replicas: int, budgets: int
) -> None:
    kinds = [found["kind"] for found in rendered(cluster, f"replicas={replicas}")]
    assert kinds.count("PodDisruptionBudget") == budgets


OWN = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}, "podAntiAffinity": {}}


@pytest.mark.parametrize(
    ("settings", "affinity"),
    [
        pytest.param(["replicas=1"], None, id="one"),
        pytest.param(["replicas=2"], {"podAntiAffinity"}, id="two"),
        pytest.param(["replicas=2", f"affinity={json.dumps(OWN)}"], set(OWN), id="two, with a wish"),
    ],
)
def test_several_operators_keep_off_each_others_nodes_if_they_can(
    cluster: Cluster, settings: list[str], affinity: set[str] | None
) -> None:
    objects = rendered(cluster, *settings)
    found = pod_spec(objects).get("affinity")
    assert (set(found) if found else None) == affinity
    if affinity == {"podAntiAffinity"}:
        (term,) = found["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        others = term["podAffinityTerm"]
        assert others["topologyKey"] == "kubernetes.io/hostname"
        labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert others["labelSelector"]["matchLabels"].items() <= labels.items()


def test_helm_test_runs_on_the_nodes_that_the_operator_may_run_on(cluster: Cluster) -> None:
    where = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": OWN}
    asks = one(rendered(cluster, *(f"{name}={json.dumps(value)}" for name, value in where.items())), "Pod")
    assert {name: asks["spec"][name] for name in where} == where | {
        "affinity": {"nodeAffinity": OWN["nodeAffinity"]}
    }


LIKE_NUMBERS = (
    'namespaces=["4711"]',
    'networkPolicy.prometheusNamespace="12"',
    'networkPolicy.dnsNamespace="null"',
    'serviceAccount.name="34"',
    'priorityClassName="off"',
    'gangScheduling="enabled"',
    "replicas=2",
    *(f"monitoring.{part}=true" for part in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")),
)


@pytest.mark.parametrize(("release", "more"), [("1", ()), ("phitune", ('fullnameOverride="null"',))])
def test_names_that_look_like_numbers_stay_names(
    cluster: Cluster, release: str, more: tuple[str, ...]
) -> None:
    objects = rendered(cluster, *LIKE_NUMBERS, *more, release=release, namespace="123")
    assert [said for found in objects if is_known(found) for said in problems(found, MINORS[-1])] == []
    for found in objects:
        about = found["metadata"]
        names_in_it = (about["name"], about.get("namespace", ""), *about["labels"].values())
        assert {type(name) for name in names_in_it} == {str}, about
    env = told(objects)
    assert env["PHITUNE_NAMESPACES"] == "4711"
    assert network_access(env) == NetworkAccess(
        operator_namespace="123", dns_namespace="null", prometheus_namespace="12"
    )
