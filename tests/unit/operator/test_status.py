"""Status: written once, only when it differs; times as people read them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulated_cluster import merged
from phitune_operator.status import duration_text, merge_patch, summary

values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
statuses = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(statuses, statuses)
def test_patch_leads_from_one_status_to_the_other(current: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert merged(current, merge_patch(current, wanted)) == wanted


@given(statuses)
def test_nothing_is_written_without_a_difference(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (250, "4m10s"), (11_100, "3h05m"), (187_200, "2d04h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


def test_columns() -> None:
    status = {
        "phase": "Running",
        "progress": {
            "step": 120,
            "totalSteps": 400,
            "percent": 30.0,
            "eta": "4m10s",
            "loss": 0.31274,
            "mfu": 0.512,
        },
        "evaluation": {"value": 0.9641},
        "lastCheckpoint": {"step": 100},
    }
    assert summary(status, nodes=2, gpus_per_node=8, processes_per_node=8) == {
        "gpus": "2x8",
        "progress": "120/400 (30%)",
        "eta": "4m10s",
        "loss": "0.3127",
        "score": "0.964",
        "mfu": "51%",
        "lastCheckpoint": "step 100",
    }
    assert summary({}, nodes=2, gpus_per_node=0, processes_per_node=1) == {"gpus": "2x1 CPU"}
