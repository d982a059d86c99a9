"""A run of a few numbers instead of a model, saved and continued by the code that real runs use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from phitune_trainer.checkpoint.saver import Saver
from phitune_trainer.checkpoint.start import Start, begin, restore
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine import Fragment, ReadState
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_config

T = TypeVar("T")


class OneRank(World):
    """A world of one rank that needs no process group, so that several fit into one process."""

    def sum(self, counts: Sequence[int]) -> list[int]:
        """The counts themselves."""
        return [int(count) for count in counts]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """The value alone."""
        return [value]

    def from_first(self, action: Callable[[], T]) -> T:
        """What the action returns."""
        return self.together(action)


class TinyEngine:
    """AdamW over the weights of a model of two layers with dropout."""

    summary = "AdamW over a few numbers"

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1))
        self._adam = torch.optim.AdamW(self._model.parameters(), lr=0.1, weight_decay=0.1)
        for parameter in self._model.parameters():
            zeros = [torch.zeros_like(parameter) for _ in range(2)]
            self._adam.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": zeros[0],
                "exp_avg_sq": zeros[1],
            }

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """See Engine."""
        return dict(self._model.named_parameters())

    def train(self, step: int) -> float:
        """Take a step on samples that follow from its number; the loss."""
        torch.manual_seed(step)
        loss = self._model(torch.randn(4, 3)).square().mean()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return loss.item()

    def fragments(self) -> Iterator[Fragment]:
        """See Engine."""
        for kind, name, values in self._state():
            yield Fragment(kind, name, 0, values.flatten())

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        return {"adamStep": float(next(iter(self._adam.state.values()))["step"])}

    def restore(self, read: ReadState, scalars: dict[str, float]) -> None:
        """See Engine."""
        for kind, name, values in self._state():
            values.copy_(read(kind, name, 0, values.numel()).view_as(values))
        for state in self._adam.state.values():
            state["step"].fill_(scalars["adamStep"])

    def _state(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        for name, parameter in self.parameters.items():
            yield "weight", name, parameter.data
            for kind in ("exp_avg", "exp_avg_sq"):
                yield kind, name, self._adam.state[parameter][kind]


@dataclass
class Told:
    """What a run told its user."""

    start: Start
    losses: dict[int, float] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


class TinyRun:
    """Trains a few numbers, and saves them after each step."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        say: Callable[[str], None] = lambda line: None,
        at_save: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._config = config
        self._say = say
        self._at_save = at_save

    def go(self, until: int) -> Told:
        """From wherever the run is to this step; a save that the volume refuses is told and passed over."""
        config, layout = self._config, RunLayout(self._config.run_dir)
        world = OneRank(0, 1, torch.device("cpu"), Path(config.run.workspace))
        keep_config(layout, config)
        start = begin(config, world, attempt=1)
        self._say(f"started {start.folder.number} at {start.step}")
        engine: Any = TinyEngine(config.training.seed)
        restore(layout, start, engine)
        saver = Saver(layout, start, world, config.checkpoint.keep)
        told = Told(start)
        for step in range(start.step + 1, until + 1):
            told.losses[step] = engine.train(step)
            self._at_save(step)
            self._save(saver, engine, step, told)
        return told

    def _save(self, saver: Saver, engine: Any, step: int, told: Told) -> None:
        try:
            saver.begin(step, engine, {"config": self._config.model_dump(mode="json", by_alias=True)})
            saved = saver.finish(lambda written, total: None)
        except UserError as problem:
            told.trouble.append(f"step {step}: {problem}")
            return
        assert saved is not None
        if saved.trouble is not None:
            told.trouble.append(f"step {step} is saved: {saved.trouble}")
        self._say(f"saved {step}")
