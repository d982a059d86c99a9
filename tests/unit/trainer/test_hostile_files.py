"""Files of a volume that somebody else wrote, or spoilt: read, or refused in words, whatever is in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from harness.jobs import merged
from harness.train_configs import SMALL
from phitune_trainer.checkpoint.files import MANIFEST, VERSION, DamagedCheckpoint, check, is_whole
from phitune_trainer.config import ConfigError, parse_config
from phitune_trainer.data.jsonl import examine_line
from phitune_trainer.errors import UserError
from phitune_trainer.incarnation import line_before
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.yaml_reader import read_document

DEEP = "[" * 100_000
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x",
    "a\x00b",
    "../x",
    "/dev/zero",
    "\ud800",
    [],
    {},
]
VALUES = st.recursive(
    st.one_of(st.sampled_from(HOSTILE), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MANY = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def is_read_or_refused(folder: Path) -> None:
    """The checkpoint is whole, or it is said what is wrong with it."""
    with contextlib.suppress(DamagedCheckpoint, UserError):
        check(folder)
    with contextlib.suppress(UserError):  # of another version
        is_whole(folder)


@MANY
@given(st.one_of(VALUES.map(json.dumps), st.text(max_size=40)))
@example(DEEP)
def test_any_manifest_is_taken_or_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    is_read_or_refused(tmp_path)


@MANY
@given(st.fixed_dictionaries({"version": st.sampled_from([VERSION, VERSION, 99]), "files": VALUES}))
@example({"version": VERSION, "files": {"/dev/zero": {"bytes": 0, "sha256": ""}}})
@example({"version": VERSION, "files": {"../other": {"bytes": 1, "sha256": "x"}}})
def test_so_is_a_manifest_whose_own_digest_is_right(tmp_path: Path, content: dict[str, Any]) -> None:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps({**content, "sha256": digest}))
    is_read_or_refused(tmp_path)


@MANY
@given(st.one_of(VALUES, st.fixed_dictionaries({"from": VALUES}), st.just({"from": {"incarnation": "1"}})))
@example({"from": {"incarnation": "1", "step": 1}})
@example({"from": {"incarnation": 0.5, "step": None}})
def test_any_record_of_a_start_is_followed_or_named(tmp_path: Path, record: Any) -> None:
    layout = RunLayout(tmp_path)
    for number in (1, 2):
        folder = layout.incarnation(number)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.start.write_text(json.dumps(record))
    with contextlib.suppress(UserError):
        list(line_before(layout, 3))


@MANY
@given(st.one_of(VALUES.map(lambda value: json.dumps({"conversations": value})), st.text(max_size=60)))
@example(DEEP)
@example('{"conversations": [{"images": ["../../x"], "user": "\\ud800", "assistant": null}]}')
def test_any_line_of_data_is_a_sample_or_has_problems(text: str) -> None:
    examined = examine_line(text.encode("utf-8", "surrogatepass"))
    assert examined.problems or examined.conversation.turns
    for problem in examined.problems:
        problem.encode()


def spoilt(value: Any) -> st.SearchStrategy[Any]:
    """Plain data with hostile values in the place of some of its own, at any depth."""
    if isinstance(value, dict):
        inner = st.fixed_dictionaries({key: spoilt(item) for key, item in value.items()})
        return st.one_of(inner, inner, VALUES)
    return st.one_of(st.just(value), st.just(value), st.just(value), VALUES)


@given(spoilt(merged(SMALL, {"run": {"workspace": "/workspace"}})))
@MANY
def test_any_config_is_read_back_as_it_is_or_its_problems_are_named(document: Any) -> None:
    try:
        train = parse_config(document)
    except ConfigError:
        return
    assert parse_config(read_document(train.to_yaml())) == train
