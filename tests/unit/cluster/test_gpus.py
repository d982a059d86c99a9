"""Pretended GPUs carry the labels that GPU feature discovery would set."""

import pytest

from localkube import gpus
from localkube.console import ClusterError


def test_a_known_product_brings_its_facts():
    assert gpus.parse("Tesla-V100-SXM2-32GB:4").labels() == {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": "Tesla-V100-SXM2-32GB",
        "nvidia.com/gpu.family": "volta",
        "nvidia.com/gpu.memory": "32768",
        "nvidia.com/gpu.count": "4",
        "nvidia.com/gpu.compute.major": "7",
        "nvidia.com/gpu.compute.minor": "0",
    }


def test_all_labels_are_known_to_be_removed_again():
    assert set(gpus.LABELS) == set(gpus.parse("H200:1").labels())


def test_a_part_that_only_one_product_has_is_enough():
    assert gpus.parse("A100-SXM4-80GB:8").product == "NVIDIA-A100-SXM4-80GB"


def test_any_other_card_is_described():
    made = gpus.parse("My-Card:2:24000:8.6")
    assert (made.product, made.count, made.memory_mib, made.major, made.minor, made.family) == (
        "My-Card",
        2,
        24000,
        8,
        6,
        "ampere",
    )


def test_a_description_overrides_the_table():
    assert gpus.parse("Tesla-T4:1:1000:7.5").memory_mib == 1000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "A100:8", "could be any of NVIDIA-A100-SXM4-40GB, NVIDIA-A100-SXM4-80GB", id="ambiguous"
        ),
        pytest.param("Unheard:8", "add :MEMORY_MIB:MAJOR.MINOR", id="unknown"),
        pytest.param("H200", "written PRODUCT:COUNT", id="no count"),
        pytest.param("H200:many", "written PRODUCT:COUNT", id="count in words"),
        pytest.param("H200:0", "at least 1", id="none"),
        pytest.param("Card:1:1000", "written PRODUCT:COUNT", id="no compute capability"),
        pytest.param("Card:1:1000:8", "written PRODUCT:COUNT", id="half a compute capability"),
        pytest.param(":1", "is none of", id="no product"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_write_it(text, problem):
    with pytest.raises(ClusterError, match=problem):
        gpus.parse(text)


def test_an_assignment_names_a_node():
    node, made = gpus.parse_assignment("node-1=H200:8")
    assert (node, made.count) == ("node-1", 8)
    with pytest.raises(ClusterError, match="NODE=PRODUCT:COUNT"):
        gpus.parse_assignment("H200:8")


@pytest.mark.parametrize(
    ("capability", "family"), [((5, 2), "unknown"), ((8, 6), "ampere"), ((12, 0), "blackwell")]
)
def test_a_family_begins_at_its_capability(capability, family):
    assert gpus.family_of(*capability) == family


def test_every_product_agrees_with_its_family():
    assert len(gpus.PRODUCTS) == 15
    for product in gpus.PRODUCTS.values():
        assert product.family == gpus.family_of(*product.compute)
