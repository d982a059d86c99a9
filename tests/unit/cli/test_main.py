"""The command itself: it teaches, starts at once, and imports what trains only for what trains."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY
from harness.documents import job
from phitune_cli.arguments import HelpFormatter
from phitune_cli.main import COMMANDS, main
from phitune_trainer.errors import Unavailable

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


@pytest.mark.parametrize("command", [["estimate"], ["run"], ["data", "check"]])
def test_an_option_that_a_command_lacks_is_refused_with_the_usage_of_that_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "a.yaml", "--no-such"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: phitune {' '.join(command)} [-h]")
    assert said.endswith(f"phitune {' '.join(command)}: error: unrecognized arguments: --no-such\n")


def cpu_seconds(code: str) -> float:
    """CPU time of a Python process, which other load on the machine does not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_a_third_of_a_second() -> None:
    code = "import sys; sys.argv = ['phitune', '--help']\nfrom phitune_cli.main import main\nmain()"
    assert min(cpu_seconds(code) for _ in range(3)) < 0.3


def test_no_help_imports_what_is_slow() -> None:
    code = """
import contextlib, sys
from phitune_cli.main import main
for command in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    slow = {"torch", "transformers", "kubernetes", "kopf", "phitune_operator.decide"} & sys.modules.keys()
    assert not slow, (command, slow)
"""
    subprocess.run([sys.executable, "-c", code, *COMMANDS], check=True, stdout=subprocess.DEVNULL)


def test_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys\nfrom phitune_cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "render", str(REPOSITORY / "examples/digits.yaml")]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


HOSTILE = "a\x1b[2Jb"
"""Part of a name that clears the terminal where it is shown as it is."""

NAMING = [
    ["run", "NAME"],
    ["render", "NAME"],
    ["estimate", "NAME"],
    ["evaluate", "NAME"],
    ["predict", "--model", "NAME", "--prompt", "What is it?"],
    ["report", "NAME"],
    ["export", "NAME", "--to", "out"],
    ["init-model", "--size", "tiny", "--out", "file/NAME"],
    ["init-model", "--size", "tiny", "--out", "full NAME"],
    ["data", "check", "NAME"],
    ["data", "check", "empty NAME"],
    ["data", "digits", "--out", "file/NAME"],
    ["data", "digits", "--out", "full NAME"],
    ["data", "ucf101", "--out", "out", "--videos", "NAME"],
]
"""Every command with a name that it refuses: nothing is there, it is empty, or holds something else."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command is called in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / f"empty {HOSTILE}").touch()
    (tmp_path / f"full {HOSTILE}").mkdir()
    (tmp_path / f"full {HOSTILE}" / "thesis.txt").touch()
    return tmp_path


def test_every_command_that_takes_a_name_is_tried_with_a_hostile_one() -> None:
    assert {words[0] for words in NAMING} == COMMANDS.keys() - {"completion"}
    assert {words[1] for words in NAMING if words[0] == "data"} == set(MAKERS)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", NAMING, ids=" ".join)
def test_a_name_that_would_move_the_cursor_is_spelled_out(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("NAME", HOSTILE) for word in words]) == 2
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert "a\\x1b[2Jb" in said


@pytest.mark.parametrize(
    ("first", "again"), [(["init-model", "--size", "tiny", "--out"], True), (["data", "check"], False)]
)
def test_nor_does_the_name_of_what_is_there_or_is_made(
    first: list[str], again: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn = {"user": "How many?", "assistant": "two"}
    (folder / f"{HOSTILE}.jsonl").write_text(json.dumps({"conversations": [turn]}))
    command = [*first, HOSTILE if again else f"{HOSTILE}.jsonl"]
    assert main(command) == 0
    assert not again or main(command) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert said.out.count("a\\x1b[2Jb") == (3 if again else 1)


@pytest.mark.parametrize("command", ["run", "render", "estimate"])
def test_a_field_that_would_move_the_cursor_is_spelled_out(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = job({HOSTILE: f"\x9b2J{HOSTILE}"})
    (folder / "job.json").write_text(json.dumps(manifest))
    assert main([command, "job.json"]) == 2
    said = capsys.readouterr()
    assert not {"\x1b", "\x9b"} & set(said.out + said.err)
    assert "a\\x1b[2Jb" in said.err


def test_a_word_too_many_is_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "run", HOSTILE])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: a\\x1b[2Jb" in said
    assert "\x1b" not in said


def test_words_of_a_hub_are_spelled_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise Unavailable(f"the hub says {HOSTILE}")

    monkeypatch.setattr("phitune_cli.export_cmd.export", fail)
    assert main(["export", "run", "--push-to", "me/digits"]) == 1
    said = capsys.readouterr().err
    assert "the hub says a\\x1b[2Jb; what has been stored there stays" in said
    assert "\x1b" not in said
