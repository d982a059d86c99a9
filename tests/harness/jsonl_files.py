"""Writes jsonl files for tests, with right lines and wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_lines(file: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    """A file of these lines: objects as JSON, everything else as it is."""
    raw = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    file.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in raw))
    return file
