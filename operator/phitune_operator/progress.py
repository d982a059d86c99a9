"""Asks rank 0 how far it is. It is not trusted: time and size are bounded, the answer is read strictly."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import aiohttp

from phitune_operator.kinds import Key
from phitune_operator.names import PROGRESS_PORT
from phitune_operator.reports import MAX_BYTES, ProgressReport, read_progress

TIMEOUT = 2.0
"""Seconds that one answer may take."""
IN_VAIN_PAUSE = 20.0
"""Seconds until a pod is asked again that keeps a worker waiting: packets to it are lost, or it hangs."""
HANGS_AFTER = 2
"""Questions in a row without an answer, after which a pod counts as one that hangs: one may find it busy."""


@dataclass(frozen=True)
class _Heard:
    """What one pod has said so far; times are those of the event loop, which no change of the clock moves."""

    pod: tuple[str, str]
    """Uid and address."""
    asked_at: float
    report: ProgressReport | None = None
    alive_at: float | None = None
    """When it last showed life, or nobody could tell; None before a connection was made."""
    num_silent: int = 0
    """How often it was asked since, and had nothing new to say."""
    is_kept_out: bool = False
    """Whether the last question was lost on its way, rather than refused."""
    num_unanswered: int = 0
    """How many of the last questions were taken, and waited for their answer in vain."""

    @property
    def pause(self) -> float:
        """Seconds that the next question has to wait at least."""
        return IN_VAIN_PAUSE if self.is_kept_out or self.num_unanswered >= HANGS_AFTER else 0.0

    def after(self, answer: ProgressReport | None) -> "_Heard":
        """What is known after one more question, whose connection was made; None: nothing usable came."""
        is_new = answer is not None and (self.report is None or answer.updated_at != self.report.updated_at)
        if is_new or self.alive_at is None:
            return replace(self, report=answer or self.report, alive_at=self.asked_at, num_silent=0)
        return replace(self, report=answer or self.report, num_silent=self.num_silent + 1)


class UnreachableError(Exception):
    """No connection was made."""


class KeptOutError(UnreachableError):
    """Nobody even refused it: a firewall, or a network policy, drops what is sent there."""


class UnansweredError(Exception):
    """A connection was made, and no whole answer came in time."""


def open_session() -> aiohttp.ClientSession:
    """Open a session that makes a connection for each question.

    One that is kept costs rank 0 a thread and the operator a descriptor for each job, until one of them drops
    it just when the other uses it; and it outlives the NetworkPolicy that would forbid it.
    """
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


class ProgressPoller:
    """Polls /progress, no more often than told. Between polls, and without an answer, the last one stands."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._heard: dict[Key, _Heard] = {}

    @property
    def num_asked(self) -> int:
        """How many jobs are asked: those that train, and those that are about to."""
        return len(self._heard)

    def forget(self, key: Key) -> None:
        """Drop the last answer of a job."""
        self._heard.pop(key, None)

    def due_in(self, key: Key, *, every: float) -> float:
        """Return in how many seconds it is time to ask again, if that is done so often."""
        known = self._heard.get(key)
        left = 0.0 if known is None else known.asked_at + every - asyncio.get_running_loop().time()
        return left if left > 0 else every

    async def poll(
        self, key: Key, uid: str, address: str, *, at_most_every: float
    ) -> tuple[ProgressReport | None, timedelta | None]:
        """Return what rank 0, a pod of this uid and address, said last, and how long it has been silent.

        None where it has not said anything yet. Silent is who can be reached, and says nothing new when asked
        twice: a network that keeps the operator out is nobody's silence.
        """
        clock = asyncio.get_running_loop().time
        known = self._heard.get(key)
        if known is None or known.pod != (uid, address):
            known = _Heard((uid, address), float("-inf"))
        if clock() - known.asked_at >= max(at_most_every, known.pause):
            known = replace(known, asked_at=clock(), is_kept_out=False)
            try:
                known = replace(known.after(await self._ask(address)), num_unanswered=0)
            except UnansweredError:
                known = replace(known.after(None), num_unanswered=known.num_unanswered + 1)
            except UnreachableError as error:
                is_kept_out = isinstance(error, KeptOutError)
                known = replace(known, alive_at=None, num_silent=0, num_unanswered=0, is_kept_out=is_kept_out)
            self._heard[key] = known
        if known.alive_at is None or known.num_silent < 2:
            return known.report, None
        return known.report, timedelta(seconds=clock() - known.alive_at)

    async def _ask(self, address: str) -> ProgressReport | None:
        host = f"[{address}]" if ":" in address else address
        timeout = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=TIMEOUT / 2)
        try:
            url = f"http://{host}:{PROGRESS_PORT}/progress"
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                body = await answer.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                    body += more
                return read_progress(body)
        except aiohttp.ConnectionTimeoutError as error:
            raise KeptOutError from error
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError from error
        except TimeoutError as error:
            raise UnansweredError from error
        except (aiohttp.ClientError, OSError, ValueError):
            return None  # going away, or not as it should be: the next poll tells
