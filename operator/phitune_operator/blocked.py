"""What keeps a job from going on: a reason for the condition Accepted and a sentence for the user."""

from phitune_operator.reports import clean

MAX_MESSAGE = 4096
"""Characters of a condition's message that are kept."""


class BlockedError(Exception):
    """The job cannot go on as things are; looked at again when something changes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = clean(message, MAX_MESSAGE)


class BrokenConfigError(Exception):
    """The config that the job's pods would read is none; the message says what is wrong and what to do."""
