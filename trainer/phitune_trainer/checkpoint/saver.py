"""Saving a run's state, all ranks together, while training goes on.

At a save each rank copies its part (snapshot.py) and trains on; a thread of it writes the copy. Ranks never
talk to each other in a thread: what the loop agrees on before each step tells when the last of them has
written. Then rank 0's thread seals the checkpoint and gives it its name, and a later agreement tells that.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phitune_trainer.checkpoint.files import FileFacts, is_whole, seal, write_state
from phitune_trainer.checkpoint.snapshot import Snapshot
from phitune_trainer.checkpoint.start import Start, describe
from phitune_trainer.checkpoint.waiting import wait_for_all
from phitune_trainer.endings import user_error
from phitune_trainer.engine import Engine, Fragment
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.incarnation import (
    Origin,
    refuse_if_superseded,
    remove_half_written,
    retire_old_checkpoints,
)
from phitune_trainer.run_layout import RunLayout, make_folders, sync_folder


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has just become part of the run."""

    checkpoint: dict[str, Any]
    """As people are told of it: step, path on the volume, time."""
    seconds: float
    """From the copy of the state to the checkpoint's name."""
    trouble: str | None
    """Why old checkpoints could not be removed, if they could not."""


@dataclass
class _Pending:
    step: int
    since: float
    about: dict[str, Any]
    writing: Future[FileFacts]
    is_written: bool = False
    """By all ranks."""
    sealing: Future[tuple[dict[str, Any], str | None]] | None = None
    """Rank 0's, once it is written."""

    @property
    def current(self) -> Future[Any]:
        return self.sealing or self.writing


class Saver:
    """Writes this start's checkpoints, one at a time, and removes its old ones.

    `begin`, `advance` and `finish` are collective: every rank calls them in the same order.
    """

    def __init__(self, layout: RunLayout, start: Start, world: World, keep: int) -> None:
        self._layout = layout
        self._folder = start.folder
        self._world = world
        self._keep = keep
        self._snapshot = Snapshot()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        self._num_bytes = self._num_written = 0
        self.last = describe(layout, start.origin) if start.origin else None
        """The newest checkpoint of this run as people are told of it: step, path on the volume, time."""

    @property
    def pending(self) -> int | None:
        """The step whose checkpoint is on its way, the same on every rank."""
        return None if self._pending is None else self._pending.step

    @property
    def is_busy(self) -> bool:
        """Whether this rank's thread is at work. Once no rank's is, `advance` takes the next step."""
        return self._pending is not None and not self._pending.current.done()

    def begin(self, step: int, engine: Engine, about: dict[str, Any]) -> None:
        """Copy the state of `step` and start to write it; nothing, where it is the newest checkpoint already.

        `about`: what trainer.json holds beside it. No other checkpoint may be pending.
        """
        assert self._pending is None
        if self.last is not None and self.last["step"] == step:
            return
        since = time.monotonic()
        fragments = self._snapshot.take(engine.fragments())
        self._num_bytes, self._num_written = sum(part.values.nbytes for part in fragments), 0
        self._pending = _Pending(
            step,
            since,
            {**about, "step": step, "engine": engine.scalars()},
            self._thread.submit(self._write, step, fragments),
        )

    def advance(self) -> Saved | None:
        """Go on with the pending checkpoint, on which no rank's thread is at work; it, once it is complete.

        UserError where the volume does not take it: nothing half-written stays, older ones are untouched.
        Superseded where a newer start of this run exists.
        """
        pending = self._pending
        assert pending is not None
        try:
            if not pending.is_written:
                states = self._world.gather(self._world.together(pending.writing.result))
                pending.is_written = True
                if self._world.is_first:
                    pending.sealing = self._thread.submit(self._publish, pending.step, pending.about, states)
                return None
            self.last, trouble = self._world.from_first(pending.current.result)
        except UserError:
            self._pending = None
            if self._world.is_first:
                shutil.rmtree(self._aside(pending.step), ignore_errors=True)
            raise
        self._pending = None
        return Saved(self.last, time.monotonic() - pending.since, trouble)

    def finish(self, on_wait: Callable[[int, int], None]) -> Saved | None:
        """Wait for the pending checkpoint, if any; errors as those of `advance`.

        `on_wait` is told several times a second how many bytes are written, and of how many, over all ranks.
        VolumeStalled where the volume takes nothing for too long (waiting.py).
        """
        saved = None
        while self._pending is not None:
            wait_for_all(
                self._world,
                self._pending.current,
                lambda: (self._num_written, self._num_bytes),
                on_wait,
                stalled=f"the volume has taken nothing of the checkpoint of step {self._pending.step}",
            )
            saved = self.advance()
        return saved

    def _write(self, step: int, fragments: list[Fragment]) -> FileFacts:
        """This rank's file, in this rank's thread."""
        try:
            if self._world.is_first:
                refuse_if_superseded(self._layout, self._folder)
                remove_half_written(self._layout, self._folder)
            make_folders(self._aside(step))
            return write_state(self._aside(step), self._world.rank, fragments, self._count)
        except OSError:
            self._refuse_if_taken_away()
            raise

    def _publish(
        self, step: int, about: dict[str, Any], states: list[FileFacts]
    ) -> tuple[dict[str, Any], str | None]:
        """The rest, in rank 0's thread: how people are told of the checkpoint, and of trouble."""
        aside, path = self._aside(step), self._folder.checkpoint(step)
        try:
            seal(aside, about, states)
            refuse_if_superseded(self._layout, self._folder)
            if path.is_dir():  # a save of this step had come so far before the volume refused the rest
                shutil.rmtree(aside)
            else:
                aside.rename(path)
            sync_folder(path.parent)
            saved = describe(self._layout, Origin(self._folder.number, step))
        except OSError:
            self._refuse_if_taken_away()
            raise
        trouble = None
        try:
            retire_old_checkpoints(self._layout, self._folder, self._keep, is_whole)
        except OSError as error:
            self._refuse_if_taken_away()
            # The new one is complete, and a folder that cannot be removed is tried again at the next save.
            problem = user_error(error, self._world.volume)
            trouble = str(problem or f"an old checkpoint is still there: {error}")
        return saved, trouble

    def _refuse_if_taken_away(self) -> None:
        """A newer start removes what older ones have written: then that is what went wrong."""
        refuse_if_superseded(self._layout, self._folder)

    def _aside(self, step: int) -> Path:
        return self._folder.half_written(step)

    def _count(self, num_bytes: int) -> None:
        self._num_written += num_bytes
