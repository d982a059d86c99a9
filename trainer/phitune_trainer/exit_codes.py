"""What the exit code of a training process means to Kubernetes and to the operator.

The trainer's launcher leaves with one of these, the operator decides by it whether to start again:
every code that is not named here is a fault, which a restart may heal.
"""

from typing import Final

DONE: Final = 0
"""The run is complete; its result is on the volume."""

USER_ERROR: Final = 2
"""Configuration, data or volume is wrong: the same start would fail again, so it is never retried."""

INTERRUPTED: Final = 75
"""Told to stop (SIGTERM) before the end: what was done is saved, and a new start continues from there."""
