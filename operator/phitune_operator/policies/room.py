"""Whether the volume has room for what a job writes: model, checkpoints and export. Pure.

Only what cannot work is refused: data, logs and other jobs on the same volume are not counted.
"""

import sys
from dataclasses import dataclass
from typing import Final

from phitune_operator.api import StorageSpec
from phitune_operator.blocked import BlockedError
from phitune_operator.fields import quantity
from phitune_operator.kinds import Object
from phitune_trainer.config import TrainConfig
from phitune_trainer.memory import GIB, gib, parameters, setup_of, trained_parameters

STATE_BYTES: Final = 12
"""Of each trained parameter in a checkpoint: its value and Adam's two averages, in float32."""
PUBLISHED_BYTES: Final = 2
"""Of each parameter of the published model: bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes that a job writes, by what they are for."""

    model: int
    checkpoint: int
    num_checkpoints: int
    """Those that are kept, and the one that is being written."""
    export: int

    @property
    def total(self) -> int:
        """All of it at its largest."""
        return self.model + self.num_checkpoints * self.checkpoint + self.export

    def __str__(self) -> str:
        export = f" and {gib(self.export)} GiB of export" if self.export else ""
        checkpoints = (
            f"{self.num_checkpoints} checkpoints (one is being written) of {gib(self.checkpoint)} GiB"
        )
        return f"{gib(self.model)} GiB of model, {checkpoints}{export}"


def room_for(train: TrainConfig, *, keep: int | None = None) -> Room:
    """What a job writes; `keep` instead of the config's own."""
    setup = setup_of(train)
    whole = parameters(setup.model)
    return Room(
        model=whole * PUBLISHED_BYTES,
        checkpoint=trained_parameters(setup) * STATE_BYTES,
        num_checkpoints=min(1 + (train.checkpoint.keep if keep is None else keep), _checkpoints_ever(train)),
        export=whole * setup.element_bytes if train.export.merged else 0,
    )


def _checkpoints_ever(train: TrainConfig) -> int:
    """Checkpoints that a run writes in all, as far as that is known before it."""
    steps, every = train.training.max_steps, train.checkpoint.every_steps
    return sys.maxsize if steps is None or every is None else -(-steps // every)


def check(train: TrainConfig, storage: StorageSpec, claim: Object | None) -> None:
    """Raise BlockedError (VolumeTooSmall) with the numbers and what would fit.

    A model that lies on the volume may be smaller than the published one, and is never refused.
    """
    provided = ((claim or {}).get("status") or {}).get("capacity") or {}
    size = storage.size or provided.get("storage")
    if size is None or train.model.path is not None:
        return
    has, room = int(quantity(str(size))), room_for(train)
    if room.total <= has:
        return
    ways = [f"a volume of {-(-room.total // GIB)}Gi and room for the data"]
    fewer = (
        keep for keep in range(train.checkpoint.keep - 1, 0, -1) if room_for(train, keep=keep).total <= has
    )
    if keep := next(fewer, None):
        ways.append(f"spec.checkpoint.keep: {keep}")
    if room.total - room.export <= has:
        ways.append("spec.export.merged: false")
    if train.method == "full":
        ways.append("method lora, whose checkpoints are small")
    field = "spec.storage.size" if storage.size else "spec.storage.claimName"
    raise BlockedError(
        "VolumeTooSmall",
        f"{field}: the volume has {gib(has)} GiB, and the job writes {gib(room.total)} GiB: {room}. "
        f"One of these helps: {'; '.join(ways)}",
    )
