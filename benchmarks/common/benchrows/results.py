"""The file of figures: a list of rows, each with the commit and the command that it comes from."""

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypedDict

from benchrows.row import Row

REPOSITORY = Path(__file__).resolve().parents[3]


class Entry(TypedDict):
    """A row as it is written."""

    name: str
    value: float
    unit: str
    bar: str
    passed: bool
    commit: str
    command: str


def entry(row: Row, value: float, *, commit: str, target: str) -> Entry:
    """A row that a target of make measured, to four digits; whether it holds is decided before rounding."""
    return {
        "name": row.name,
        "value": float(f"{value:.4g}"),
        "unit": row.unit,
        "bar": str(row.bar),
        "passed": row.bar.holds(value),
        "commit": commit,
        "command": f"make {target} ONLY={row.name}",
    }


def read(path: Path, *, names: Collection[str]) -> list[Entry]:
    """Those rows of an earlier file that have one of these names; none where there is no such file."""
    if not path.exists():
        return []
    entries: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
    return [entry for entry in entries if entry["name"] in names]


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def commit() -> str:
    """The commit that is checked out, with "-dirty" where files differ from it; "unknown" without git."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
