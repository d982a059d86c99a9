"""What a run's folder on the volume tells of its starts."""

from __future__ import annotations

import json
from typing import Any

from harness.lab import Lab

READ_STARTS = """
import json, pathlib
(run,) = pathlib.Path("/workspace/runs").glob("*/NAME/*")
starts = []
for folder in sorted((run / "incarnations").iterdir()):
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}") and "step" in json.loads(line)]
    starts.append({"start": json.loads((folder / "start.json").read_text()), "last": max(steps, default=0)})
print(json.dumps(starts))
"""


def incarnations(lab: Lab, name: str) -> list[Any]:
    """Of each start of the run: its record (start.json), and the last step that it reached."""
    claim = lab.status(name)["artifacts"]["claim"]
    found: list[Any] = json.loads(lab.on_claim(claim, READ_STARTS.replace("NAME", name)))
    return found
