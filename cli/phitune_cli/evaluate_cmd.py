"""`phitune evaluate`: scores a base or a trained model on held-out samples, and compares two."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from phitune_cli.answering import Device, add_device_options, choose_device
from phitune_cli.arguments import HelpFormatter, add_form_option
from phitune_cli.held_out_options import add_held_out_options, held_out_config
from phitune_cli.progress_bar import ProgressBar
from phitune_cli.saying import note, say
from phitune_trainer.config import ConfigError, TrainConfig
from phitune_trainer.errors import UserError, writing_to
from phitune_trainer.exit_codes import DONE, INTERRUPTED, USER_ERROR

if TYPE_CHECKING:
    from phitune_trainer.engine.world import World
    from phitune_trainer.evaluate.prediction import Prediction
    from phitune_trainer.evaluate.scores import Comparison, Estimate, Scores
    from phitune_trainer.load_trained import Located
    from phitune_trainer.model import Phi3V

_SECONDS_BETWEEN_LINES: Final = 5.0
_SHOWN_CHANGES: Final = 10

_EPILOG: Final = """\
FOLDER and --against are each one of:
  a base model, or export/merged of a run         a model folder with safetensors files
  export/adapter of a run, or another's adapter   PEFT's layout; name its base with --base unless the run does
  incarnations/0001/checkpoints/step-00000200     a checkpoint of a run
  incarnations/0001/eval/step-00000200            an evaluation: its predictions, without asking again

examples:
  phitune evaluate runs/local/digits/0001/export/merged
  phitune evaluate runs/local/digits/0001/export/merged --against models/base --out compared
  phitune evaluate models/base --task jsonl --data receipts/eval.jsonl --max-samples 50
  phitune evaluate adapter --base models/base --task docvqa --data data/docvqa

With --out, an evaluation that was stopped (Ctrl-C, exit code 75) goes on where it was when the same command
is given again, unless the weights have changed.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `evaluate` and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model on held-out samples, compare two",
        description="Score a model on held-out samples here, with its 95% interval, or compare two.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what to score")
    parser.add_argument(
        "--against", type=Path, metavar="OTHER", help="what to compare it with, on the same samples"
    )
    parser.add_argument("--base", type=Path, metavar="MODEL", help="base model of adapters outside a run")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep predictions.jsonl and metrics.json there (default: no)"
    )
    add_held_out_options(parser)
    add_device_options(parser)
    add_form_option(parser)


@dataclass(frozen=True)
class Answered:
    """The predictions of one side."""

    folder: Path
    metric: str
    predictions: "list[Prediction]"


def main(args: argparse.Namespace) -> int:
    """Score, and compare; 0: done, 2: what was given is wrong, 75: stopped, and kept as far as it was."""
    from phitune_trainer.data import DataError
    from phitune_trainer.logs import quieten_libraries
    from phitune_trainer.model_config import ModelFilesError

    quieten_libraries()
    try:
        evaluate(args)
    except (UserError, DataError, ModelFilesError, ConfigError) as error:
        note(f"phitune evaluate: {error}")
        return USER_ERROR
    except KeyboardInterrupt:
        if args.out is None:
            raise
        note(f"stopped; what is answered is kept in {args.out}, and the same command goes on from there")
        return INTERRUPTED
    return DONE


def evaluate(args: argparse.Namespace) -> None:
    """Answer what is not answered yet, write what is to be kept, and print the scores."""
    from phitune_trainer.evaluate.scores import compare, score
    from phitune_trainer.strict_json import to_json

    if args.against == args.folder:
        raise UserError(f"--against {args.against}: is FOLDER itself; name another one")
    folders = [args.folder] if args.against is None else [args.against, args.folder]
    sides = {folder: None if is_evaluation(folder) else _locate(folder, args.base) for folder in folders}
    loaded = [located for located in reversed(sides.values()) if located is not None]
    runs = [located.run for located in loaded if located.run]
    crops = [located.asked_crops for located in loaded if located.asked_crops]
    answered = []
    for folder, located in sides.items():
        if located is None:
            answered.append(_read(folder))
            continue
        config = held_out_config(args, runs[0] if runs else None, trained_crops=crops[0] if crops else None)
        out = args.out if folder == args.folder or args.out is None else args.out / "against"
        answered.append(_answer(located, config, choose_device(args.precision), out))
    mine = answered[-1]
    if len(answered) == 1:
        scores = score(mine.metric, mine.predictions)
        if args.form == "json":
            print(to_json(scores.to_json(), indent=1))
        else:
            say(describe(scores))
        return
    other = answered[0]
    if other.metric != mine.metric:
        raise UserError(f"{other.folder} is scored by {other.metric}, {mine.folder} by {mine.metric}")
    try:
        comparison = compare(mine.metric, other.predictions, mine.predictions)
    except ValueError as error:
        raise UserError(
            f"{other.folder} ({len(other.predictions)} samples) and {mine.folder} "
            f"({len(mine.predictions)}): {error}"
        ) from error
    if args.form == "json":
        print(to_json(summary_of(comparison), indent=1))
    else:
        say(describe_comparison(comparison, other.folder, mine.folder))
    if args.out is not None:
        _write_comparison(args.out, comparison)


def is_evaluation(folder: Path) -> bool:
    """Whether the folder holds predictions and their metrics, so that nothing has to be asked."""
    return (folder / "metrics.json").is_file() and (folder / "predictions.jsonl").is_file()


def describe(scores: "Scores") -> str:
    """The main score, then the others, then what there is to say of them."""
    units = "" if scores.units == scores.samples else f" ({scores.units:,} independent ones)"
    lines = [f"{_row(scores.metric, scores.main)}  of {scores.samples:,} samples{units}"]
    lines += [_row(name, found) for name, found in scores.details.items()]
    return "\n".join([*lines, *scores.notes])


def describe_comparison(comparison: "Comparison", before: Path, after: Path) -> str:
    """Both scores, how far apart they are, and the first samples on which the two differ."""
    lines = [f"before: {before}", f"after:  {after}", f"{'':14}  {'before':24}  {'after':24}  difference"]
    olds, news = ({side.metric: side.main, **side.details} for side in (comparison.before, comparison.after))
    for name, found in comparison.differences.items():
        both = f"{_number(olds[name]):24}  {_number(news[name]):24}"
        lines.append(f"{name:14}  {both}  {found.value:+.4f} ({found.low:+.3f} to {found.high:+.3f})")
    changed = comparison.changed
    better = sum(new.score > old.score for old, new in changed)
    lines.append(
        f"changed: {len(changed):,} of {comparison.after.samples:,} samples, {better:,} better, "
        f"{len(changed) - better:,} worse"
    )
    for old, new in changed[:_SHOWN_CHANGES]:
        mark = "+" if new.score > old.score else "-"
        lines.append(f"  {mark} {new.sample}: {old.prediction!r} -> {new.prediction!r}, {new.answers[0]!r}")
    if len(changed) > _SHOWN_CHANGES:
        lines.append(f"  and {len(changed) - _SHOWN_CHANGES:,} more; --out keeps them all in changed.jsonl")
    return "\n".join([*lines, *comparison.after.notes])


def _row(name: str, found: "Estimate") -> str:
    return f"{name:14}  {_number(found)}"


def _number(found: "Estimate") -> str:
    return f"{found.value:.4f} ({found.low:.3f} to {found.high:.3f})"


def _locate(folder: Path, base: Path | None) -> "Located":
    from phitune_trainer.load_trained import kind_of, locate

    return locate(folder, None if kind_of(folder) == "model" else base)


def _read(folder: Path) -> Answered:
    from phitune_trainer.evaluate.kept import METRICS, PREDICTIONS, read_metrics, read_predictions
    from phitune_trainer.evaluate.scores import PER_SAMPLE

    metric = str(read_metrics(folder).get("metric"))
    if metric not in PER_SAMPLE:
        raise UserError(
            f"{folder / METRICS}: damaged: its metric is {metric}, not one of {', '.join(PER_SAMPLE)}; "
            "score the model again"
        )
    try:
        predictions = read_predictions(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / PREDICTIONS}: damaged ({error}); score the model again") from error
    if not predictions:
        raise UserError(f"{folder / PREDICTIONS}: is empty; score the model again")
    return Answered(folder, metric, predictions)


def _answer(located: "Located", config: TrainConfig, device: Device, out: Path | None) -> Answered:
    """Ask the model; its answers, its metrics and predictions in `out` if there is one."""
    from phitune_trainer.data import Processor
    from phitune_trainer.data.open import open_questions
    from phitune_trainer.engine.world import alone
    from phitune_trainer.evaluate.evaluation import hold_out, predict, write_evaluation
    from phitune_trainer.evaluate.scores import score

    processor = Processor.load(located.model_dir, config.training.num_crops)
    questions = open_questions(config, processor)
    if questions is None:
        raise UserError(f"{located.folder}: its run holds no samples out; name some with --data")
    held_out = hold_out(config, questions, processor)
    model = device.load(located)
    with _kept_in(out) as folder, alone(device.torch) as world, _progress() as on_progress:
        asked = held_out.asked(_model_digest(located, model, world) if out else "not kept")
        predictions = predict(
            model, held_out, world, folder, asked, should_stop=lambda: False, on_progress=on_progress
        )
        assert predictions is not None, "nobody asked to stop"
        if out is not None:
            scores = score(held_out.metric, predictions)
            write_evaluation(folder, predictions, scores, asked, step=None, baseline=None)
    return Answered(located.folder, held_out.metric, predictions)


def _model_digest(located: "Located", model: "Phi3V", world: "World") -> str:
    """Tells this model from every other one: by its weights, and by settings that are in no weight."""
    from phitune_trainer.evaluate.weights import weights_digest

    return f"{weights_digest(model.state_dict(), world)} {located.settings_digest()}"


@contextmanager
def _kept_in(out: Path | None) -> Iterator[Path]:
    """The folder for answers: the user's, or one that is gone afterwards."""
    if out is not None:
        yield out
        return
    folder = tempfile.mkdtemp(prefix="phitune-evaluate-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What to call with the samples done and in all: a bar on a terminal, else a line every few seconds."""
    started = said = time.monotonic()
    before: int | None = None
    state: dict[str, object] | None = None

    def on_progress(done: int, total: int) -> None:
        nonlocal before, said, state
        if before is None:
            before = done
            if done:
                note(f"{done:,} of {total:,} samples were answered before; going on from there")
        now = time.monotonic()
        eta = (now - started) / (done - before) * (total - done) if done > before else None
        state = {
            "state": "scoring",
            "step": done,
            "totalSteps": total,
            "percent": 100 * done / total,
            "loss": None,
            "imagesPerSecond": None,
            "etaSeconds": None if eta is None else round(eta),
        }
        if not sys.stdout.isatty() and eta and now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            note(f"scoring {done:,}/{total:,} samples, {eta:.0f} s left")

    if not sys.stdout.isatty():
        yield on_progress
        return
    with ProgressBar(lambda: state).drawing():
        yield on_progress


def summary_of(comparison: "Comparison") -> dict[str, Any]:
    """Both scores and how far apart they are, as comparison.json says it."""
    return {
        "version": 1,
        "before": comparison.before.to_json(),
        "after": comparison.after.to_json(),
        "differences": {
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in comparison.differences.items()
        },
        "changed": len(comparison.changed),
    }


def _write_comparison(out: Path, comparison: "Comparison") -> None:
    """comparison.json, and each sample on which the two differ as a line of changed.jsonl."""
    from phitune_trainer.run_layout import write_atomically
    from phitune_trainer.strict_json import to_json

    rows = [
        {
            "sample": new.sample,
            "answers": list(new.answers),
            "before": {"prediction": old.prediction, "score": old.score},
            "after": {"prediction": new.prediction, "score": new.score},
        }
        for old, new in comparison.changed
    ]
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(out / "changed.jsonl", lines)
    write_atomically(out / "comparison.json", to_json(summary_of(comparison), indent=1) + "\n")
