"""No page shows a command that does not exist; those that need no cluster are run."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from harness.cluster import REPOSITORY
from harness.documented import PAGES, commands_in_blocks, commands_in_text, page
from localkube.cli import parser as cluster_parser
from phitune_cli import main as program
from phitune_cli.commands import parser_of
from phitune_cli.completion import tree_of
from phitune_cli.finetune import main as plugin

MAKEFILE = page("Makefile")
EXTRAS = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
VALUES = yaml.safe_load(page("charts/phitune/values.yaml"))


class Unknown(Exception):
    """What a command names and nothing has."""


def problem_of(words: Sequence[str], *, is_whole: bool) -> str | None:
    """What a command names that does not exist; None if all of it does. `is_whole`: it could be typed so."""
    try:
        _check(list(words), is_whole)
    except Unknown as unknown:
        return str(unknown)
    return None


def _check(words: list[str], is_whole: bool) -> None:
    match words:
        case ["phitune", *rest]:
            _parse(parser_of(program.FRONT, program.COMMANDS)[0], rest, is_whole)
        case ["kubectl", "finetune", *rest]:
            _parse(parser_of(plugin.FRONT, plugin.COMMANDS)[0], rest, is_whole)
        case ["python" | "python3", *rest]:
            _is_run_by_python(rest, is_whole)
        case ["docker", "build", "-f", file, *_]:
            _exists(file)
        case ["make", *rest]:
            for word in rest:
                _is_made(word)
        case ["pip", "install", what, *_] if what.startswith("."):
            if what not in {f".[{extra}]" for extra in EXTRAS}:
                raise Unknown(f"no extra in {what}")
        case ["helm", "upgrade" | "install", *rest]:
            _is_a_chart(rest)


def _is_a_chart(words: list[str]) -> None:
    """A folder here, or one packed somewhere else, with values that there are."""
    chart = next(word for word in words if "/" in word or word.endswith(".tgz"))
    if not chart.endswith(".tgz"):
        _exists(chart)
    for option, value in itertools.pairwise(words):
        if option == "--set":
            _has_value(value.partition("=")[0])


def _is_run_by_python(words: list[str], is_whole: bool) -> None:
    match words:
        case ["-m", module, *_]:
            if importlib.util.find_spec(module) is None:
                raise Unknown(f"no module {module}")
        case ["hack/cluster", *rest]:
            _parse(cluster_parser(), rest, is_whole)
        case [file, *_]:
            _exists(file)


def _is_made(word: str) -> None:
    """A target, or a variable that the Makefile reads; `...` stands for more of them."""
    if word == "...":
        return
    name, is_variable, _ = word.partition("=")
    is_there = rf"\$\((origin )?{name}\)" if is_variable else rf"^{name}:"
    if not re.search(is_there, MAKEFILE, re.MULTILINE):
        raise Unknown(f"make has no {name}")


def _parse(parser: argparse.ArgumentParser, words: list[str], is_whole: bool) -> None:
    if is_whole:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parser.parse_args(words)
        except SystemExit as error:
            raise Unknown(said.getvalue()) from error
        return
    nodes = {node.path: node for node in tree_of(parser).walk()}
    path: tuple[str, ...] = ()
    for word in words:
        path = (*path, word) if (*path, word) in nodes else path
    if words and words[0][0] != "-" and words[0].islower() and not path:
        raise Unknown(f"{parser.prog} has no {words[0]}")
    known = {name for option in nodes[path].options for name in option.names}
    for word in words:
        if word.startswith("-") and word not in known:
            raise Unknown(f"{parser.prog} {' '.join(path)} has no {word}")


def _exists(path: str) -> None:
    if not (REPOSITORY / path).exists():
        raise Unknown(f"no {path}")


def _has_value(path: str) -> None:
    values = VALUES
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            raise Unknown(f"the chart has no value {path}")
        values = values[name]


def shown() -> Iterator[tuple[str, list[str], bool]]:
    for name in PAGES:
        text = page(name)
        yield from ((name, words, True) for words in commands_in_blocks(text))
        yield from ((name, words, False) for words in commands_in_text(text))


def test_every_command_of_every_page_exists() -> None:
    found = list(shown())
    assert len(PAGES) > 40
    assert len(found) > 150
    problems = [
        f"{name}: {' '.join(words)}: {problem}"
        for name, words, is_whole in found
        if (problem := problem_of(words, is_whole=is_whole))
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("command", "is_whole"),
    [
        ("make dmeo", False),
        ("make images REGISTRIES=a", True),
        ("phitune rnu job.yaml", True),
        ("phitune estimate job.yaml --gpus many", True),
        ("phitune export --two", False),
        ("kubectl finetune uplaod", False),
        ("kubectl finetune logs receipts --follow-me", True),
        ("python hack/gone.py", True),
        ("python3 hack/cluster upp", True),
        ("pip install .[train]", True),
        ("docker build -f docker/gone.Dockerfile .", True),
        ("helm upgrade phitune charts/phitune --set trainer.imag=a", True),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str, is_whole: bool) -> None:
    assert problem_of(command.split(), is_whole=is_whole)


RUN_BY = {
    "make demo": ("tests/e2e/test_demo.py", '"hack/demo"'),
    "make cluster-down": ("tests/harness/provision.py", 'hack_cluster("down"'),
    "python3 hack/cluster env": ("tests/unit/cluster/test_cli.py", "export KUBECONFIG="),
    "phitune data": ("tests/e2e/test_kubectl_finetune.py", '"data digits", "data check"'),
    "kubectl finetune": ("tests/e2e/test_kubectl_finetune.py", 'page("README.md")'),
    "phitune predict": ("tests/e2e/test_kubectl_finetune.py", 'shown["predict"]'),
    "kubectl delete": ("tests/harness/lab.py", '"delete", "finetunejob"'),
    "helm uninstall": ("tests/integration/test_chart_installed.py", '"uninstall"'),
    "python3 -m venv": ("tests/unit/docs/test_installed.py", '"-m", "venv"'),
    "pip install .[trainer]": ("tests/unit/docs/test_installed.py", '"pip", "install"'),
    "phitune run": ("tests/unit/docs/test_installed.py", 'phitune, "run"'),
}
"""What begins the README's commands, and the file that runs them, or what they call, with what stands there.

That is all that is looked for: what of a command is run, and what else is given to it, that file says.
"""
RUNS_THE_TESTS = "make test"


def test_it_is_known_where_every_command_of_the_readme_is_run() -> None:
    commands = [" ".join(words) for words in commands_in_blocks(page("README.md"))]
    beginnings = [next((one for one in RUN_BY if command.startswith(one)), command) for command in commands]
    assert set(beginnings) == {*RUN_BY, RUNS_THE_TESTS}
    for file, text in RUN_BY.values():
        assert text in page(file), f"{file} has no {text}"


def test_the_quickstart_checks_its_job_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page("docs/quickstart.md")
    (job,) = [
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "name: receipts" in block
    ]
    (tmp_path / "receipts.yaml").write_text(job, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [words for words in commands_in_text(text) if words[-1] == "receipts.yaml" or "--gpu" in words]
    assert [words[1] for words in commands if words[0] == "phitune"] == ["render", "estimate"]
    for words in commands:
        assert program.main(words[1:]) == 0
    said = capsys.readouterr().out
    assert "kind: PyTorchJob" in said
    assert "A100-80GB: fits" in said


@pytest.mark.parametrize(("guide", "least"), [("docs/how-it-works.md", 30), ("docs/security.md", 10)])
def test_files_that_a_guide_names_are_there(guide: str, least: int) -> None:
    named = re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`", page(guide))
    there = [
        "/" + path.as_posix()
        for top in ("operator", "trainer", "cli", "tests")
        for path in (REPOSITORY / top).rglob("*.py")
    ]
    assert len(named) >= least
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []
