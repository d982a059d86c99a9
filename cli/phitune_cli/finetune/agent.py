"""The near end of the volume agent: requests go out, many at a time, and answers come back in order."""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, NamedTuple, Protocol

from phitune_cli.finetune.connection import ANSWER_SECONDS, Cluster
from phitune_cli.finetune.problems import ConnectionLost, Problem, WrongInput, problem_of_file
from phitune_operator.names import WORKSPACE_PATH

MOST_WAITING: Final = 32
"""Requests that may be unanswered at once: enough to hide the way there and back, too few to fill buffers."""
STILL_SECONDS: Final = 5.0
"""Between two signs of life while this end is busy with files of its own."""
_FRAME: Final = 32 * 1024
"""Bytes of one message; kubectl's."""
_STDIN, _STDOUT, _STDERR, _ERROR = range(4)
"""Channels of exec's protocol."""
_BOOTSTRAP: Final = "import sys; s = sys.stdin.buffer; exec(s.read(int(s.readline())))"
"""The agent comes over its standard input: a command is part of a URL, whose length proxies bound."""


class Request(NamedTuple):
    """A request, and the bytes that follow it."""

    fields: Mapping[str, Any]
    body: bytes = b""


class Answer(NamedTuple):
    """An answer, and the bytes that follow it."""

    fields: dict[str, Any]
    body: bytes


class Channel(Protocol):
    """Bytes to and from the agent; both raise ConnectionLost."""

    def send(self, data: bytes) -> None:
        """Send all of it."""

    def receive(self) -> bytes:
        """Wait for some bytes."""


class Agent:
    """Asks the agent at the other end of a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._received = bytearray()
        self._sent_at = time.monotonic()

    def ask(self, do: str, path: str, **fields: Any) -> Answer:
        """Ask for one thing. Problem with the agent's words where it cannot do it."""
        (answer,) = self.ask_all([Request({"do": do, "path": path, **fields})])
        return answer

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Ask for many things; the answers, in the order of the requests."""
        waiting: deque[str] = deque()
        for request in requests:
            fields = {**request.fields, "size": len(request.body)}
            self._send(json.dumps(fields).encode() + b"\n" + request.body)
            waiting.append(str(fields["path"]))
            while len(waiting) >= MOST_WAITING:
                yield self._answer(waiting.popleft())
        while waiting:
            yield self._answer(waiting.popleft())

    def still(self) -> None:
        """Say now and then that more is to come, so that neither proxies nor the agent end the connection."""
        if time.monotonic() - self._sent_at > STILL_SECONDS:
            self._send(b'{"still": true}\n')

    def _send(self, data: bytes) -> None:
        self._channel.send(data)
        self._sent_at = time.monotonic()

    def _answer(self, path: str) -> Answer:
        while True:
            while (end := self._received.find(b"\n")) < 0:
                self._received += self._channel.receive()
            fields = json.loads(self._take(end + 1))
            if "still" in fields:
                continue
            if "error" in fields:
                raise _refusal(path, fields)
            return Answer(fields, self._take(fields.get("size", 0)))

    def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            self._received += self._channel.receive()
        taken = bytes(self._received[:length])
        del self._received[:length]
        return taken


def _refusal(path: str, fields: dict[str, Any]) -> Problem:
    where, number = f"on the volume, {path}", fields.get("errno")
    if path and isinstance(number, int):
        return problem_of_file(OSError(number, fields["error"], where))
    return WrongInput(f"{where}: {fields['error']}")


class ExecChannel:
    """The standard input and output of a command in a container."""

    def __init__(self, socket: Any) -> None:
        """`socket`: what `Cluster.execute` opened."""
        self._socket = socket
        self._stderr = b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        from websocket import WebSocketException

        try:
            for start in range(0, len(data), _FRAME):
                self._socket.send_binary(bytes([_STDIN]) + data[start : start + _FRAME])
        except (WebSocketException, OSError) as error:
            raise ConnectionLost(f"the connection to the pod broke off: {error}{self._said()}") from error

    def receive(self) -> bytes:
        """Wait for some bytes."""
        from websocket import ABNF, WebSocketException

        while True:
            try:
                code, frame = self._socket.recv_data_frame(True)
            except (WebSocketException, OSError) as error:
                raise ConnectionLost(f"the connection to the pod broke off: {error}{self._said()}") from error
            if code == ABNF.OPCODE_CLOSE:
                raise ConnectionLost(f"the pod ended the connection{self._said()}")
            if code not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or len(frame.data) < 2:
                continue
            kind, data = frame.data[0], bytes(frame.data[1:])
            if kind == _STDOUT:
                return data
            if kind == _ERROR:
                self._stderr += b"\n" + data
                raise ConnectionLost(f"the agent in the pod ended{self._said()}")
            if kind == _STDERR:
                self._stderr = (self._stderr + data)[-2000:]

    def close(self) -> None:
        """Leave."""
        self._socket.close(timeout=1)

    def _said(self) -> str:
        text = self._stderr.decode("utf-8", "replace").strip()
        return f": {text}" if text else ""


@contextmanager
def connected(cluster: Cluster, pod: str, container: str) -> Iterator[Agent]:
    """Within this block, an agent in a container that has the volume at /workspace."""
    socket = cluster.execute(pod, container, ["python3", "-c", _BOOTSTRAP, WORKSPACE_PATH])
    socket.settimeout(2 * ANSWER_SECONDS)
    channel = ExecChannel(socket)
    source = files("phitune_cli.finetune").joinpath("volume_agent.py").read_bytes()
    try:
        channel.send(b"%d\n%s" % (len(source), source))
        yield Agent(channel)
    finally:
        channel.close()
