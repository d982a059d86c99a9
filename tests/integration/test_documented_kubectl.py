"""Every kubectl and helm command that a page shows is one, with options that these programs have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

import pytest

from harness.cluster import Cluster, CommandError, run
from harness.documented import PAGES, commands_in_blocks, commands_in_text, page

WORDS = {"create secret": 3, "create": 2, "config": 2, "get values": 2}
"""Of how many words the subcommands are that have subcommands; helm's get has, and kubectl's has not."""


def shown() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every such command; the plugin's are held against its parser elsewhere."""
    for name in PAGES:
        for words in [*commands_in_blocks(page(name)), *commands_in_text(page(name))]:
            if words[0] in ("kubectl", "helm") and words[1] != "finetune":
                yield name, words


def problem_of(cluster: Cluster, words: Sequence[str]) -> str | None:
    """The subcommand or the options that there are not."""
    program = {"kubectl": cluster.kubectl_path, "helm": cluster.helm_path}[words[0]]
    beginnings = (" ".join(words[1:3]), words[1])
    path = words[1 : 1 + next((WORDS[one] for one in beginnings if one in WORDS), 1)]
    known = options_of(program, *path)
    if not known:
        return f"{words[0]} has no {' '.join(path)}"
    own = words[: words.index("--")] if "--" in words else words
    absent = {word.partition("=")[0] for word in own if word.startswith("-")} - known
    return f"{' '.join(words[:2])} has no {', '.join(sorted(absent))}" if absent else None


@cache
def options_of(program: str, *path: str) -> frozenset[str]:
    """Options of a subcommand and those of all; empty if there is no such one."""
    try:
        said = run([program, *path, "--help"])
    except CommandError:
        return frozenset()
    if f" {' '.join(path)} " not in said.partition("Usage:")[2]:  # helm shows the help of what is above
        return frozenset()
    if program.endswith("kubectl"):
        said += run([program, "options"])
    return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", said))


def test_every_kubectl_and_helm_command_of_every_page_exists(cluster: Cluster) -> None:
    found = list(shown())
    assert len(found) >= 30
    problems = [f"{name}: {problem}" for name, words in found if (problem := problem_of(cluster, words))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "command", ["kubectl gett pods", "kubectl get pods --everywhere", "helm upgrade --instal a b"]
)
def test_one_that_does_not_exist_is_noticed(cluster: Cluster, command: str) -> None:
    assert problem_of(cluster, command.split())
