"""The page about the command line, held against the commands."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex

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
    blocks = "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL))
    lines = re.findall(r"(?:^|<\()((?:phitune|kubectl finetune) [^>)\n]+)", blocks, re.MULTILINE)
    return lines + re.findall(r"\| `((?:phitune|kubectl finetune) [^`]+)` \|", PAGE)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for node in tree_of(parser).walk() for option in node.options for name in option.names}


@pytest.mark.parametrize("example", examples())
def test_a_command_that_is_shown_is_one(example: str) -> None:
    prog = "phitune" if example.startswith("phitune ") else "kubectl finetune"
    words = shlex.split(example.removeprefix(prog))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            PARSERS[prog].parse_args(words)
    except SystemExit:
        pytest.fail(said.getvalue())


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


def test_the_codes_of_the_page_are_those_of_the_help() -> None:
    table = PAGE.partition("## Exit codes")[2].partition("## Rights")[0]
    codes = set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    for front in (program.FRONT, plugin.FRONT):
        told = set(re.findall(r"\b(\d+) [a-z]|\b(\d+) Ctrl-C", front.epilog.partition("exit codes:")[2]))
        assert {first or second for first, second in told} <= codes
