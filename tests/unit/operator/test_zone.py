"""A volume that is made where the prepare pod is must lie where all of the gang can run."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from harness.operator_view import H100, observed
from phitune_operator.decide import subject_of
from phitune_operator.kinds import Object
from phitune_operator.names import LABEL_GPU_PRODUCT, LABEL_ZONE
from phitune_operator.nodes import Node
from phitune_operator.policies.zone import zones_for
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.pytorchjob import pytorchjob

BOUND = {"status": {"phase": "Bound"}}
GPUS: Object = {
    "resources": {"gpusPerNode": 8, "cpu": None, "memory": None},
    "training": {"globalBatchSize": 16},
}
WHEN = "requiredDuringSchedulingIgnoredDuringExecution"


def nodes(*zones: str) -> tuple[Node, ...]:
    """A node of 8 GPUs in each of these zones; in none where the name is empty."""
    return tuple(
        Node(
            name=f"n{index}",
            labels={LABEL_GPU_PRODUCT: "H100", **({LABEL_ZONE: zone} if zone else {})},
            num_gpus=8,
        )
        for index, zone in enumerate(zones)
    )


@pytest.mark.parametrize(
    ("zones", "claim", "expected"),
    [
        pytest.param(("a", "b", "b"), None, ("b",), id="only one has enough nodes"),
        pytest.param(("a", "b", "b", "c", "c"), {"status": {"phase": "Pending"}}, ("b", "c"), id="two have"),
        pytest.param(("a", "b", "b"), BOUND, (), id="the volume is there already"),
        pytest.param(("a", "a", "b", "b"), None, (), id="any will do"),
        pytest.param(("a", "b"), None, (), id="none has enough: the volume may be of use in all"),
        pytest.param(("", ""), None, (), id="nodes tell no zone"),
        pytest.param((), None, (), id="on CPU"),
    ],
)
def test_zones_of_a_gang_of_two_nodes(zones: Any, claim: Any, expected: tuple[str, ...]) -> None:
    assert zones_for(nodes(*zones), num_nodes=2, claim=claim) == expected


def test_prepare_goes_to_such_a_zone_and_the_gang_wherever_its_volume_is() -> None:
    def asked(template: Object) -> list[Any]:
        terms = template["spec"]["affinity"]["nodeAffinity"][WHEN]["nodeSelectorTerms"]
        return [term["matchExpressions"] for term in terms]

    subject = subject_of(observed(GPUS, nodes=nodes("a", "b", "b")))[0]
    of_prepare = asked(prepare_job(subject)["spec"]["template"])
    of_gang = asked(pytorchjob(subject, 1)["spec"]["pytorchReplicaSpecs"]["Master"]["template"])
    in_zone = {"key": LABEL_ZONE, "operator": "In", "values": ["b"]}
    assert of_prepare == [[*term, in_zone] for term in of_gang]
    anywhere = subject_of(observed(GPUS, nodes=H100))[0]
    assert LABEL_ZONE not in repr(prepare_job(anywhere))


def test_prepare_on_cpu_keeps_to_no_zone() -> None:
    """Its pod is bound to no nodes: it would be made again for nothing when nodes come and go."""
    large = [replace(node, cpu=Decimal(64), memory=2**40) for node in nodes("a", "a", "b")]
    seen = observed(nodes=tuple(large))
    assert subject_of(seen)[0].place == ""
