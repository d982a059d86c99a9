"""What a job says about its pods holds beside what the operator says, and never instead of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.operator_view import H100, observed
from phitune_operator import names
from phitune_operator.decide import subject_of
from phitune_operator.kinds import Object
from phitune_operator.nodes import Node, Taint
from phitune_operator.observed import Observed
from phitune_operator.render import render_job
from phitune_operator.render.affinity import PREFERRED, REQUIRED

GPU: Object = {
    "resources": {"gpusPerNode": 8, "cpu": None, "memory": None},
    "training": {"globalBatchSize": 16},
}


def templates(pod_template: Object) -> dict[str, Object]:
    """Pod templates of a job that is placed on H100 nodes already, whatever their labels are by now."""
    placed = {"attempt": 1, "placement": {"image": "trainer:1", "product": "H100"}}
    *_, prepare, gang = render_job(
        subject_of(observed({**GPU, "podTemplate": pod_template}, status=placed))[0]
    )
    replicas = gang["spec"]["pytorchReplicaSpecs"]
    trainers = {role: replicas[role]["template"] for role in ("Master", "Worker")}
    return {"prepare": prepare["spec"]["template"], **trainers}


def test_labels_annotations_and_scheduler_reach_every_pod() -> None:
    wish = {"labels": {"team": "x"}, "annotations": {"mesh/inject": "false"}, "schedulerName": "volcano"}
    for template in templates(wish).values():
        labels = template["metadata"]["labels"]
        assert labels["team"] == "x"
        assert labels[names.LABEL_JOB] == "digits"
        assert template["metadata"]["annotations"]["mesh/inject"] == "false"
        assert template["spec"]["schedulerName"] == "volcano"


def test_tolerations_of_both_places_reach_every_pod_and_open_nodes_to_the_placement() -> None:
    spec = {**GPU, "podTemplate": {"tolerations": [{"key": "b", "operator": "Exists"}]}}
    spec["resources"] = {**GPU["resources"], "tolerations": [{"key": "a", "operator": "Exists"}]}
    tainted = tuple(
        Node(
            name=node.name,
            labels=node.labels,
            num_gpus=8,
            taints=(Taint(key=key, value="", effect="NoSchedule"),),
        )
        for node, key in zip(H100, ("a", "b"), strict=True)
    )
    decided, _ = subject_of(observed(spec, nodes=tainted))
    *_, prepare, gang = render_job(decided)
    for template in (prepare["spec"]["template"], gang["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]):
        keys = [toleration.get("key") for toleration in template["spec"]["tolerations"]]
        assert keys[:2] == ["a", "b"]
        assert "node.kubernetes.io/unreachable" in keys


def matches(affinity: Object, labels: dict[str, str]) -> bool:
    """Whether a node of these labels meets what is required, as the scheduler judges it."""
    required = affinity.get("nodeAffinity", {}).get(REQUIRED)
    return required is None or any(
        all(labels.get(one["key"]) in one["values"] for one in term.get("matchExpressions", []))
        for term in required["nodeSelectorTerms"]
    )


ZONES = st.lists(
    st.lists(
        st.fixed_dictionaries(
            {
                "key": st.sampled_from(["zone", "rack"]),
                "operator": st.just("In"),
                "values": st.lists(st.sampled_from("abc"), min_size=1, max_size=2),
            }
        ),
        min_size=1,
        max_size=2,
    ),
    min_size=1,
    max_size=3,
)
"""Terms, each a list of expressions about labels."""


@given(terms=ZONES, zone=st.sampled_from("abc"), rack=st.sampled_from("abc"), is_h100=st.booleans())
def test_a_node_must_meet_what_the_job_and_what_the_operator_requires(
    terms: list[list[Object]], zone: str, rack: str, is_h100: bool
) -> None:
    labels = {"zone": zone, "rack": rack, names.LABEL_GPU_PRODUCT: "H100" if is_h100 else "T4"}
    asked = {
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}}
    }
    made = templates({"affinity": asked})
    for role in ("prepare", "Master", "Worker"):
        assert matches(made[role]["spec"]["affinity"], labels) == (matches(asked, labels) and is_h100)


def test_preferences_and_pods_are_added_to_the_gang_and_prepare_follows_nodes_alone() -> None:
    beside = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "cache"}}}
    asked: dict[str, Any] = {
        "nodeAffinity": {PREFERRED: [{"weight": 1, "preference": {}}]},
        "podAffinity": {REQUIRED: [beside]},
        "podAntiAffinity": {REQUIRED: [beside]},
    }
    made = {role: template["spec"]["affinity"] for role, template in templates({"affinity": asked}).items()}
    for wish in made.values():
        assert wish["nodeAffinity"][PREFERRED] == [{"weight": 1, "preference": {}}]
        assert "H100" in str(wish["nodeAffinity"][REQUIRED])
    assert made["Worker"]["podAffinity"] == {REQUIRED: [beside]}
    apart, theirs = made["Worker"]["podAntiAffinity"][REQUIRED]
    assert apart["topologyKey"] == "kubernetes.io/hostname", "one pod a node still holds"
    assert theirs == beside
    assert set(made["prepare"]) == {"nodeAffinity"}


def test_without_a_wish_there_is_no_empty_affinity() -> None:
    seen: Observed = observed()
    *_, prepare, gang = render_job(subject_of(seen)[0])
    assert "affinity" not in prepare["spec"]["template"]["spec"]
    assert "affinity" not in gang["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
