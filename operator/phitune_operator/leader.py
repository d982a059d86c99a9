"""Which of several operators works: the one that holds a Lease. The others wait to take its place.

A holder renews the Lease every few seconds, and stops working well before another one may take it. How old a
Lease is, everybody measures by its own clock, from the moment at which it saw the Lease change: clocks that
differ, or jump, do no harm.

Rights used here, in the operator's own namespace:

| resource | verbs | for |
| --- | --- | --- |
| leases.coordination.k8s.io | get, create, patch | the one Lease |
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from phitune_operator.kinds import LEASE, Object
from phitune_operator.kube import ApiError, Kube
from phitune_operator.logs import LOGGER

FREE_AFTER = 15.0
"""Seconds without a renewal after which others may take the Lease."""
STOP_AFTER = 10.0
"""Seconds since its last renewal after which a holder stops; the rest is for what it has under way."""
EVERY = 3.0
"""Seconds between two renewals."""
LOOK = 1.0
"""Seconds between two looks of those who wait. A failover may take twice that beyond FREE_AFTER: the last
renewal may be seen so late, and then the Lease be found free so late."""
ANSWER = 5.0
"""Seconds that a holder waits for an API server that is slow, before it tries once more."""
SOON = 0.5
"""Seconds between a renewal that failed and the next try."""


class LeadershipLostError(Exception):
    """Another operator may work now; this process has to end."""


class Candidate:
    """One operator's view of the Lease. Pure: the time is an argument, in seconds of a clock of its own."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._version = ""
        self._changed_at = 0.0
        self._renewed_at: float | None = None

    def may_work(self, now: float) -> bool:
        """Whether no other may hold the Lease yet."""
        return self._renewed_at is not None and now - self._renewed_at < STOP_AFTER

    def wants(self, lease: Object | None, now: float) -> bool:
        """Whether to take or to renew the Lease, as it was just read; None: there is none."""
        if lease is None:
            return True
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._version:
            self._version, self._changed_at = version, now
        holder = holder_of(lease)
        return holder in ("", self.identity) or now - self._changed_at >= FREE_AFTER

    def seconds_left(self, now: float) -> float:
        """How long it may still work without a renewal."""
        return 0.0 if self._renewed_at is None else max(0.0, self._renewed_at + STOP_AFTER - now)

    def has_written(self, now: float) -> None:
        """The Lease is ours, by a write that began at this time."""
        self._renewed_at = now


class Leadership:
    """Takes the Lease, keeps it, and gives it back."""

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._me = Candidate(identity)

    async def acquire(self, on_wait: Callable[[], None]) -> None:
        """Wait until the Lease is ours; `on_wait` is called while another one is seen to hold it."""
        said = ""
        while True:
            try:
                holder = await self._look()
            except ApiError as error:
                LOGGER.warning("cannot look at Lease %s/%s: %s", self._namespace, self._name, error)
            else:
                if holder == self._me.identity:
                    LOGGER.info("holding Lease %s/%s", self._namespace, self._name)
                    return
                on_wait()
                if holder != said:
                    LOGGER.info("waiting for Lease %s/%s, held by %s", self._namespace, self._name, holder)
                    said = holder
            await asyncio.sleep(LOOK)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the Lease within this block, which is cancelled if the Lease is lost.

        Raises LeadershipLostError, in an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self.keep())
            yield
            keeping.cancel()

    async def keep(self) -> None:
        """Renew the Lease for ever. Raises LeadershipLostError before another one may hold it."""
        why: Exception | None = None
        while left := self._me.seconds_left(time.monotonic()):
            look_again = time.monotonic() + EVERY
            try:
                # Not wait_for, which in Python 3.11 may swallow the cancellation that ends this.
                async with asyncio.timeout(min(ANSWER, left)):
                    holder = await self._look()
                if holder != self._me.identity:
                    raise LeadershipLostError(f"the Lease was taken by {holder}")
                why = None
            except (ApiError, TimeoutError) as error:
                why, look_again = error, time.monotonic() + SOON
            now = time.monotonic()
            await asyncio.sleep(max(0.0, min(look_again - now, self._me.seconds_left(now))))
        reason = repr(why) if why else "this process did not get to it, for want of processor time"
        raise LeadershipLostError(f"the Lease could not be renewed in time: {reason}")

    async def release(self) -> None:
        """Let the next one begin at once."""
        try:
            async with asyncio.timeout(EVERY):
                lease = await self._kube.get(LEASE, self._namespace, self._name)
                if lease is not None and holder_of(lease) == self._me.identity:
                    await self._write(lease, holder="")
        except (ApiError, TimeoutError) as error:
            LOGGER.info("the Lease was not given back: %r; it is free in %.0f s", error, FREE_AFTER)

    async def _look(self) -> str:
        """Take or renew the Lease if that may be; who holds it now."""
        now = time.monotonic()
        lease = await self._kube.get(LEASE, self._namespace, self._name)
        if not self._me.wants(lease, now):
            assert lease is not None
            return holder_of(lease)
        await self._write(lease, holder=self._me.identity)
        self._me.has_written(now)
        return self._me.identity

    async def _write(self, lease: Object | None, *, holder: str) -> None:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(FREE_AFTER),
            "renewTime": moment,
        }
        if lease is None or holder_of(lease) != holder:
            transitions = int(_spec(lease).get("leaseTransitions") or 0) if lease else 0
            spec |= {"acquireTime": moment, "leaseTransitions": transitions + 1}
        if lease is None:
            metadata = {"namespace": self._namespace, "name": self._name}
            made = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            await self._kube.create(LEASE, made)
        else:
            patch = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
            await self._kube.merge(LEASE, self._namespace, self._name, patch)


def holder_of(lease: Object) -> str:
    """Who holds the Lease; empty if it was given back."""
    return str(_spec(lease).get("holderIdentity") or "")


def _spec(lease: Object) -> dict[str, Any]:
    return lease.get("spec") or {}
