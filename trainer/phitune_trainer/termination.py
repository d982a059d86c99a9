"""A pod's last words: the JSON that the kubelet copies into the pod's status when its container ends.

The operator learns from it how a pod ended when nothing answers on the network any more. Written by
process 1 of every pod: the launcher, and the prepare Job.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phitune_trainer.strict_json import to_json

MAX_BYTES = 4096
"""What Kubernetes keeps of one container's message; it cuts the rest off, which would not be JSON."""

_ALWAYS = {"version": 1, "attempt": 1, "nodeRank": 0}


def write_termination(message: Mapping[str, Any]) -> None:
    """Write `message` where the kubelet reads it, shortened to fit.

    Outside a pod there is no such file and nothing is written, unless PHITUNE_TERMINATION_LOG names one.
    """
    asked = os.environ.get("PHITUNE_TERMINATION_LOG")
    path = Path(asked or "/dev/termination-log")
    if asked or path.is_file():
        path.write_bytes(bounded({**_ALWAYS, **message}))


def attempt() -> int:
    """The attempt that this pod belongs to: PHITUNE_ATTEMPT, which the operator sets; 1 without one."""
    return int(os.environ.get("PHITUNE_ATTEMPT", "1"))


def bounded(message: Mapping[str, Any]) -> bytes:
    """`message` as JSON of at most MAX_BYTES: the least telling parts go first.

    Log lines go first (oldest first), then the proofs of the higher ranks (`ranksOmitted` counts them),
    then the end of the sentence.
    """
    kept = json.loads(to_json(message))
    while len(encoded := _encode(kept)) > MAX_BYTES:
        excess = len(encoded) - MAX_BYTES
        failure = kept.get("failure") or {}
        if failure.get("lastLines"):
            failure["lastLines"].pop(0)
        elif kept.get("ranks"):
            kept["ranks"].pop()
            kept["ranksOmitted"] = kept.get("ranksOmitted", 0) + 1
        elif len(kept.get("message") or "") > 1:
            sentence = kept["message"]
            kept["message"] = sentence[: max(1, len(sentence) - excess - 3)].rstrip("…") + "…"
            if len(kept["message"]) >= len(sentence):
                kept["message"] = ""
        else:
            raise ValueError(
                f"a termination message of {len(encoded)} bytes cannot be shortened to {MAX_BYTES}"
            )
    return encoded


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
