"""The model card: metadata that every reader takes, whatever its strings hold, and no more than is known."""

import json
import re
from dataclasses import asdict
from typing import Any

import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from phitune_trainer.card_facts import facts_of_run
from phitune_trainer.hub_record import Record, record_name
from phitune_trainer.model_card import PUBLISHED_BASE, Facts, Kind, model_card
from phitune_trainer.plain_text import inert

SCORES: dict[str, Any] = {
    "metric": "anls",
    "value": 0.8246,
    "low": 0.801,
    "high": 0.846,
    "samples": 1200,
    "baseline": 0.013,
    "details": {
        "anlsStandard": {"value": 0.8302, "low": 0.807, "high": 0.851},
        "auroc": {"value": None, "low": None, "high": None},
    },
    "notes": ["auroc is not defined: all right answers are 'Yes'"],
}
NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["---", "a\n---\nb", "a: b", "- a", "#", "null", "1e3", "'\"", "{a}", "|", "<b>", "\ud800"]
    ),
)


def facts(**more: Any) -> Facts:
    return Facts(**{"name": "pages", "method": "lora", "dtype": "bfloat16", **more})


def front(card: str) -> dict[str, Any]:
    """The metadata, as the hub's client finds it."""
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def shown(text: str) -> str:
    return " ".join(inert(text).split())


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(NASTY, min_size=9, max_size=9),
    table=st.dictionaries(NASTY, st.one_of(NASTY, st.integers(), st.floats()), min_size=1, max_size=3),
    kind=st.sampled_from(("adapter", "merged")),
    has_code=st.booleans(),
)
def test_metadata_is_read_back_whatever_the_strings_hold(
    texts: list[str], table: dict[str, Any], kind: Kind, has_code: bool
) -> None:
    name, method, task, base, revision, commit, dataset, scored_on, note = texts
    card = model_card(
        facts(
            name=name,
            method=method,
            task=task,
            base=base,
            base_revision=revision,
            base_commit=commit,
            datasets=[dataset],
            data=table,
            scored_on=scored_on,
            scores={**SCORES, "notes": [note]},
            hyperparameters=table,
            versions={note: note},
            has_published_code=has_code,
        ),
        kind,
    )
    card.encode()
    found = yaml.safe_load(re.fullmatch(r"---\n(.*?)\n---\n\n.*", card, re.DOTALL)[1])  # type: ignore[index]
    assert found["base_model"] == shown(base)
    assert found["datasets"] == [shown(dataset)]
    assert set(found["tags"]) >= {"phitune", *(shown(one) for one in (method, task) if one)}
    assert found["model-index"][0]["name"] == shown(name)
    rows = [re.sub(r"\\.", "", line) for line in card.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 * 2 + len(["anls", "anlsStandard"]) + 2 * len(table) + 1
    assert {row.count("|") for row in rows} == {3, 4}
    assert "\n## Scores\n" in card
    assert "\n## Versions\n" in card


def test_the_hub_finds_the_scores_with_their_intervals() -> None:
    card = ModelCard(
        model_card(facts(datasets=["a/b"], scored_on="1,200 questions", scores=SCORES), "merged")
    )
    results = card.data.eval_results
    assert results is not None
    assert [(one.metric_type, one.metric_value, one.dataset_type) for one in results] == [
        ("anls", 0.8246, "a/b"),
        ("anlsStandard", 0.8302, "a/b"),
    ]
    assert results[0].metric_name == "anls, 95% interval 0.8010 to 0.8460"
    assert "auroc" not in str(front(card.content))
    assert "Before this training, as the same run measured it: 0.0130." in card.text
    assert "auroc is not defined" in card.text


def test_base_and_data_of_the_hub_are_named_with_the_commit_that_was_fetched(make_config: Any) -> None:
    config = make_config(
        model={"path": None, "name": PUBLISHED_BASE},
        task="docvqa",
        data={"path": None},
        evaluation={"enabled": True, "baseline": True},
    )
    record = Record(revision="main", commit="c" * 40, fetched_at="then", patterns=(), files={})
    config.model_dir.mkdir(parents=True)
    (config.model_dir / record_name("model", PUBLISHED_BASE)).write_text(json.dumps(asdict(record)))
    card = model_card(facts_of_run(config, None, step=3, scores=None, dtype="bfloat16"), "merged")
    assert front(card)["base_model"] == PUBLISHED_BASE
    assert front(card)["datasets"] == ["HuggingFaceM4/the_cauldron", "nielsr/docvqa_1200_examples"]
    assert f"revision `main`, commit `{'c' * 40}`" in card
    assert "3 steps" in card


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    card = model_card(facts(method=None), "merged")
    assert front(card).keys() == {"library_name", "pipeline_tag", "tags"}
    for words in (
        "trained from a model that is not known",
        "a method that is not known",
        "these weights were not scored, or their scores were not at hand",
        "## Training data\n\nNot known.",
        "## Licence\n\nNot known",
    ):
        assert words in card


def test_the_published_base_brings_its_licence_and_another_one_does_not() -> None:
    published = front(model_card(facts(base=PUBLISHED_BASE), "merged"))
    assert (published["license"], published["base_model_relation"]) == ("mit", "finetune")
    assert "license" not in front(model_card(facts(base="team/other"), "merged"))
    adapter = front(model_card(facts(base=PUBLISHED_BASE), "adapter"))
    assert (adapter["library_name"], adapter["base_model_relation"]) == ("peft", "adapter")


def test_commands_are_given_only_where_they_work() -> None:
    with_code = model_card(facts(has_published_code=True), "merged")
    assert "vllm serve . --trust-remote-code" in with_code
    assert "custom_code" in front(with_code)["tags"]
    without = model_card(facts(), "merged")
    assert "vllm serve" not in without
    assert "copy them here first" in without
    adapter = model_card(facts(method="qlora", has_published_code=True), "adapter")
    assert "vllm serve" not in adapter
    assert "in 4 bits (NF4)" in adapter
    assert "merge them first" in adapter
