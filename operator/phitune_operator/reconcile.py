"""One look at one job: observe, plan, write. Every trigger ends here; it is safe to run at any time."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from phitune_operator.apply import announce, carry_out, write_status
from phitune_operator.kinds import Key
from phitune_operator.kube import ApiError, Kube
from phitune_operator.logs import JobLogger, of_job
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import Action, Create, Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.policies.acceptance import own_error
from phitune_operator.queue import LONGEST_AFTER_REFUSAL, WorkQueue
from phitune_operator.store import Store


class Reconciler:
    """Brings jobs one step closer to what they ask for, and asks the queue for the next step."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        queue: WorkQueue,
        observer: Observer,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._queue = queue
        self._observer = observer
        self._metrics = metrics
        self._clock = clock

    async def look(self, key: Key) -> None:
        """Do one pass and schedule the next; never raises. What failed is tried again, later each time."""
        log, began, outcome = self._log_of(key), time.monotonic(), "done"
        try:
            look_again = await self.reconcile(key)
        except ApiError as error:
            outcome = "conflict" if error.conflict else "error"
            pause = self._queue.retry(key)
            log.log(
                logging.DEBUG if error.conflict else logging.WARNING,
                "%s; looking again in %.1f s",
                error,
                pause,
            )
        except Exception as error:
            outcome = "bug"
            pause = self._queue.retry(key)
            log.exception("unexpected error; looking again in %.1f s", pause)
            await self._own_up(key, error, log)
        else:
            if look_again is not None:
                self._queue.add(key, after=look_again)
        self._metrics.reconciled(outcome, time.monotonic() - began)

    async def reconcile(self, key: Key) -> float | None:
        """Do one pass; returns in how many seconds time alone asks for another. Raises ApiError."""
        observed = await self._observer.observe(key, now=self._clock())
        if observed is None:
            self._observer.forget(key)
            self._queue.forget_failures(key)
            return None
        seen, todo = self._decide(observed)
        # Events come last, for nobody waits for them.
        news = todo.announcements if await self._write(seen, todo) else ()
        try:
            refusal = await carry_out(self._kube, self._store, todo.actions, owner=seen.raw)
        except ApiError:
            await announce(self._kube, seen.raw, news, now=seen.now)  # to the next look it is no news
            raise
        await announce(self._kube, seen.raw, news, now=seen.now)
        self._log(seen, todo)
        if refusal is None:
            self._queue.forget_failures(key)
            return todo.look_again
        job = self._store.job(key)
        if job is not None:
            # From what was observed: in what was seen, the nodes of others are counted as held already.
            seen, todo = self._decide(replace(observed, raw=job, refusal=refusal))
            if await self._write(seen, todo):
                await announce(self._kube, job, todo.announcements, now=seen.now)
        pause = self._queue.retry(key, at_most=LONGEST_AFTER_REFUSAL)
        of_job(key, seen.attempt).warning(
            "%s: %s; trying again in %.1f s", refusal.reason, refusal.message, pause
        )
        return None

    def _decide(self, seen: Observed) -> tuple[Observed, Plan]:
        """Plan on what other jobs have left, and let them know: no other look comes in between."""
        seen = self._observer.granted.held(seen)
        todo = plan(seen)
        self._observer.granted.note(seen, todo.status)
        return seen, todo

    async def _own_up(self, key: Key, error: Exception, log: JobLogger) -> None:
        """Say on the job what is wrong with the operator: users do not read its log. Never raises."""
        job = self._store.job(key)
        if job is None:
            return
        try:
            now = self._clock()
            todo = own_error(job, error, now=now)
            if await write_status(self._kube, self._store, job, todo.status):
                await announce(self._kube, job, todo.announcements, now=now)
        except Exception:
            log.exception("this could not be said on the job")

    def _log_of(self, key: Key) -> JobLogger:
        job = self._store.job(key)
        return of_job(key, ((job or {}).get("status") or {}).get("attempt"))

    async def _write(self, seen: Observed, todo: Plan) -> bool:
        """Write the status if it differs; returns whether it did, and thus whether there is news to tell."""
        is_news = await write_status(self._kube, self._store, seen.raw, todo.status)
        if is_news:
            self._metrics.status_written(seen.status, todo.status)
        return is_news

    def _log(self, seen: Observed, todo: Plan) -> None:
        log = of_job(seen.key, todo.status.get("attempt"))
        before, after = seen.status.get("phase"), todo.status.get("phase")
        if before != after:
            log.info("phase %s -> %s", before or "(new)", after)
        for announcement in todo.announcements:
            log.info("%s: %s", announcement.reason, announcement.message)
        for action in todo.actions:
            log.info("%s", describe(action))


def describe(action: Action) -> str:
    """Say what a write does, for the log."""
    if isinstance(action, Create):
        metadata: dict[str, Any] = action.body["metadata"]
        return f"created {action.kind} {metadata['name']}"
    return f"deleted {action.kind} {action.name}"
