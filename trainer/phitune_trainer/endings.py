"""How a rank's exception becomes an exit code, a reason and a sentence for the user."""

import re
from pathlib import Path

import torch.distributed as dist

from phitune_trainer.config import ConfigError
from phitune_trainer.data import DataError
from phitune_trainer.errors import (
    FAULT,
    Interrupted,
    PeerLost,
    Superseded,
    Unavailable,
    UserError,
    volume_problem,
)
from phitune_trainer.exit_codes import INTERRUPTED, USER_ERROR
from phitune_trainer.model_config import ModelFilesError

_LATE = re.compile(r"[Tt]imed out|[Tt]imeout")
_LOST = re.compile(r"gloo/|NCCL|pair closure|(closed|reset) by peer")


def user_message(error: BaseException, volume: Path | None) -> str | None:
    """What to tell the user if `error` is theirs to mend, as what lies on `volume` is; else None."""
    if isinstance(error, ConfigError | DataError | ModelFilesError | UserError):
        return str(error)
    return volume_problem(error, volume)


def is_peer_lost(error: BaseException) -> bool:
    """Whether another process vanished, rather than this one failing; gloo says so only in words."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def is_late(error: BaseException) -> bool:
    """Whether a collective ended with `error` because its time was up."""
    return bool(_LATE.search(str(error)))


def ending_of(error: BaseException, volume: Path | None = None) -> tuple[int, str, str]:
    """Exit code, reason and message of a rank that ends with `error`; `volume` is the user's, once known."""
    if (message := user_message(error, volume)) is not None:
        return USER_ERROR, "UserError", message
    if isinstance(error, Interrupted):
        return INTERRUPTED, "Interrupted", str(error)
    if isinstance(error, Superseded):
        return FAULT, "Superseded", str(error)
    if isinstance(error, Unavailable):
        return FAULT, type(error).__name__, str(error)
    if isinstance(error, PeerLost):
        return FAULT, "PeerLost", str(error)
    if is_peer_lost(error):
        what = _first_line(error).partition(" This is typically")[0]
        return FAULT, "PeerLost", f"another process of this run is gone: {what}"
    return FAULT, "Fault", f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
