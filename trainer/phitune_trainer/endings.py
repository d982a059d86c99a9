"""How a rank's exception becomes an exit code, a reason and a sentence for the user."""

import re
from pathlib import Path

import torch
import torch.distributed as dist

from phitune_trainer.config import ConfigError
from phitune_trainer.data import DataError
from phitune_trainer.errors import (
    FAULT,
    CollectiveTimeout,
    Interrupted,
    KnownFault,
    OutOfGpuMemory,
    RankLost,
    UserError,
    volume_problem,
)
from phitune_trainer.exit_codes import INTERRUPTED, USER_ERROR
from phitune_trainer.model_config import ModelFilesError

_LATE = re.compile(r"[Tt]imed out|[Tt]imeout")
_LOST = re.compile(r"gloo/|NCCL|pair closure|(closed|reset) by peer")


def user_error(error: BaseException, volume: Path | None) -> UserError | None:
    """`error` for the user if it is theirs to mend, as what lies on `volume` is; else None."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ConfigError | DataError | ModelFilesError):
        return UserError(str(error))
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
    if (problem := user_error(error, volume)) is not None:
        return USER_ERROR, problem.reason, str(problem)
    if isinstance(error, Interrupted):
        return INTERRUPTED, error.reason, str(error)
    if isinstance(error, KnownFault):
        return FAULT, error.reason, str(error)
    if isinstance(error, torch.OutOfMemoryError):  # before the first pass: another one may have held it
        return FAULT, OutOfGpuMemory.reason, _first_line(error)
    if is_peer_lost(error):
        what = _first_line(error).partition(" This is typically")[0]
        if is_late(error):
            return FAULT, CollectiveTimeout.reason, f"another process of this run is late: {what}"
        return FAULT, RankLost.reason, f"another process of this run is gone: {what}"
    return FAULT, "Fault", f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
