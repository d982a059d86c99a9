"""What has been prepared on which volume, and by which job: the next one that needs it makes no prepare Job.

Only what has a name and a revision is shared. A folder of the user's own (`model.path`, `data.path`) may have
other files in it by the next job.
"""

import hashlib
import json
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from phitune_operator.api import FineTuneJobSpec
from phitune_operator.clock import from_text
from phitune_operator.kinds import Key, Object, uid_of

GOOD_FOR: Final = timedelta(days=1)
"""What was found on the volume so long ago is looked for again."""
READ_BY_PREPARE: Final[dict[str, bool | set[str]]] = {
    "task": True,
    "model": True,
    "data": True,
    "training": {"seed", "num_crops", "max_length"},
    "evaluation": {"enabled"},
}
"""Fields of the spec that prepare looks at."""


class Known(NamedTuple):
    """Who prepared, and when."""

    job: Key
    at: datetime


def what_to_prepare(spec: FineTuneJobSpec, claim: Object | None) -> str | None:
    """Name what prepare would put or check on this volume; None if no other job can have done so for it."""
    has_own_files = (spec.model is not None and spec.model.path) or (spec.data is not None and spec.data.path)
    if claim is None or not uid_of(claim) or has_own_files:
        return None
    read = spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=READ_BY_PREPARE)
    return hashlib.sha256(json.dumps([uid_of(claim), read], sort_keys=True).encode()).hexdigest()[:16]


class Prepared:
    """What the jobs that there are have prepared, by what it is."""

    def __init__(self) -> None:
        self._by_what: defaultdict[str, dict[Key, datetime]] = defaultdict(dict)
        self._what: dict[Key, str] = {}

    def note(self, key: Key, job: Object) -> None:
        """Take in what a job says that it has prepared."""
        self.forget(key)
        said: dict[str, Any] = (job.get("status") or {}).get("prepared") or {}
        at = from_text(said.get("at"))
        if at is not None and said.get("key"):
            self._what[key] = str(said["key"])
            self._by_what[self._what[key]][key] = at

    def forget(self, key: Key) -> None:
        """Drop what a job has prepared."""
        what = self._what.pop(key, None)
        if what is not None:
            del self._by_what[what][key]
            if not self._by_what[what]:
                del self._by_what[what]

    def last(self, what: str, *, now: datetime) -> Known | None:
        """Return the job that has prepared this last; None if none has, or too long ago."""
        known = self._by_what.get(what)
        if not known:
            return None
        job = max(known, key=lambda key: (known[key], key))
        return Known(job, known[job]) if now - known[job] < GOOD_FOR else None
