"""The model card of an export, README.md: what it is, what it was trained on, how well it answers.

Pure: facts in, text out. What is not known is said to be unknown, never guessed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from phitune_trainer.plain_text import inert

Kind = Literal["adapter", "merged"]

FILE: Final = "README.md"
PUBLISHED_BASE: Final = "microsoft/Phi-3.5-vision-instruct"
_PUBLISHED_LICENSE: Final = "mit"
_PIPELINE: Final = "image-text-to-text"
_TEXT_ONLY: Final = re.compile(r"\s+")
_MARKUP: Final = re.compile(r"([\\`*_\[\]<>|#&])")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model; None and empty stand for what is not."""

    name: str
    """Of the job, or of the folder that was exported."""
    method: str | None
    task: str | None = None
    base: str | None = None
    """Repository of the base model on the hub."""
    base_words: str | None = None
    """What the base model was, where it came from no hub."""
    base_revision: str | None = None
    base_commit: str | None = None
    dtype: str
    """Of merged weights, such as "bfloat16"."""
    step: int | None = None
    """Optimizer steps behind the weights."""
    started_from: str | None = None
    """Run or checkpoint whose weights it started with instead of the base model's."""
    datasets: Sequence[str] = ()
    """Repositories on the hub that samples came from."""
    data: Mapping[str, object] = field(default_factory=dict)
    """What tells the training data from other data."""
    scored_on: str | None = None
    """The held-out samples, in words."""
    scores: Mapping[str, Any] | None = None
    """metrics.json of the evaluation of exactly these weights."""
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what made this export."""
    has_published_code: bool = False
    """Whether the published Python files lie beside the weights."""


def model_card(facts: Facts, kind: Kind) -> str:
    """The text of README.md: metadata as the hub reads it, in YAML, and sections for people."""
    sections = [
        f"# {_text(facts.name)}",
        _introduction(facts, kind),
        *_section("Scores", _scores(facts, kind)),
        *_section("Training data", _data(facts)),
        *_section("Hyperparameters", _table(("what", "value"), facts.hyperparameters.items())),
        *_section("How to use it", _usage(facts, kind)),
        *_section("Licence", _license(facts)),
        *_section("Versions", _table(("what made this export", "version"), facts.versions.items())),
    ]
    metadata = yaml.safe_dump(_metadata(facts, kind), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(facts: Facts, kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if facts.base is not None:
        found["base_model"] = _line(facts.base)
        found["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    if facts.base == PUBLISHED_BASE:
        found["license"] = _PUBLISHED_LICENSE
    found["library_name"] = "peft" if kind == "adapter" else "transformers"
    found["pipeline_tag"] = _PIPELINE
    tags = ["phitune", "phi3_v", "vision", facts.method, facts.task]
    found["tags"] = [*dict.fromkeys(_line(tag) for tag in tags if tag)]
    if facts.has_published_code and kind == "merged":
        found["tags"].append("custom_code")
    if facts.datasets:
        found["datasets"] = [_line(name) for name in facts.datasets]
    if facts.scores is not None:
        found["metrics"] = [*dict.fromkeys(name for name, _ in _all_scores(facts.scores))]
        found["model-index"] = [_model_index(facts, facts.scores)]
    return found


def _model_index(facts: Facts, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores in the form that the hub shows."""
    where = facts.datasets[-1] if facts.datasets else (facts.task or "unknown")
    return {
        "name": _line(facts.name),
        "results": [
            {
                "task": {"type": _PIPELINE},
                "dataset": {"type": _line(where), "name": _line(facts.scored_on or where)},
                "metrics": [
                    {
                        "type": name,
                        "value": found["value"],
                        "name": f"{name}, 95% interval {_interval(found)}",
                    }
                    for name, found in _all_scores(scores)
                ],
            }
        ],
    }


def _all_scores(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The main score and the others by their names, as far as they have a value."""
    both = [(str(scores["metric"]), scores), *scores["details"].items()]
    return [(name, found) for name, found in both if found["value"] is not None]


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found.get("low"), found.get("high")
    return "not known" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _introduction(facts: Facts, kind: Kind) -> str:
    what = {
        "adapter": "Adapters (LoRA, in PEFT's layout) for",
        "merged": f"Phi-3.5-vision weights in {_text(facts.dtype)}, under the published names, trained from",
    }[kind]
    lines = [f"{what} {_base(facts)}."]
    if facts.started_from is not None:
        lines.append(f"Training started with the weights of {_code(facts.started_from)}.")
    how = f"method {_text(facts.method)}" if facts.method else "a method that is not known"
    task = f" on task {_text(facts.task)}" if facts.task else ""
    steps = f", {facts.step:,} steps" if facts.step is not None else ""
    lines.append(f"Trained with {how}{task}{steps}.")
    return " ".join(lines)


def _base(facts: Facts) -> str:
    if facts.base is None:
        return _text(facts.base_words or "a model that is not known")
    at = f", revision {_code(facts.base_revision)}" if facts.base_revision else ""
    commit = f", commit {_code(facts.base_commit)}" if facts.base_commit else ""
    return f"[{_text(facts.base)}](https://huggingface.co/{_line(facts.base)}){at}{commit}"


def _scores(facts: Facts, kind: Kind) -> str:
    scores = facts.scores
    if scores is None:
        return "Not known: these weights were not scored, or their scores were not at hand."
    rows = [(name, f"{found['value']:.4f}", _interval(found)) for name, found in _all_scores(scores)]
    where = f": {_text(facts.scored_on)}" if facts.scored_on else ""
    before = scores.get("baseline")
    said = [f"Of {scores['samples']:,} held-out samples{where}, answered greedily."]
    if before is not None:
        said.append(f"Before this training, as the same run measured it: {before:.4f}.")
    if kind == "merged" and facts.method in ("lora", "qlora"):
        said.append("They were measured with the adapters beside the base model, before merging them.")
    said += [_text(note) for note in scores.get("notes", [])]
    return f"{_table(('score', 'value', '95% interval'), rows)}\n\n{' '.join(said)}"


def _data(facts: Facts) -> str:
    if not facts.data:
        return "Not known."
    sources = [f"[{_text(name)}](https://huggingface.co/datasets/{_line(name)})" for name in facts.datasets]
    came = f"\n\nFrom the hub: {', '.join(sources)}." if sources else ""
    return _table(("training data", ""), facts.data.items()) + came


def _usage(facts: Facts, kind: Kind) -> str:
    if kind == "adapter":
        return "\n\n".join([_predict("--model BASE --adapter ."), _with_peft(facts)])
    if not facts.has_published_code:
        return (
            f"{_predict('--model .')}\n\nTransformers and vLLM read this architecture with the published "
            "model's own Python files, which do not lie beside these weights: copy them here first."
        )
    return f"{_predict('--model .')}\n\nWith vLLM:\n\n```\nvllm serve . --trust-remote-code\n```"


def _predict(model: str) -> str:
    return f'```\nphitune predict {model} --image page.png --prompt "What is the total?"\n```'


def _with_peft(facts: Facts) -> str:
    beside = " Load the base model in 4 bits (NF4): they were trained beside it." * (facts.method == "qlora")
    return (
        f"With PEFT, on a model that was loaded as `model`:{beside}\n\n"
        '```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(model, ".")\n```\n\n'
        "vLLM puts no adapters on this architecture; merge them first: "
        "`phitune export . --base BASE --merged --to merged`."
    )


def _license(facts: Facts) -> str:
    if facts.base == PUBLISHED_BASE:
        return "The base model is published under the MIT licence, which holds for what is made of it."
    return (
        "Not known: the licence of the base model, and the terms of the training data, hold for what is made "
        "of them."
    )


def _section(title: str, content: str) -> list[str]:
    return [f"## {title}", content] if content else []


def _table(head: Sequence[str], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [_row([_text(cell) for cell in row]) for row in rows]
    if not lines:
        return ""
    return "\n".join([_row(head), _row(["---"] * len(head)), *lines])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(value: object) -> str:
    """One line that does nothing but show itself."""
    return _TEXT_ONLY.sub(" ", inert(str(value))).strip()


def _text(value: object) -> str:
    """The same with every character that Markdown would act upon marked as plain."""
    return _MARKUP.sub(r"\\\1", _line(value))


def _code(value: object) -> str:
    return f"`{_line(value).replace('`', chr(39))}`"
