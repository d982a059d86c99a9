"""Base models with random weights."""

from pathlib import Path

import pytest
import torch

from phitune_trainer.data import Processor
from phitune_trainer.folders import building
from phitune_trainer.init_model import init_model, random_weight
from phitune_trainer.model import load_model
from phitune_trainer.model_config import full_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", folder, 0)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_makes_the_same_bytes_and_another_one_other_weights(tiny: Path, tmp_path: Path) -> None:
    init_model("tiny", tmp_path / "again", 0)
    init_model("tiny", tmp_path / "other", 1)
    assert content(tmp_path / "again") == content(tiny)
    differing = {name for name, data in content(tmp_path / "other").items() if data != content(tiny)[name]}
    assert differing == {"model-00001-of-00001.safetensors"}


def test_a_tiny_model_loads_with_its_processor(tiny: Path) -> None:
    model = load_model(tiny, dtype=torch.float32, attention="sdpa")
    processor = Processor.load(tiny, num_crops=1)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert max(processor.tokenizer.special_ids.values()) < model.model_config.vocab_size
    assert model.model_config.original_max_positions == 4096


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("kept")
    init_model("tiny", tmp_path / "model", 0)
    assert content(tmp_path / "model") == {"mine": b"kept"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_matrices_keep_the_size_of_what_they_map() -> None:
    weight = random_weight("lm_head.weight", torch.Size([512, 256]), seed=0)
    assert (weight @ torch.ones(256)).std().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(random_weight("model.norm.weight", torch.Size([4]), seed=0), torch.ones(4))
    assert torch.equal(random_weight("pre_layrnorm.bias", torch.Size([4]), seed=0), torch.zeros(4))


def test_the_full_size_has_the_published_sizes() -> None:
    config = full_config()
    assert config.problems() == []
    assert (config.num_layers, config.hidden_size, config.head_dim, config.vocab_size) == (
        32,
        3072,
        96,
        32064,
    )


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    def build_and_fail() -> None:
        with building(out) as aside:
            (aside / "half").write_text("x")
            assert not out.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_and_fail()
    assert list((tmp_path / "deep").iterdir()) == []


def test_of_two_that_build_one_folder_the_first_to_finish_wins(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with building(out) as slow:
        (slow / "who").write_text("slow")
        with building(out) as fast:
            (fast / "who").write_text("fast")
    assert content(out) == {"who": b"fast"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
