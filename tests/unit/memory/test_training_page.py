"""docs/training.md tells of every field that says how a model is trained, and has the numbers right."""

import re

from harness.cluster import REPOSITORY
from phitune_operator.api import CheckpointSpec, EvaluationSpec, ExportSpec, LoraSpec, TrainingSpec
from phitune_trainer.memory.counts import adapter_parameters, trained_parameters
from phitune_trainer.model_config import full_config

PAGE = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
GROUPS = {
    "training": TrainingSpec,
    "lora": LoraSpec,
    "checkpoint": CheckpointSpec,
    "evaluation": EvaluationSpec,
    "export": ExportSpec,
}


def test_every_field_has_a_row() -> None:
    section = PAGE.split("## Fields\n")[1].split("\n## ")[0]
    shown = {
        name
        for line in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", line)
    }
    fields = {
        f"{name}.{field.alias}" for name, group in GROUPS.items() for field in group.model_fields.values()
    }
    assert shown == fields | {"freezeVision", "resumeFrom"}


def test_numbers_of_parameters_are_those_of_the_model() -> None:
    model = full_config()
    trained = [trained_parameters(model, freeze_vision=frozen) for frozen in (False, True)]
    assert "| parameters trained | {:.2f} B | {:.2f} B |".format(*(count / 1e9 for count in trained)) in PAGE
    adapters = [adapter_parameters(model, 1, vision=vision) for vision in (True, False)]
    said = "rank x {:.2f} M, or {:.2f} M without vision".format(*(count / 1e6 for count in adapters))
    assert said in PAGE
    sizes = [f"{12 * count / 2**30:.0f} GiB" for count in trained]
    assert f"| a checkpoint | {sizes[0]} | {sizes[1]} |" in PAGE
