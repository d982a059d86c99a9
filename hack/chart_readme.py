"""Writes charts/phitune/README.md from the comments of values.yaml.

With --check nothing is written; 1 if the page differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "phitune"

KeyPath = tuple[str, ...]

HEAD = """\
<!-- Written from values.yaml by `make generate`; do not edit. -->
# Chart of Phitune's operator

```
make images REGISTRY=registry.example.com/team TAG=0.1.0
helm upgrade --install phitune charts/phitune --namespace phitune-system --create-namespace --wait \\
  --set image.repository=registry.example.com/team/phitune/operator --set image.tag=0.1.0
helm test phitune --namespace phitune-system
```

The trainer's images are found by the name and the tag of the operator's. The CRD is installed, upgraded and
kept with the chart. `helm uninstall` removes the operator; jobs, their volumes and what runs stay
(docs/operator.md). Unknown values are refused.

| Value | Default | |
| --- | --- | --- |
"""


def main(arguments: list[str], chart: Path = CHART) -> int:
    """Write the page, or with --check compare it."""
    parser = argparse.ArgumentParser(prog="hack/chart_readme.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the page differs")
    options = parser.parse_args(arguments)
    page = chart / "README.md"
    wanted = HEAD + "".join(
        f"| `{name}` | {default} | {comment} |\n"
        for name, default, comment in rows((chart / "values.yaml").read_text(encoding="utf-8"))
    )
    if page.is_file() and page.read_text(encoding="utf-8") == wanted:
        return 0
    if options.check:
        print(f"{page}: differs from values.yaml; run make generate", file=sys.stderr)
        return 1
    page.write_text(wanted, encoding="utf-8")
    print(f"{page}: written")
    return 0


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Dotted name, default and comment of every value; a group is as many rows as it has values.

    Raises ValueError for a value that no comment tells of.
    """
    values, comments = yaml.safe_load(text), _comments(text)
    told = [path for path in comments if not any(_is_within(other, path) for other in comments)]
    for path in _leaves(values):
        if not any(path == other or _is_within(path, other) for other in told):
            raise ValueError(f"values.yaml: {'.'.join(path)} has no comment above it")
    for path in told:
        default = reduce(lambda part, name: part[name], path, values)
        yield ".".join(path), f"`{json.dumps(default)}`", comments[path]


def _is_within(path: KeyPath, group: KeyPath) -> bool:
    return len(path) > len(group) and path[: len(group)] == group


def _leaves(values: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from _leaves(value, (*path, name))
    else:
        yield path


def _comments(text: str) -> dict[KeyPath, str]:
    """The comment above each key, by the key's path; keys without one are absent."""
    path, above, found = list[str](), list[str](), dict[KeyPath, str]()
    for line in text.splitlines():
        words, depth = line.strip(), (len(line) - len(line.lstrip())) // 2
        if words.startswith("#"):
            above.append(words.lstrip("# "))
            continue
        if words:
            path[depth:] = [words.partition(":")[0]]
            if above:
                found[tuple(path)] = " ".join(above)
        above = []
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
