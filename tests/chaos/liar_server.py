"""`python3 liar_server.py PORT hang|lie|flood`: answers /progress as no trainer would.

It stands alone, for it runs in a pod's network.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIE = {
    "attempt": 7,
    "state": "done",
    "step": 10**9,
    "totalSteps": 10**9,
    "percent": 100.0,
    "loss": -1.0,
    "updatedAt": "2999-01-01T00:00:00Z",
    "lastCheckpoint": {"step": 10**9, "path": "../../../etc", "time": "2999-01-01T00:00:00Z"},
}
FLOOD = 100 * 2**20
"""Bytes."""
PIECE = b"[" * 2**20


class Answer(BaseHTTPRequestHandler):
    how = ""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        print("asked", flush=True)
        if self.how == "hang":
            threading.Event().wait()
        self.send_response(200)
        self.end_headers()
        if self.how == "lie":
            self.wfile.write(json.dumps(LIE).encode())
        try:
            for _ in range(FLOOD // len(PIECE) if self.how == "flood" else 0):
                self.wfile.write(PIECE)
        except ConnectionError:
            return  # Whoever asked has heard enough.


if __name__ == "__main__":
    Answer.how = sys.argv[2]
    server = ThreadingHTTPServer(("", int(sys.argv[1])), Answer)
    print("listening", flush=True)
    server.serve_forever()
