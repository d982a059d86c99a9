"""Lists what is in an image, as CycloneDX: `sbom.py NAME VERSION`, run inside it, writes the list to stdout.

Debian's packages come from dpkg's own record, Python's from the metadata that each installed one carries. Two
images of the same content have the same list: it has no time stamp and no number of its own.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")


def debian(status: str) -> list[dict[str, Any]]:
    """The components of dpkg's record: those that are installed."""
    found = []
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={fields['Architecture']}"
            found.append(_component(name, version, purl))
    return found


def python(distributions: Iterable[metadata.Distribution]) -> list[dict[str, Any]]:
    """The components of Python packages, each with the licence that it states."""
    found = []
    for one in distributions:
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        component = _component(name, one.version, f"pkg:pypi/{name}@{quote(one.version)}")
        stated = one.metadata.json
        licence = str(stated.get("license_expression") or stated.get("license") or "")
        # Some carry the whole text of theirs.
        if licence and "\n" not in licence:
            component["licenses"] = [{"license": {"name": licence}}]
        found.append(component)
    return found


def document(name: str, version: str, components: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The whole list, its components in order of their package URLs."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": sorted(components, key=lambda one: str(one["purl"])),
    }


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    parts = [*debian(DPKG.read_text(encoding="utf-8")), *python(metadata.distributions())]
    json.dump(document(sys.argv[1], sys.argv[2], parts), sys.stdout, indent=1)
