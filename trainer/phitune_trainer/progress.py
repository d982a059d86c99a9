"""What rank 0 tells the world while it lives: /progress for the operator, /metrics for Prometheus, /healthz.

The state is a value that the training thread replaces; the server's threads only read it.
"""

import os
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from phitune_trainer.strict_json import finite, to_json

PORT = 8471

State = Literal["loading", "baseline", "training", "evaluating", "saving", "done"]

_METRICS = (
    ("phitune_step", "step", "Optimizer steps done."),
    ("phitune_steps_total", "totalSteps", "Optimizer steps of the whole run."),
    ("phitune_epoch", "epoch", "Passes over the training samples done."),
    ("phitune_loss", "loss", "Mean loss of a labelled token over the last step, in nats."),
    ("phitune_learning_rate", "learningRate", "Learning rate of the last step."),
    ("phitune_images_per_second", "imagesPerSecond", "Pictures trained on a second, over all ranks."),
    ("phitune_tokens_per_second", "tokensPerSecond", "Tokens trained on a second, over all ranks."),
    ("phitune_mfu", "mfu", "Model FLOPs utilisation, 0 to 1."),
    ("phitune_memory_bytes", "memoryBytes", "Most memory held so far by rank 0, of its GPU if it has one."),
    ("phitune_data_wait", "dataWait", "Share of the time in which rank 0 waits for samples, 0 to 1."),
    ("phitune_eta_seconds", "etaSeconds", "Seconds until the last step."),
)


class Progress:
    """The newest progress, in the words of the API."""

    def __init__(self, *, attempt: int, total_steps: int = 0) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, Any] = {
            "version": 1,
            "attempt": attempt,
            "state": "loading",
            "step": 0,
            "totalSteps": total_steps,
            "percent": 0.0,
            "epoch": 0.0,
            "loss": None,
            "learningRate": None,
            "imagesPerSecond": None,
            "tokensPerSecond": None,
            "mfu": None,
            "memoryBytes": None,
            "dataWait": None,
            "etaSeconds": None,
            "updatedAt": timestamp(),
            "lastCheckpoint": None,
            "evaluation": None,
        }

    def update(self, *, state: State | None = None, **fields: Any) -> None:
        """Replace some fields, named as in the JSON; what is not finite becomes None, which JSON can say."""
        if unknown := fields.keys() - self._now.keys():
            raise TypeError(f"progress has no {', '.join(sorted(unknown))}")
        with self._lock:
            now = {**self._now, **finite(fields), "updatedAt": timestamp()}
            if state is not None:
                now["state"] = state
            now["percent"] = round(100 * now["step"] / now["totalSteps"], 1) if now["totalSteps"] else 0.0
            self._now = now

    def snapshot(self) -> dict[str, Any]:
        """The newest state as it goes into JSON."""
        with self._lock:
            return self._now

    def metrics(self) -> str:
        """The same in Prometheus' text format; what is not known yet is absent."""
        now = self.snapshot()
        lines = []
        for metric, name, text in _METRICS:
            if now[name] is not None:
                lines += [f"# HELP {metric} {text}", f"# TYPE {metric} gauge", f"{metric} {now[name]}"]
        if now["evaluation"] is not None:
            text = "Score of the last evaluation on held-out samples, 0 to 1."
            label = f'{{metric="{now["evaluation"]["metric"]}"}}'
            lines += [f"# HELP phitune_score {text}", "# TYPE phitune_score gauge"]
            lines += [f"phitune_score{label} {now['evaluation']['value']}"]
        return "\n".join(lines) + "\n"


def timestamp() -> str:
    """Now, as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def progress_port() -> int:
    """The port to answer on: PHITUNE_PROGRESS_PORT, for several runs on one machine; else that of the API."""
    return int(os.environ.get("PHITUNE_PROGRESS_PORT", PORT))


def progress_host() -> str:
    """The address to answer on: PHITUNE_PROGRESS_HOST; else all of them, for the operator polls pods."""
    return os.environ.get("PHITUNE_PROGRESS_HOST", "0.0.0.0")  # noqa: S104 - polled from other pods


def serve(progress: Progress, port: int, host: str) -> ThreadingHTTPServer | None:
    """Answer on this port of `host` from now on; None where the port is taken.

    On a shared machine the port may belong to someone else: training goes on without it.
    """

    class Handler(_Handler):
        source = progress

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError:
        return None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    source: Progress
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        match self.path:
            case "/progress":
                self._answer(200, "application/json", to_json(self.source.snapshot()))
            case "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", self.source.metrics())
            case "/healthz":
                self._answer(200, "text/plain; charset=utf-8", "ok\n")
            case _:
                self._answer(404, "text/plain; charset=utf-8", "known paths: /progress /metrics /healthz\n")

    def _answer(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is named there
        """Requests every few seconds are not worth a line each."""
