"""Names that Kubernetes must accept, and names that three places must agree on."""

from __future__ import annotations

import re

import pytest

from phitune_operator import names
from phitune_operator.api import (
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    ExportSpec,
    LoraSpec,
    ModelSpec,
    TrainingSpec,
)
from phitune_operator.fields import Group
from phitune_trainer import config, exit_codes

LONGEST = "a" * names.MAX_JOB_NAME


@pytest.mark.parametrize(
    "name",
    [
        names.master_pod(LONGEST, 999_999),
        names.worker_pod(LONGEST, 999_999, 9_999),
        names.prepare_job(LONGEST) + "-abcde",
        names.config_map(LONGEST),
        names.workspace_claim(LONGEST),
    ],
)
def test_childs_name_of_the_longest_job_is_a_host_name(name: str) -> None:
    assert len(name) <= 63
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_attempts_have_names_of_their_own() -> None:
    assert [names.gang("digits", attempt) for attempt in (1, 2)] == ["digits-1", "digits-2"]
    assert names.master_pod("digits", 2) == "digits-2-master-0"
    assert names.worker_pod("digits", 2, 0) == "digits-2-worker-0"


def aliases(group: type[Group | config.Group]) -> set[str]:
    return {field.alias or name for name, field in group.model_fields.items()}


@pytest.mark.parametrize(
    ("api", "trainer", "only_api", "only_trainer"),
    [
        (ModelSpec, config.Model, {"tokenSecret"}, set()),
        (DataSpec, config.Data, {"tokenSecret"}, set()),
        (LoraSpec, config.Lora, set(), set()),
        (
            TrainingSpec,
            config.Training,
            {"perDeviceBatchSize"},
            {"microBatchSize", "gradientCheckpointingForbidden"},
        ),
        (CheckpointSpec, config.Checkpoint, set(), set()),
        (EvaluationSpec, config.Evaluation, set(), {"baseline"}),
        (ExportSpec, config.Export, set(), set()),
    ],
)
def test_api_and_train_config_call_things_the_same(
    api: type[Group], trainer: type[config.Group], only_api: set[str], only_trainer: set[str]
) -> None:
    assert aliases(api) - aliases(trainer) == only_api
    assert aliases(trainer) - aliases(api) == only_trainer


def test_exit_codes_are_the_promised_ones() -> None:
    assert (exit_codes.DONE, exit_codes.USER_ERROR, exit_codes.INTERRUPTED) == (0, 2, 75)
