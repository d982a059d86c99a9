"""Quantities as Kubernetes writes them, every suffix of them: nodes tell theirs in Ki."""

from __future__ import annotations

from decimal import Decimal

import pytest

from phitune_operator.fields import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24581700Ki", 24581700 * 1024),
        ("1Mi", 2**20),
        ("1.5Gi", 3 * 2**29),
        ("1Ti", 2**40),
        ("1k", 1000),
        ("2M", 2_000_000),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1P", 10**15),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("500m", Decimal("0.5")),
        ("2", 2),
        (2, 2),
    ],
)
def test_every_suffix_is_read(text: str | int, value: int | Decimal) -> None:
    assert quantity(text) == value
