"""What the GPU's memory decides stands in status, and is read back from there."""

from __future__ import annotations

from harness.operator_view import H100, observed
from phitune_operator.decide import subject_of
from phitune_operator.render.config_map import config_map

ON_GPUS = {"resources": {"nodes": 2, "gpusPerNode": 8, "cpu": None, "memory": None}, "training": None}


def test_estimated_and_available_memory_are_said() -> None:
    said = subject_of(observed(ON_GPUS, nodes=H100))[1]
    assert said["availableMemory"] == "81559Mi"
    assert said["estimatedMemory"].endswith("Gi")
    assert any("about" in note and "of 80 GiB" in note for note in said["notes"])


def test_start_that_was_cut_short_decides_the_same_without_looking_at_the_nodes() -> None:
    first, said = subject_of(observed(ON_GPUS, nodes=H100))
    again, said_again = subject_of(observed(ON_GPUS, {"attempt": 1, "placement": said}, nodes=()))
    assert (again.train, said_again) == (first.train, said)


def test_estimate_stays_with_the_pinned_config() -> None:
    first, said = subject_of(observed(ON_GPUS, nodes=H100))
    later = subject_of(observed(ON_GPUS, {"placement": said}, nodes=(), config_map=config_map(first)))[1]
    assert later == said


def test_nothing_is_said_of_memory_on_the_cpu() -> None:
    said = subject_of(observed())[1]
    assert not {"estimatedMemory", "availableMemory"} & said.keys()
