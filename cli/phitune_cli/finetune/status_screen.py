"""A job on one screen of 80 columns, from the object as the cluster has it. Pure: time is an argument."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from phitune_operator.clock import from_text
from phitune_operator.kinds import Object
from phitune_operator.status import condition_of, duration_text
from phitune_trainer.plain_text import inert

COLUMNS: Final = 80
_LABEL: Final = 12
_BAR: Final = 40
_LAST_LINES: Final = 5
_SHORTEST_NAME: Final = 16
"""Characters of a job's name that a table shows, whatever else it has to show."""
_OVER: Final = ("Succeeded", "Failed")


def is_over(job: Object) -> bool:
    """Whether nothing will change any more."""
    return _status(job).get("phase") in _OVER


def screen(job: Object, now: datetime) -> str:
    """Everything that a person asks for, in lines of at most 80 characters, without colours."""
    lines = [*_heading(job, now), "", *_progress(job, now), *_trouble(job), *_results(job)]
    return "\n".join(cut(inert(line)) for line in lines).rstrip()


def table(jobs: Sequence[Object], now: datetime) -> str:
    """A line a job, the newest first."""
    rows = [("JOB", "PHASE", "PROGRESS", "ETA", "LOSS", "SCORE", "AGE")]
    for job in sorted(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True):
        shown: Mapping[str, Any] = _status(job).get("summary") or {}
        texts = [str(shown.get(name, "")) for name in ("progress", "eta", "loss", "score")]
        rows.append((job["metadata"]["name"], _phase(job), *texts, _age(job, now)))
    return "\n".join(cut(inert(line)) for line in in_columns(rows))


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of text under each other, two blanks between; names, in the first column, as long as is room."""
    others = [max(len(row[column]) for row in rows) for column in range(1, len(rows[0]))]
    room = max(_SHORTEST_NAME, COLUMNS - sum(others) - 2 * len(others))
    rows = [(_shortened(name, room), *rest) for name, *rest in rows]
    widths = [max(len(name) for name, *_ in rows), *others]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _shortened(name: str, room: int) -> str:
    """Names of a kind differ at their ends: both are kept."""
    if len(name) <= room:
        return name
    end = (room - 3) // 2
    return f"{name[: room - 3 - end]}...{name[-end:]}"


def _heading(job: Object, now: datetime) -> Iterator[str]:
    metadata, spec, status = job["metadata"], job["spec"], _status(job)
    attempt = status.get("attempt") or 0
    what = f"{_phase(job)}, attempt {attempt}" if attempt and not is_over(job) else _phase(job)
    name = f"{metadata['name']} in {metadata['namespace']}"
    yield f"{name}  {what:>{max(0, COLUMNS - len(name) - 2)}}"
    gpus = (status.get("summary") or {}).get("gpus", "")
    placement = status.get("placement") or {}
    product = placement.get("product", "")
    if gpus.endswith(product):
        product = ""  # on CPU one word says both
    how = [spec["task"], spec["method"], gpus, product, placement.get("precision")]
    left = ", ".join(str(part) for part in how if part)
    age = f"age {_age(job, now)}"
    yield f"{left}  {age:>{max(0, COLUMNS - len(left) - 2)}}"


def _progress(job: Object, now: datetime) -> Iterator[str]:
    status = _status(job)
    progress: Mapping[str, Any] = status.get("progress") or {}
    shown: Mapping[str, Any] = status.get("summary") or {}
    if "progress" in shown:
        filled = round(_BAR * min(100.0, max(0.0, float(progress.get("percent", 0)))) / 100)
        yield _line("step", f"[{'#' * filled}{'.' * (_BAR - filled)}]  {shown['progress']}")
    if progress.get("state") and not is_over(job):
        left = f", {shown['eta']} left" if "eta" in shown else ""
        heard = from_text(progress.get("updatedAt"))
        ago = f", heard {duration_text(now - heard)} ago" if heard is not None else ""
        yield _line("state", f"{progress['state']}{left}{ago}")
    if "loss" in shown:
        rate = progress.get("learningRate")
        yield _line("loss", shown["loss"] + (f", learning rate {rate:.2e}" if rate is not None else ""))
    speeds = [f"{shown['imagesPerSecond']} images/s"] if "imagesPerSecond" in shown else []
    if progress.get("tokensPerSecond") is not None:
        speeds.append(f"{progress['tokensPerSecond']:,.0f} tokens/s")
    speeds += [f"MFU {shown['mfu']}"] if "mfu" in shown else []
    if speeds:
        yield _line("speed", ", ".join(speeds))
    score: Mapping[str, Any] = status.get("evaluation") or {}
    if score:
        before = "" if score.get("baseline") is None else f", before training {score['baseline']:.3f}"
        at = "" if score.get("step") is None else f" at step {score['step']}"
        words = f"{score['metric']} {score['value']:.3f} of {score['samples']} samples{at}{before}"
        yield _line("score", words)
    saved: Mapping[str, Any] = status.get("lastCheckpoint") or {}
    if saved:
        time = from_text(saved.get("time"))
        ago = f", {duration_text(now - time)} ago" if time is not None and not is_over(job) else ""
        yield _line("saved", f"step {saved['step']}{ago}")
    if status.get("restarts"):
        counted, limit = (
            status.get("restartsCounted", 0),
            job["spec"].get("runPolicy", {}).get("restartLimit"),
        )
        of = f", of which {counted} of at most {limit} count" if limit is not None else ""
        yield _line("restarts", f"{status['restarts']}{of}")


def _trouble(job: Object) -> Iterator[str]:
    """Why the job is not where it should be, in the operator's words; the last lines of what failed."""
    status = _status(job)
    for kind, bad in (
        ("Accepted", "False"),
        ("Prepared", "False"),
        ("Running", "False"),
        ("Restarting", "True"),
    ):
        condition = condition_of(status, kind)
        if condition.get("status") == bad and not is_over(job) and status.get("phase") != "Suspended":
            yield ""
            yield from _paragraph(
                f"{kind} is {bad}, {condition.get('reason', '')}: {condition.get('message', '')}"
            )
            break
    failure: Mapping[str, Any] = status.get("failure") or {}
    if failure and status.get("phase") != "Succeeded":
        where = ", ".join(str(failure[name]) for name in ("pod", "node") if failure.get(name))
        code = f", exit code {failure['exitCode']}" if failure.get("exitCode") is not None else ""
        yield ""
        what = "failed" if is_over(job) else "last fault"
        yield from _paragraph(f"{what}: {failure.get('reason', '')}: {failure.get('message', '')}")
        if where:
            yield f"  {where}{code}"
        yield from (f"  | {line}" for line in (failure.get("lastLines") or [])[-_LAST_LINES:])


def _results(job: Object) -> Iterator[str]:
    artifacts: Mapping[str, Any] = _status(job).get("artifacts") or {}
    kinds = [kind for kind in ("merged", "adapter") if artifacts.get(kind)]
    if not is_over(job) or not artifacts:
        return
    where = f"{job['metadata']['name']} -n {job['metadata']['namespace']}"
    yield ""
    if kinds:
        yield f"kubectl finetune download {where}"
    yield f"kubectl finetune report {where}"


def _status(job: Object) -> Mapping[str, Any]:
    return job.get("status") or {}


def _phase(job: Object) -> str:
    return str(_status(job).get("phase", "Pending"))


def _age(job: Object, now: datetime) -> str:
    made = from_text(job["metadata"].get("creationTimestamp"))
    return duration_text(now - made) if made is not None else ""


def _line(label: str, text: str) -> str:
    return f"  {label:{_LABEL}}{text}"


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(" ".join(inert(text).split()), COLUMNS, max_lines=8, placeholder=" ...")


def cut(line: str) -> str:
    """What of a line the screen has room for."""
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."
