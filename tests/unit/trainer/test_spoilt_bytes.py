"""Files with a few bytes changed, as disks, editors and half-finished copies leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from harness.fuzz import A_FEW_AND_MANY, holds, spoilt_bytes
from harness.train_configs import train_config
from phitune_trainer.checkpoint.files import MANIFEST, DamagedCheckpoint, check, seal, write_state
from phitune_trainer.config import ConfigError, parse_config
from phitune_trainer.data.jsonl import examine_line, read_lines
from phitune_trainer.engine import Fragment
from phitune_trainer.errors import UserError
from phitune_trainer.yaml_reader import YamlError, read_document

LINE = {
    "id": "1",
    "conversations": [{"images": ["a.png"], "user": "What is it, ä?", "assistant": "a \\u00e4"}],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight of two elements, written by two ranks."""
    folder = tmp_path_factory.mktemp("checkpoint")
    parts = [Fragment("weight", "a", rank, torch.ones(1)) for rank in range(2)]
    states = [write_state(folder, rank, [part], lambda size: None) for rank, part in enumerate(parts)]
    seal(folder, {"step": 1, "engine": {"adamStep": 1.0}}, states)
    return folder


@A_FEW_AND_MANY
def test_a_checkpoint_with_any_file_changed_is_damaged_and_the_file_is_named(
    checkpoint: Path, num_examples: int
) -> None:
    originals = {path: path.read_bytes() for path in checkpoint.iterdir()}
    assert len(originals) == 4

    def is_noticed(change: tuple[Path, bytes]) -> None:
        path, content = change
        path.write_bytes(content)
        try:
            check(checkpoint)
        except DamagedCheckpoint as damage:
            assert path.name in str(damage)  # noqa: PT017 - some changes are none
        else:
            same = [
                json.loads(text) if path.name == MANIFEST else text for text in (content, originals[path])
            ]
            assert same[0] == same[1]
        finally:
            path.write_bytes(originals[path])

    files = st.sampled_from(sorted(originals))
    holds(
        num_examples,
        files.flatmap(lambda path: st.tuples(st.just(path), spoilt_bytes(originals[path]))),
        is_noticed,
    )


@A_FEW_AND_MANY
def test_any_file_of_samples_is_read_line_by_line_to_its_end(tmp_path: Path, num_examples: int) -> None:
    good = json.dumps(LINE, ensure_ascii=False).encode()
    file = tmp_path / "train.jsonl"

    def is_read(content: bytes) -> None:
        file.write_bytes(content)
        for _, _, line in read_lines(file):
            examined = examine_line(line)
            assert examined.problems or examined.conversation.turns
            assert all(problem.isprintable() for problem in examined.problems)

    holds(num_examples, st.one_of(spoilt_bytes(b"\n".join([good] * 3)), st.binary(max_size=60)), is_read)


@A_FEW_AND_MANY
def test_any_config_that_was_edited_by_hand_is_read_or_its_fault_is_named(
    tmp_path: Path, num_examples: int
) -> None:
    good = train_config(tmp_path).to_yaml().encode()

    def is_read_or_refused(content: bytes) -> None:
        try:
            parse_config(read_document(content.decode("utf-8", "replace")))
        except (ConfigError, YamlError, UserError) as refusal:
            assert str(refusal)  # noqa: PT017 - many changes are harmless

    holds(num_examples, spoilt_bytes(good), is_read_or_refused)
