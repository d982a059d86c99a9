"""Every link between pages leads somewhere: README and the others that mkdocs does not see, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from harness.cluster import REPOSITORY
from harness.documented import PAGES, page


def anchors(text: str) -> set[str]:
    """What a page's titles are called in links."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_blocks, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def dead_links(name: str, text: str) -> Iterator[str]:
    """Links of a page to a file or a title that is not there; those to the web are not followed."""
    without_code = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        if not file.exists():
            yield f"{name}: {target}: no such file"
        elif anchor and anchor not in anchors(text if not path else file.read_text(encoding="utf-8")):
            yield f"{name}: {target}: no such title"


def test_no_link_is_dead() -> None:
    assert [dead for name in PAGES for dead in dead_links(name, page(name))] == []


def test_a_dead_link_is_noticed() -> None:
    text = "# A title\n[there](#a-title) [not](#b) [gone](gone.md) [web](https://example.com/) `[code](x)`\n"
    assert [dead.split(": ")[1] for dead in dead_links("README.md", text)] == ["#b", "gone.md"]


def test_every_page_is_in_the_contents() -> None:
    contents = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(contents)["nav"])))
    assert listed == {str(Path(name).relative_to("docs")) for name in PAGES if name.startswith("docs/")}
