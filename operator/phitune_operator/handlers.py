"""What kopf calls: each event goes into the store, and its job into the queue. Nothing is decided here.

Low-level events only: kopf writes nothing to the objects, and a crash loses nothing, since the watches begin
with a LIST again.
"""

from collections.abc import Sequence
from typing import Any, cast

import kopf

from phitune_operator.kinds import CHILD_SELECTOR, CHILDREN, FINETUNEJOB, Kind
from phitune_operator.kube import LIST_PAGE
from phitune_operator.metrics import Metrics
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store

IDLE_TASK = 0.2
"""Seconds."""
CHILDREN_SETTLE = 0.3
"""Seconds from what is heard of a child to a look at its job: they change several times in one go."""


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: no posting, no scanning for new kinds, children bounded by label."""
    ours = kopf.OperatorSettings()
    ours.posting.enabled = False
    ours.scanning.disabled = True
    ours.networking.connect_timeout = 10.0
    ours.process.ultimate_exiting_timeout = 10.0
    # kopf lists all again at its start, and keeps a task an object until that has been idle for so long.
    ours.watching.chunk_size = LIST_PAGE
    ours.queueing.idle_timeout = IDLE_TASK
    ours.persistence.diffbase_storage = _NoDifferences()
    ours.persistence.progress_storage = _NoProgress()
    for kind in CHILDREN:
        ours.watching.label_selectors[kind.group, kind.version, kind.plural] = CHILD_SELECTOR
    return ours


def registry(
    store: Store, queue: WorkQueue, metrics: Metrics, watched: Sequence[Kind]
) -> kopf.OperatorRegistry:
    """Return kopf's registry with a handler a watched kind."""
    ours = kopf.OperatorRegistry()

    async def on_event(*, event: kopf.RawEvent, param: Any = None, **_: Any) -> None:
        metrics.heard(param)
        take_in(store, queue, param, event)

    for kind in watched:
        kopf.on.event(kind.group, kind.version, kind.plural, param=kind, id=kind.plural, registry=ours)(
            on_event
        )
    kopf.on.login(registry=ours, id="login")(_login)
    return ours


def take_in(store: Store, queue: WorkQueue, kind: Kind, event: kopf.RawEvent) -> None:
    """Keep what a watch tells, and have the job looked at that it concerns, unless that was known."""
    key = store.absorb(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
    if key is not None:
        queue.add(key, after=0.0 if kind == FINETUNEJOB else CHILDREN_SETTLE)


class _NoDifferences(kopf.DiffBaseStorage):
    """Kopf's own copies every object at each event, to tell handlers what has changed; ours do not ask."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return cast(kopf.BodyEssence, {})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        """There is nothing to store."""


class _NoProgress(kopf.ProgressStorage):
    """Handlers of events alone are never tried again, so they have no progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """There is nothing to store."""

    def purge(self, **_: Any) -> None:
        """There is nothing to remove."""

    def touch(self, **_: Any) -> None:
        """There is nothing to wake."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
