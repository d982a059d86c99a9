"""Logs as JSON lines: one object a line, with job, namespace and attempt wherever a line is about a job."""

import json
import logging
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

from phitune_operator.kinds import Key

LOGGER = logging.getLogger("phitune_operator")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is one of its fields."""
        about: Mapping[str, Any] = getattr(record, "about", {})
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **about,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # In ASCII: no character of a name or of an error acts on the terminal that shows the log.
        return json.dumps(line)


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the job into every line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the job to the record."""
        return msg, {**kwargs, "extra": {"about": self.extra}}


def of_job(key: Key, attempt: int | None = None) -> JobLogger:
    """Return the logger for lines about a job."""
    about: dict[str, object] = {"namespace": key.namespace, "job": key.name}
    if attempt is not None:
        about["attempt"] = attempt
    return JobLogger(LOGGER, about)


def set_up(level: str) -> None:
    """Send every log of the process to stderr as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
