"""The page about the command line and the examples of the help, held against the commands."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator

import pytest

from harness.cluster import REPOSITORY
from phitune_cli import main as program
from phitune_cli.commands import parser_of
from phitune_cli.completion import tree_of
from phitune_cli.finetune import main as plugin

PAGE = (REPOSITORY / "docs/command-line.md").read_text(encoding="utf-8")
PARSERS = {
    "phitune": parser_of(program.FRONT, program.COMMANDS)[0],
    "kubectl finetune": parser_of(plugin.FRONT, plugin.COMMANDS)[0],
}


def examples() -> list[str]:
    """Every command line on the page: in tables, and as a line of its own in a block."""
    blocks = re.sub(r" *\\\n *", " ", "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)))
    lines = re.findall(r"(?:^|<\()((?:phitune|kubectl finetune) [^>)\n]+)", blocks, re.MULTILINE)
    return lines + re.findall(r"\| `((?:phitune|kubectl finetune) [^`]+)` \|", PAGE)


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The help of a command and of all below it."""
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from helps(child)


def shown_by(text: str) -> list[str]:
    """Every command line of a help, without its comment and what the shell does with it."""
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    found = [re.search(r"(?:^  |\| |<\()((?:phitune|kubectl finetune) .*)", line) for line in lines]
    return [re.split(r"  | [>|] |\)", one[1])[0] for one in found if one]


def refusal(example: str) -> str:
    """What the real parser says against a command line; nothing where it takes it, or shows its help."""
    prog = "phitune" if example.startswith("phitune ") else "kubectl finetune"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            PARSERS[prog].parse_args(shlex.split(example.removeprefix(prog)))
    except SystemExit as ended:
        return said.getvalue() if ended.code else ""
    return ""


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for node in tree_of(parser).walk() for option in node.options for name in option.names}


@pytest.mark.parametrize("example", examples())
def test_a_command_that_is_shown_is_one(example: str) -> None:
    assert refusal(example) == ""


@pytest.mark.parametrize("prog", PARSERS)
def test_a_command_that_a_help_shows_is_one(prog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = [shown_by(text) for text in helps(PARSERS[prog])]
    assert len(shown) == {"phitune": 14, "kubectl finetune": 11}[prog]
    assert all(shown), "every help has an example"
    assert [said for examples in shown for example in examples if (said := refusal(example))] == []


@pytest.mark.parametrize("prog", PARSERS)
def test_every_command_is_shown_with_an_example(prog: str) -> None:
    leaves = [node for node in tree_of(PARSERS[prog]).walk() if not node.children]
    assert len(leaves) == {"phitune": 12, "kubectl finetune": 10}[prog]
    shown = examples()
    for node in leaves:
        command = " ".join([prog, *node.path])
        assert [one for one in shown if f"{one} ".startswith(f"{command} ")], command


def test_every_option_that_is_named_exists() -> None:
    known = options_of(PARSERS["phitune"]) | options_of(PARSERS["kubectl finetune"])
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", PAGE))
    assert len(named) > 8
    assert named <= known


@pytest.mark.parametrize("prog", PARSERS)
def test_the_codes_of_the_page_are_those_of_the_help(prog: str) -> None:
    table = PAGE.partition("## Exit codes")[2].partition("## Rights")[0]
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", table, re.MULTILINE)
    is_of = {"phitune": "both|`render ", "kubectl finetune": "both|`kubectl finetune`"}[prog]
    codes = {code for code, of in rows if re.search(is_of, of)}
    told = {
        code for text in helps(PARSERS[prog]) for code in re.findall(r"\d+", text.partition("exit codes:")[2])
    }
    # "anything else a fault" stands for 1, and of 141 only the shell hears: nobody reads the output any more.
    assert told | {"1", "141"} == codes
