"""An export may take longer than a rank is waited for: the others wait as long as it gets on."""

import time
from pathlib import Path
from typing import Any

import pytest

from harness.ranks import training
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE
from phitune_trainer.model import save
from phitune_trainer.run_layout import RunLayout


def test_all_ranks_learn_what_the_first_has_done_at_length_or_what_kept_it(in_ranks: Any) -> None:
    def succeed(world: World) -> tuple[int, int]:
        def count(go_on: Any) -> int:
            go_on()
            go_on()
            return 7

        return world.from_first_at_length(count), world.sum([1])[0]

    def fail(world: World) -> str:
        def refuse(go_on: Any) -> None:
            go_on()
            raise UserError("the volume is full")

        with pytest.raises(UserError) as refused:
            world.from_first_at_length(refuse)
        return f"{refused.value}, say {world.sum([1])[0]} ranks"

    assert in_ranks(3, succeed) == [(7, 3)] * 3
    assert in_ranks(3, fail) == ["the volume is full, say 3 ranks"] * 3


@pytest.mark.slow
def test_ranks_that_wait_longer_than_one_is_waited_for_go_on_while_files_are_written(
    make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        method="lora",
        lora={"rank": 2, "alpha": 4.0, "dropout": 0.0, "vision": False},
        training={"maxSteps": 1, "globalBatchSize": 4, "microBatchSize": 2, "warmupSteps": 0},
        world={"processesPerNode": 2},
        export={"merged": True},
    )
    shards, save_file, num_files = save.write_shards, save.save_file, 4

    def slow(tensors: Any, path: Path, **more: Any) -> None:
        time.sleep(3)
        save_file(tensors, path, **more)

    def write_shards(folder: Path, sizes: Any, *rest: Any, **more: Any) -> None:
        shards(folder, sizes, *rest, **more, shard_bytes=sum(sizes.values()) // num_files)

    monkeypatch.setattr(save, "save_file", slow)
    monkeypatch.setattr(save, "write_shards", write_shards)
    with training(config, PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="8") as gang:
        assert gang.wait() == [DONE, DONE]
    merged = RunLayout(config.run_dir).export / "merged"
    assert len(list(merged.glob("*.safetensors"))) >= num_files
