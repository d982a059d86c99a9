"""`phitune run`: carries out a FineTuneJob on this machine, in the same folders as on a cluster's volume."""

import argparse
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.one_job import read_one_job
from phitune_cli.progress_bar import ProgressBar, can_draw
from phitune_cli.saying import note, say
from phitune_cli.this_machine import check_host_memory, detect_machine, localize
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE, INTERRUPTED, USER_ERROR
from phitune_trainer.host_memory import available_memory
from phitune_trainer.result import read_result
from phitune_trainer.run_layout import RunLayout

_NAMESPACE: Final = "local"
"""Stands for the namespace of jobs that name none."""

_EPILOG: Final = """\
examples:
  phitune run examples/digits.yaml             train; again: go on with it
  phitune run examples/digits.yaml --fresh     a new run beside the old ones
  phitune run job.yaml --workspace /mnt/big    models, data and runs lie there

The job is the same as on a cluster: examples/ has some, docs/reference/finetunejob.md every field.
Ctrl-C saves and ends; the same command goes on from there. A second Ctrl-C ends at once.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` and its options."""
    parser = subparsers.add_parser(
        "run",
        help="fine-tune here, without a cluster",
        description="Carry out a FineTuneJob on this machine: on its GPUs if it has any, else on its CPUs.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the FineTuneJob, YAML or JSON; - for standard input")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="holds models/, data/ and runs/ (default: .)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start a new run instead of going on with the last"
    )


def main(args: argparse.Namespace) -> int:
    """Run the job; 0: done, 2: what was given is wrong, 75: stopped and saved, others: a fault."""
    try:
        job = read_one_job(args.file)
        workspace = args.workspace.resolve()
        namespace = job.metadata.namespace or _NAMESPACE
        runs = workspace / "runs" / namespace / job.metadata.name
        local = localize(
            job,
            detect_machine(),
            namespace=namespace,
            uid=choose_run(runs, fresh=args.fresh),
            workspace=str(workspace),
        )
        check_host_memory(local.train, available_memory())
    except UserError as error:
        note(str(error))
        return USER_ERROR
    for remark in local.notes:
        say(f"note: {remark}")
    code = carry_out(local.train)
    say(closing(code, RunLayout(local.train.run_dir), _again(args)))
    return code


def _again(args: argparse.Namespace) -> str:
    """The command that goes on with the run, for a shell."""
    workspace = [] if args.workspace == Path() else ["--workspace", str(args.workspace)]
    return shlex.join(["phitune", "run", args.file, *workspace])


def choose_run(runs: Path, *, fresh: bool) -> str:
    """The number of the run to go on with, the newest one, or of a new one, as the name of its folder."""
    numbers = [int(path.name) for path in runs.iterdir() if path.name.isdecimal()] if runs.is_dir() else []
    newest = max(numbers, default=0)
    return f"{newest + 1 if fresh or not numbers else newest:04d}"


def carry_out(config: TrainConfig) -> int:
    """Prepare and train; the exit code. Lines and a progress bar go to stdout."""
    layout = RunLayout(config.run_dir)
    if layout.config.is_file():
        from phitune_trainer.same_run import keep_config

        try:
            keep_config(layout, config)
        except UserError as error:
            note(str(error))
            return USER_ERROR
    if layout.result.is_file():
        return DONE
    from phitune_trainer.endings import ending_of
    from phitune_trainer.launch import run_pod
    from phitune_trainer.prepare import prepare
    from phitune_trainer.reports import read_report

    try:
        prepare(config, say)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        code, reason, message = ending_of(error, Path(config.run.workspace))
        if reason == "Fault":
            raise
        note(message)
        return code
    with tempfile.TemporaryDirectory(prefix="phitune-") as folder, alone_on_this_machine():
        path = Path(folder, "train.yaml")
        path.write_text(config.to_yaml(), encoding="utf-8")
        reports = Path(folder)
        if not can_draw():
            return run_pod(path, reports, say)
        os.environ["PHITUNE_COLUMNS"] = str(shutil.get_terminal_size().columns)
        bar = ProgressBar(lambda: read_report(reports, 0).progress)
        with bar.drawing():
            return run_pod(path, reports, bar.show)


class alone_on_this_machine:  # noqa: N801 - reads as a context manager
    """Within it, the variables that a pod of a gang would have are absent, and progress stays here.

    What is set in the environment within it is forgotten with it.
    """

    def __enter__(self) -> None:
        self._before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("PET_")]:
            del os.environ[name]
        os.environ.setdefault("PHITUNE_PROGRESS_HOST", "127.0.0.1")

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


def closing(code: int, layout: RunLayout, again: str) -> str:
    """What a person wants to know at the end: the scores, where the outputs lie, what to do next.

    `again` is the command that goes on with the run.
    """
    if code == INTERRUPTED:
        return f"\nStopped. `{again}` goes on from the last checkpoint."
    if code != DONE:
        logs = f" The logs lie in {layout.incarnations}" if layout.incarnations.is_dir() else ""
        return f"\nNot done (exit code {code}).{logs}"
    result = read_result(layout)
    assert result is not None, f"{layout.path} has no result"
    lines = ["", f"Done: {result['steps']} steps, method {result['method']}."]
    lines += _score(result["evaluation"])
    lines += [f"  {kind:9} {path}" for kind, path in _places(result, layout).items()]
    lines += [f"A new run: {again} --fresh"]
    return "\n".join(lines)


def _score(scores: dict[str, Any] | None) -> list[str]:
    if scores is None:
        return []
    before = "not measured" if scores["baseline"] is None else f"{scores['baseline']:.4f}"
    after = f"{scores['value']:.4f}"
    if "low" in scores:  # a run that an earlier version finished has no interval
        after += f" ({scores['low']:.3f} to {scores['high']:.3f})"
    return [f"  {scores['metric']}: before {before}, after {after}, of {scores['samples']} samples"]


def _places(result: dict[str, Any], layout: RunLayout) -> dict[str, Path]:
    places = {kind: layout.volume / path for kind, path in result["artifacts"].items()}
    return {**places, "result": layout.result}
