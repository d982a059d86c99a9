"""Completion, asked as the shells ask it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phitune_cli import completion
from phitune_cli.commands import parser_of
from phitune_cli.finetune.main import COMMANDS as PLUGIN_COMMANDS
from phitune_cli.finetune.main import main as plugin
from phitune_cli.main import COMMANDS, FRONT, main

ASK = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_phitune
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What bash sources."""
    file = tmp_path_factory.mktemp("completion") / "phitune.bash"
    file.write_text(completion.bash("phitune", completion.tree_of(parser_of(FRONT, COMMANDS)[0])))
    return file


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["e"], ["estimate", "evaluate", "export"]),
        (["data", ""], ["check", "digits", "ucf101"]),
        (["data", "check", "--m"], ["--model", "--max-length"]),
        (["render", "-o", ""], ["yaml", "json"]),
        (["init-model", "--size", "t"], ["tiny"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--v"], ["--version"]),
        pytest.param(["run", ""], [""], id="a file: the shell's own completion"),
        pytest.param(["predict", "--model", "data"], [""], id="a value that is like a command"),
    ],
)
def test_bash_is_offered_what_the_command_takes(words: list[str], offered: list[str], script: Path) -> None:
    asked = ["bash", "-c", ASK, "bash", str(script), "phitune", *words]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert sorted(said.splitlines()) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_the_script_of_every_shell(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(f"{name}" in script for name in COMMANDS)
    assert "max-new-tokens" in script
    assert "num-crops" in script


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    first = "autoload -Uz compinit && compinit -u; " if shell == "zsh" else ""
    done = subprocess.run(
        [program, "-c", f"{first}source {tmp_path / 'script'}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["su"], ["submit", "suspend", ":4"]),
        (["submit", "a", "--task", "d"], ["docvqa", ":4"]),
        (["logs", "--fr"], ["--from-volume", ":4"]),
        pytest.param(["upload", ""], [":0"], id="a folder: the shell's own completion"),
    ],
)
def test_kubectl_is_offered_what_the_plugin_takes(
    words: list[str], offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plugin(["completion"]) == 0
    program = tmp_path / "kubectl_complete-finetune"
    program.write_text(capsys.readouterr().out)
    program.chmod(0o755)
    said = subprocess.run([program, *words], check=True, capture_output=True, text=True).stdout
    assert said.split() == offered
    assert len(PLUGIN_COMMANDS) == 10


def test_completion_starts_without_what_trains() -> None:
    code = """
import sys
from phitune_cli.main import main
assert main(["completion", "bash"]) == 0
assert not {"torch", "transformers", "kubernetes", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
