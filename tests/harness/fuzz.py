"""FineTuneJobs drawn at random from the schema: mostly well formed, at times beyond a bound or absurd.

And what somebody has spoilt: bytes changed, cut out or put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.cluster import Object
from phitune_operator import fields
from phitune_operator.schema import object_schema

T = TypeVar("T")
A_FEW_AND_MANY = pytest.mark.parametrize(
    "num_examples",
    [pytest.param(50, id="a few"), pytest.param(500, id="many", marks=pytest.mark.slow)],
)


def holds(num_examples: int, drawn: st.SearchStrategy[T], claim: Callable[[T], None]) -> None:
    """Try the claim, which raises where it does not hold, on so many examples."""
    tried = settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    tried(given(drawn)(claim))()


def spoilt_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with one to four places of it changed: bytes taken away there, others put in."""
    place = st.tuples(st.integers(0, len(content)), st.sampled_from([0, 1, 8]), st.binary(max_size=3))
    return st.lists(place, min_size=1, max_size=4).map(lambda places: _edited(content, places))


def _edited(content: bytes, places: Sequence[tuple[int, int, bytes]]) -> bytes:
    for start, num_taken, put in places:
        content = content[:start] + put + content[start + num_taken :]
    return content


TEXTS = {
    fields.CPU: ["1", "500m", "1.5", "0", "x", ".5", "1k", "99999999999999999999", "0.0000000001"],
    fields.BYTES: [
        "16Gi",
        "500M",
        "1e9",
        "16",
        "0Gi",
        "1.5Ti",
        "1gb",
        "1E1",
        "1e99",
        "9999999999999Ti",
        "2.Mi",
    ],
    fields.DURATION: ["30m", "1h30m", "90s", "0s", "1.5h", "h", "30", "1s1h", "999999.999h"],
    fields.DNS_SUBDOMAIN: ["a", "a.b", "A", "-a", ""],
    fields.LABEL_VALUE: ["", "a", "NVIDIA-H100-80GB-HBM3", "a b", "-"],
    fields.LABEL_KEY: ["a", "nvidia.com/gpu", "a b", "/a", "A/b"],
    fields.IMAGE: ["a", "localhost/phitune/trainer:1", "a b", ""],
    fields.ENV_NAME: ["A", "PET_A", "a-b", "1", "_"],
    fields.ENV_VALUE: ["", "b", "a b\n", "$(HOME)", "{{ 7 }}", "a\0b", "x" * 8193],
}
"""Words for each kind of text, good and bad."""
OTHER_TEXTS = ["a", "a/b", "../a", "/a", ".", "ä", "a\n", "a\x9b2J", "$(a)`a`", "", "x" * 600]
ABSURD = [None, True, "x", -1, 0.5, [], {}, [None], {"a": None}]


BASES: list[Object] = [
    {
        "task": "jsonl",
        "method": "full",
        "model": {"init": "tiny"},
        "data": {"generate": "digits"},
        "storage": {"size": "2Ti"},
    },
    {
        "task": "docvqa",
        "method": "lora",
        "resources": {"nodes": 2, "gpusPerNode": 8},
        "storage": {"claimName": "theirs"},
    },
]
"""Jobs that are fine before anything is drawn: on one device, and on two nodes."""


def documents() -> st.SearchStrategy[Object]:
    """Whole FineTuneJobs: the fields that are needed are there and right, so that a good part is accepted."""
    spec = object_schema()["properties"]["spec"]
    return _jobs(_group(spec, most=3))


def wishful_documents() -> st.SearchStrategy[Object]:
    """Whole FineTuneJobs that say where their pods may run, which few of the others do."""
    template = object_schema()["properties"]["spec"]["properties"]["podTemplate"]["properties"]
    wishes = _group(template["affinity"], most=4)
    return _jobs(wishes.map(lambda affinity: {"podTemplate": {"affinity": affinity}}))


def _jobs(specs: st.SearchStrategy[Object]) -> st.SearchStrategy[Object]:
    return st.tuples(st.sampled_from(BASES), specs).map(
        lambda drawn: {
            "apiVersion": "phitune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "fuzz"},
            "spec": {**drawn[0], **drawn[1]},
        }
    )


def _group(schema: Object, most: int) -> st.SearchStrategy[dict[str, Any]]:
    fields_of = schema["properties"]
    names = st.lists(st.sampled_from(sorted(fields_of)), unique=True, max_size=most)
    needed = schema.get("required", []) if most > 3 else []
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries(
            {name: _value(fields_of[name]) for name in sorted({*chosen, *needed})}
        )
    )


def _value(schema: Object) -> st.SearchStrategy[Any]:
    usual = _usual(schema)
    return st.integers(0, 29).flatmap(lambda die: usual if die else st.sampled_from(ABSURD))


def _usual(schema: Object) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from([*schema["enum"], schema["enum"][0]])
    if schema.get(fields.INT_OR_STRING):
        return st.sampled_from([*TEXTS[schema["pattern"]], 0, 1, 10**9, -1])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return st.sampled_from([low, low + 1, 2, 4, 8, high, high + 1, low - 1])
        case "number":
            return st.sampled_from(
                [schema["minimum"], 1e-5, 0.5, 1, schema["maximum"], schema["maximum"] + 1]
            )
        case "array":
            return st.lists(_value(schema["items"]), max_size=3)
        case "object" if "properties" in schema:
            return _group(schema, most=4)
        case "object":
            keys, values = TEXTS[fields.LABEL_KEY], TEXTS[fields.LABEL_VALUE]
            return st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=2)
    return st.sampled_from(TEXTS.get(schema.get("pattern", ""), OTHER_TEXTS))
