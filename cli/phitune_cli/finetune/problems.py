"""What ends a command early, each with its exit code: those of sysexits.h where there is one."""

from typing import Final

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
