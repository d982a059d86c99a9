"""What ends a command early, each with its exit code: those of sysexits.h where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from phitune_cli.file_problems import file_problem
from phitune_trainer.errors import FAULT
from phitune_trainer.exit_codes import USER_ERROR

UNAVAILABLE: Final = 69
"""The cluster does not answer, or what was begun there does not come about."""
NO_PERMISSION: Final = 77
"""The cluster knows the user, and does not allow it; or does not know the user."""


class Problem(Exception):
    """Ends the command; the message says what, where and how to mend it."""

    exit_code = FAULT


class WrongInput(Problem):
    """Something that the user named is not there, or is refused."""

    exit_code = USER_ERROR


class NotAllowed(Problem):
    """The user lacks a right."""

    exit_code = NO_PERMISSION


class Unreachable(Problem):
    """Nothing answers."""

    exit_code = UNAVAILABLE


class NoAnswer(Unreachable):
    """The API server does not answer, or is ill: what is asked again later may be answered."""


class ConnectionLost(Unreachable):
    """A connection that worked does not work any more; what was done stays, and can be gone on with."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within this block, errors name the file, which those of reading and writing do not by themselves."""
    try:
        yield
    except BrokenPipeError:  # of standard error, and no file's
        raise
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def problem_of_file(error: OSError) -> Problem:
    """How a file that is not given or taken ends a command; `error` as it is where no file is known."""
    if error.filename is None:
        raise error
    found = file_problem(error)
    if found is None:
        return WrongInput(f"{error.filename}: {error.strerror}")
    return Problem(found.message) if found.exit_code == FAULT else WrongInput(found.message)
