"""The command itself: it teaches, starts at once, and imports what trains only for what trains."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY
from phitune_cli.arguments import HelpFormatter
from phitune_cli.main import COMMANDS, main

MAKERS = ("check", "digits", "ucf101")
"""Subcommands of `phitune data`."""


def test_help_names_every_command_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(COMMANDS) == 10
    for name in COMMANDS:
        assert f"    {name}" in text
        assert f"  phitune {name} " in text.partition("examples:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_how_it_is_called(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: phitune {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [[], *([name] for name in COMMANDS), *(["data", name] for name in MAKERS)]
)
def test_no_help_is_wider_than_80_columns(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert "example" in said


def test_an_example_too_long_for_the_terminal_goes_on_under_its_comment() -> None:
    formatter = HelpFormatter("phitune", width=44)
    formatter.add_text(
        "Two lines of\nprose are one.\n\nexamples:\n  phitune run a.yaml   fine-tune it right here"
    )
    assert formatter.format_help().splitlines() == [
        "Two lines of prose are one.",
        "",
        "examples:",
        "  phitune run a.yaml   fine-tune it right",
        "                       here",
    ]


def test_an_example_that_does_not_fit_can_be_copied_as_it_stands() -> None:
    formatter = HelpFormatter("phitune", width=44)
    example = '  phitune predict --model m --image a.png --prompt "What is the total?"'
    formatter.add_text(f"examples:\n{example}\n  phitune evaluate runs/a/b/c/0001 --out d  of its run")
    said = formatter.format_help().splitlines()
    assert said[-2:] == ["  phitune evaluate runs/a/b/c/0001 --out d", "      of its run"]
    assert max(map(len, said)) <= 44
    as_a_shell_reads_it = "\n".join(said[1:-2]).replace("\\\n", "")
    assert shlex.split(as_a_shell_reads_it) == shlex.split(example)


def test_a_misspelt_command_is_told_the_one_it_resembles(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rendr", "job.yaml"])
    assert ended.value.code == 2
    assert "no command 'rendr': did you mean render? `phitune --help` lists them" in capsys.readouterr().err


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"phitune {version('phitune')}\n"


def test_without_a_command_help_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: phitune")


@pytest.mark.parametrize(
    "arguments", [["rendr"], ["render"], ["--nonsense"], ["render", "-o", "xml", "a.yaml"]]
)
def test_wrong_use_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: phitune" in capsys.readouterr().err


def cpu_seconds(code: str) -> float:
    """CPU time of a Python process, which other load on the machine does not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_a_third_of_a_second() -> None:
    code = "import sys; sys.argv = ['phitune', '--help']\nfrom phitune_cli.main import main\nmain()"
    assert min(cpu_seconds(code) for _ in range(3)) < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_imports_what_is_slow(command: str) -> None:
    code = f"""
import contextlib, sys
from phitune_cli.main import main
with contextlib.suppress(SystemExit):
    main(["{command}", "--help"])
slow = {{"torch", "transformers", "kubernetes", "kopf", "phitune_operator.decide"}}
assert not slow & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys\nfrom phitune_cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "render", str(REPOSITORY / "examples/digits.yaml")]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
def test_a_name_that_would_move_the_cursor_is_spelled_out(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--to", str(tmp_path / "out")] if command == "export" else []
    assert main([command, str(tmp_path / "a\x1b[2Jb"), *extra]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "a\\x1b[2Jb" in said.err
