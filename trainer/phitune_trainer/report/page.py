"""The page itself: the record of a run becomes HTML.

Every text may come from a user, a model or a file. The template escapes whatever it is given; before that,
control characters are spelled out. And the page's own policy forbids it scripts and any address.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from phitune_trainer.durations import duration
from phitune_trainer.plain_text import inert
from phitune_trainer.report.cards import card, pictures_of
from phitune_trainer.report.curves import HEIGHT, WIDTH, Chart, Point, chart, number, smooth
from phitune_trainer.report.predictions import best_and_worst
from phitune_trainer.report.run_record import Row, RunRecord, is_number
from phitune_trainer.report.thumbnail import Thumbnail
from phitune_trainer.score_words import first_weights

_TABLE_ROWS: Final = 12
_GIB: Final = 2**30
_TIME: Final = "%Y-%m-%d %H:%M UTC"
_FOLDER: Final = Path(__file__).parent

Cells = Sequence[str]


def pictures_shown(run: RunRecord) -> list[str]:
    """Names of the pictures that the page shows, the worst answers' first."""
    best, worst = best_and_worst(run.after, run.before)
    return [name for shown in [*worst, *best] for name in pictures_of(shown)]


def render(run: RunRecord, thumbnails: Mapping[str, Thumbnail]) -> str:
    """The page. `thumbnails`: the pictures of `pictures_shown`."""
    best, worst = best_and_worst(run.after, run.before)
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        width=WIDTH,
        height=HEIGHT,
        title=_name(run),
        about=_about(run),
        is_complete=run.result is not None,
        state=_state(run),
        score=_score(run),
        facts=_facts(run),
        charts=_charts(run),
        evaluations=_evaluations(run),
        first_weights=first_weights(run.config.get("resumeFrom")),
        steps=_steps(run),
        best=[card(shown, thumbnails, volume=_volume(run)) for shown in best],
        worst=[card(shown, thumbnails, volume=_volume(run)) for shown in worst],
        num_answers=len(run.after),
        starts=_starts(run),
        places=_places(run),
        summary=run.summary,
        config_text=run.config_text,
        notes=run.notes,
    )


def _inert(value: object) -> object:
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _name(run: RunRecord) -> str:
    named = run.config.get("run")
    return str(named["name"]) if isinstance(named, Mapping) and "name" in named else run.path.name


def _volume(run: RunRecord) -> str:
    """Where the volume was while the run trained: what paths in its files begin with."""
    named = run.config.get("run")
    return str(named.get("workspace", "")) if isinstance(named, Mapping) else ""


def _about(run: RunRecord) -> str:
    named = run.config.get("run")
    namespace = named.get("namespace", "") if isinstance(named, Mapping) else ""
    words = [f"method {run.config.get('method')}", f"task {run.config.get('task')}"]
    return " · ".join([f"{namespace} / {_name(run)} / {run.path.name}", *words])


def _state(run: RunRecord) -> str:
    if run.result is not None:
        finished = _words_of(run.result.get("finishedAt"))
        return f"Complete: {run.result.get('steps')} steps, finished {finished}"
    done = run.rows[-1]["step"] if run.rows else 0
    of = "" if run.total_steps is None else f" of {run.total_steps:,}"
    heard = _points(run.rows, "time")
    since = f", last heard of {_moment(heard[-1][1])}" if heard else ""
    return f"Not complete: step {done:,}{of}{since}"


def _score(run: RunRecord) -> dict[str, Any] | None:
    """The last score, and that of the weights it began with if it is known."""
    if not run.evaluations:
        return None
    last = run.evaluations[-1]
    first = run.evaluations[0] if run.evaluations[0]["step"] == 0 and len(run.evaluations) > 1 else None
    before = first["value"] if first is not None else last.get("baseline")
    is_base = last["step"] == 0
    return {
        "metric": last["metric"],
        "samples": last.get("samples"),
        "step": last["step"],
        "after": _estimate(last),
        "before": _estimate(first) if first is not None else None,
        "before_value": None if before is None or is_base else f"{before:.4f}",
        "gain": None if before is None or is_base else f"{last['value'] - before:+.4f}",
    }


def _estimate(found: Row) -> dict[str, Any]:
    """A score and its interval, also in percent of the way from 0 to 1."""
    low, high = (min(1.0, max(0.0, float(found[name]))) for name in ("low", "high"))
    return {
        "value": f"{found['value']:.4f}",
        "interval": f"{found['low']:.3f} to {found['high']:.3f}",
        "left": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "at": round(100 * min(1.0, max(0.0, float(found["value"]))), 2),
    }


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """What a reader asks first, each with its name."""
    done = run.rows[-1]["step"] if run.rows else 0
    facts = [("Steps", f"{done:,}" + ("" if run.total_steps is None else f" of {run.total_steps:,}"))]
    if losses := _points(run.rows, "loss"):
        last = losses[-max(1, len(losses) // 20) :]
        facts.append((f"Loss, mean of last {len(last):,}", number(mean(value for _, value in last))))
    if seconds := _points(run.rows, "seconds"):
        facts.append(("Time in steps", duration(sum(value for _, value in seconds))))
    for name, label in (("imagesPerSecond", "images/s"), ("tokensPerSecond", "tokens/s")):
        if speeds := _points(run.rows, name):
            facts.append((f"{label}, median", f"{median(value for _, value in speeds):,.0f}"))
    if used := _points(run.rows, "mfu"):
        facts.append(("MFU, median", f"{median(value for _, value in used):.1%}"))
    if memory := _points(run.rows, "memoryBytes"):
        facts.append(("Memory of rank 0, peak", f"{max(value for _, value in memory) / _GIB:.1f} GiB"))
    again = f", {run.num_left_behind:,} steps trained again" if run.num_left_behind else ""
    facts.append(("Starts", f"{len(run.starts)}{again}"))
    return facts


def _charts(run: RunRecord) -> list[Chart]:
    restarts = [segment.after for segment in run.line[1:]]

    def of(name: str, factor: float = 1.0) -> list[Point]:
        return [(step, factor * value) for step, value in _points(run.rows, name)]

    scores = [(one["step"], float(one["value"])) for one in run.evaluations]
    found = [
        chart("Loss", of("loss"), unit="nats a token", restarts=restarts),
        chart("Learning rate", of("learningRate"), from_zero=True, smoothed=False, restarts=restarts),
        chart("Gradient norm", of("gradNorm"), restarts=restarts),
        chart("Speed", of("imagesPerSecond"), unit="images/s", from_zero=True, restarts=restarts),
        chart("Speed", of("tokensPerSecond"), unit="tokens/s", from_zero=True, restarts=restarts),
        chart("MFU", of("mfu", 100), unit="%", from_zero=True, restarts=restarts),
        chart(
            "Memory of rank 0",
            of("memoryBytes", 1 / _GIB),
            unit="GiB, the most held so far",
            from_zero=True,
            smoothed=False,
            restarts=restarts,
        ),
    ]
    if len(scores) > 1:
        metric = run.evaluations[-1]["metric"]
        found.append(chart("Score", scores, unit=metric, from_zero=True, smoothed=False, restarts=restarts))
    return [one for one in found if one is not None]


def _evaluations(run: RunRecord) -> list[Cells]:
    return [
        (f"{one['step']:,}", name, f"{found['value']:.4f}", f"{found['low']:.3f} to {found['high']:.3f}")
        for one in run.evaluations
        for name, found in {one["metric"]: one, **one.get("details", {})}.items()
    ]


def _steps(run: RunRecord) -> list[Cells]:
    """Some steps in numbers, evenly apart, the first and the last among them."""
    last = len(run.rows) - 1
    count = min(_TABLE_ROWS, len(run.rows))
    places = [round(index * last / max(1, count - 1)) for index in range(count)]
    average = dict(smooth(_points(run.rows, "loss")))
    return [
        (
            f"{row['step']:,}",
            _cell(row.get("loss"), ".4f"),
            _cell(average.get(row["step"]), ".4f"),
            _cell(row.get("learningRate"), ".2e"),
            _cell(row.get("gradNorm"), ".3f"),
            _cell(row.get("imagesPerSecond"), ",.1f"),
        )
        for row in (run.rows[place] for place in places)
    ]


def _starts(run: RunRecord) -> list[Cells]:
    """Every start, and which of its steps count."""
    segments = {segment.start: segment for segment in run.line}
    done = run.rows[-1]["step"] if run.rows else 0
    found: list[Cells] = []
    for start in run.starts.values():
        steps = "none"
        if (segment := segments.get(start.number)) is not None:
            last = done if segment.last is None else segment.last
            steps = f"{segment.after + 1:,} to {last:,}" if last > segment.after else "none"
        origin = start.origin
        since = "the beginning" if origin is None else f"step {origin[1]:,} of start {origin[0]}"
        began = _words_of(start.started_at)
        found.append((str(start.number), began, start.host, str(start.attempt), since, steps))
    return found


def _places(run: RunRecord) -> list[tuple[str, str]]:
    """What the run left on the volume."""
    artifacts = run.result.get("artifacts") if run.result is not None else None
    kinds = artifacts if isinstance(artifacts, Mapping) else {}
    exports = [(str(kind), str(place)) for kind, place in kinds.items() if kind != "report"]
    return exports + [
        (f"checkpoint of step {step:,}", str(folder.relative_to(run.volume)))
        for step, folder in run.checkpoints
    ]


def _points(rows: Sequence[Row], name: str) -> list[Point]:
    """The steps for which a number is known."""
    return [(row["step"], float(value)) for row in rows if is_number(value := row.get(name))]


def _cell(value: object, form: str) -> str:
    return format(float(value), form) if is_number(value) else "-"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)
    except (OverflowError, ValueError, OSError):  # by its size, it is the one or the other
        return f"{number(seconds)} s after 1970"


def _words_of(timestamp: object) -> str:
    """A time of the files, as RFC 3339 has it, for people; anything else as it is."""
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone(UTC).strftime(_TIME)
    except ValueError:
        return str(timestamp)
