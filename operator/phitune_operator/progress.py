"""Asks rank 0 how far it is. It is not trusted: time and size are bounded, the answer is read strictly."""

import asyncio

import aiohttp

from phitune_operator.kinds import Key
from phitune_operator.names import PROGRESS_PORT
from phitune_operator.reports import MAX_BYTES, ProgressReport, read_progress

TIMEOUT = 2.0
"""Seconds that one answer may take."""


class ProgressPoller:
    """Polls /progress, no more often than told. Between polls, and without an answer, the last one stands."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._last: dict[Key, tuple[str, float, ProgressReport | None]] = {}

    def forget(self, key: Key) -> None:
        """Drop the last answer of a job."""
        self._last.pop(key, None)

    async def poll(self, key: Key, address: str, *, at_most_every: float) -> ProgressReport | None:
        """Return what rank 0 at this address said last; None if it has not said anything yet."""
        now = asyncio.get_running_loop().time()
        known_address, asked_at, report = self._last.get(key, ("", 0.0, None))
        if address == known_address and now - asked_at < at_most_every:
            return report
        answer = await self._ask(address)
        report = answer or (report if address == known_address else None)
        self._last[key] = (address, now, report)
        return report

    async def _ask(self, address: str) -> ProgressReport | None:
        host = f"[{address}]" if ":" in address else address
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            url = f"http://{host}:{PROGRESS_PORT}/progress"
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                body = await answer.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                    body += more
                return read_progress(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None  # still loading, busy, or going away: the next poll tells
