"""What happened in a cluster, as its watches told it: the record by which a chaos test judges.

It goes on where the API server goes away and comes back, and costs the cluster one watch a kind.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3

from harness.cluster import Cluster, Object
from phitune_operator.kinds import (
    FINETUNEJOB,
    JOB,
    NODE,
    POD,
    PYTORCHJOB,
    Kind,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.names import LABEL_JOB

T = TypeVar("T")
RECORDED = (FINETUNEJOB, PYTORCHJOB, JOB, POD, NODE)
WATCH_SECONDS = 30
"""How long one watch lasts; a LIST before the next one finds what was deleted while nobody looked."""
PAUSE = 1.0
"""Seconds until the next try, where the API server does not answer."""


@dataclass(frozen=True)
class Sight:
    """One object as it was told."""

    at: float
    """Seconds of this process's monotonic clock."""
    kind: Kind
    obj: Object
    deleted: bool = False


class Recorder:
    """Follows every job, gang and pod of a cluster, and its nodes, between `start` and `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        self._pool: urllib3.PoolManager = cluster.api.rest_client.pool_manager
        self._host = cluster.api.configuration.host
        self._sights: list[Sight] = []
        self._now: dict[Kind, dict[str, Object]] = {kind: {} for kind in RECORDED}
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in RECORDED
        ]

    def start(self) -> None:
        """Begin to record."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the record."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(WATCH_SECONDS + 10)

    def of_job(self, namespace: str, name: str) -> list[Sight]:
        """All that was told of a job and its children, and of the nodes, in the order of its coming."""
        with self._changed:
            told = list(self._sights)
        return [sight for sight in told if sight.kind == NODE or concerns(sight.obj, namespace, name)]

    def now(self, kind: Kind, namespace: str, name: str) -> list[Object]:
        """What there is of a job by the latest word: the job itself, or its children of one kind."""
        with self._changed:
            return [obj for obj in self._now[kind].values() if concerns(obj, namespace, name)]

    def wait(self, predicate: Callable[[], T | None], seconds: float) -> T | None:
        """The first truthy answer of `predicate`, asked whenever something was told; None at the time-out."""
        end = time.monotonic() + seconds
        with self._changed:
            while not (answer := predicate()):
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, 5.0))
        return answer

    def _follow(self, kind: Kind) -> None:
        while not self._is_over.is_set():
            try:
                self._watch(kind, self._list(kind))
            except (urllib3.exceptions.HTTPError, OSError, ValueError, NotServedError):
                self._is_over.wait(PAUSE)

    def _list(self, kind: Kind) -> str:
        answer = self._ask(kind, {}, read=30)
        body = json.loads(answer.data)
        if answer.status != 200:
            raise NotServedError(body.get("message"))
        listed = {
            uid_of(item): {"apiVersion": kind.api_version, "kind": kind.kind, **item}
            for item in body["items"]
        }
        with self._changed:
            gone = [obj for uid, obj in self._now[kind].items() if uid not in listed]
            for obj in gone:
                self._note(kind, obj, deleted=True)
            for uid, obj in listed.items():
                known = self._now[kind].get(uid)
                if known is None or version_of(known) != version_of(obj):
                    self._note(kind, obj, deleted=False)
        version: str = body["metadata"]["resourceVersion"]
        return version

    def _watch(self, kind: Kind, version: str) -> None:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        answer = self._ask(kind, query, read=WATCH_SECONDS + 5)
        try:
            for line in _lines(answer):
                if self._is_over.is_set():
                    return
                told = json.loads(line)
                if told["type"] == "ERROR":
                    return
                with self._changed:
                    self._note(kind, told["object"], deleted=told["type"] == "DELETED")
        finally:
            answer.close()

    def _ask(self, kind: Kind, query: dict[str, str], *, read: float) -> urllib3.BaseHTTPResponse:
        chosen = {} if kind in (NODE, FINETUNEJOB) else {"labelSelector": LABEL_JOB}
        return self._pool.request(
            "GET",
            f"{self._host}{kind.path(None)}?{urlencode({**chosen, **query})}",
            preload_content=not query,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=read),
        )

    def _note(self, kind: Kind, obj: Object, *, deleted: bool) -> None:
        obj["metadata"].pop("managedFields", None)
        if deleted:
            self._now[kind].pop(uid_of(obj), None)
        else:
            self._now[kind][uid_of(obj)] = obj
        self._sights.append(Sight(time.monotonic(), kind, obj, deleted))
        self._changed.notify_all()


class NotServedError(Exception):
    """The API server does not serve that kind now."""


def concerns(obj: Object, namespace: str, name: str) -> bool:
    """Whether an object is the job of this name, or says by its label that it belongs to it."""
    if obj["metadata"].get("namespace") != namespace:
        return False
    return name in (labels_of(obj).get(LABEL_JOB), name_of(obj))


def version_of(obj: Object) -> Any:
    """Its resourceVersion."""
    return obj["metadata"].get("resourceVersion")


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for part in answer.stream(None):
        *whole, rest = (rest + part).split(b"\n")
        yield from (line for line in whole if line)


def phases(sights: Sequence[Sight]) -> list[str]:
    """The phases that a job went through, for a message."""
    told = [
        str((sight.obj.get("status") or {}).get("phase", "")) for sight in sights if sight.kind == FINETUNEJOB
    ]
    return [phase for index, phase in enumerate(told) if index == 0 or told[index - 1] != phase]
