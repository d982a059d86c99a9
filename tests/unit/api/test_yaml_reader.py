"""YAML as kubectl reads it: the expected values are what `kubectl annotate --local -o json` shows (1.36)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phitune_trainer.yaml_reader import YamlError, read_document, read_documents, write_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-5", 4e-5),
        ("4E5", 400000),
        ("-.5e3", -500),
        (".5", 0.5),
        ("5.", 5),
        ("2.0", 2),
        ("1e3", 1000),
        ("1e21", 1e21),
        ("1_000", 1000),
        ("0.1_2", 0.12),
        ("+1", 1),
        ("0x1F", 31),
        ("010", 8),
        ("0o10", 8),
        ("09", 9),
        ("0b11", 3),
        ("-0b1", -1),
        ("12345678901234567890", 12345678901234567890),
        ("123456789012345678901234567890", 1.2345678901234568e29),
        ("1e400", "1e400"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("yes", True),
        ("No", False),
        ("ON", True),
        ("y", True),
        ("TRUE", True),
        ("yEs", "yEs"),
        ("~", None),
        ("Null", None),
        ("", None),
        ("-.inf", -math.inf),
        ("'yes'", "yes"),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("!other 5", "5"),
        ("!!binary aGVsbG8=", "hello"),
        ("|\n    a\n    b\n", "a\nb\n"),
        ("[1, two]", [1, "two"]),
    ],
)
def test_scalar_is_read_as_kubectl_reads_it(text: str, value: object) -> None:
    read = read_document(f"a: {text}\n")
    assert read == {"a": value}
    assert isinstance(read, dict)
    assert type(read["a"]) is type(value)


def test_nan_is_passed_on_for_the_field_to_be_named() -> None:
    read = read_document("a: .NaN")
    assert isinstance(read, dict)
    assert math.isnan(read["a"])


def test_keys_become_text() -> None:
    assert read_document("1: a\ntrue: b\n1.5: c\nn: d\n") == {"1": "a", "true": "b", "1.5": "c", "false": "d"}


def test_aliases_and_merges() -> None:
    merges = "more: {<<: *b, q: 3}\nmany: {<<: [*b, {q: 5, r: 4}]}\nlate: {q: 3, <<: *b}\n"
    text = f"base: &b {{p: 1, q: 2}}\nsame: *b\n{merges}"
    assert read_document(text) == {
        "base": {"p": 1, "q": 2},
        "same": {"p": 1, "q": 2},
        "more": {"p": 1, "q": 3},
        "many": {"p": 1, "q": 2, "r": 4},
        "late": {"p": 1, "q": 2},
    }


def test_documents_keep_their_lines_and_empty_ones_do_not_count() -> None:
    documents = read_documents("# only a comment\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n")
    assert [(document.value, document.line) for document in documents] == [({"a": 1}, 3), ({"b": 2}, 8)]


def test_json_documents_may_hold_tabs_and_follow_each_other() -> None:
    documents = read_documents('{\n\t"a": 2.0, "b": [1e3]}\n{"c": 4e-5}\n')
    assert [(document.value, document.line) for document in documents] == [
        ({"a": 2, "b": [1000]}, 1),
        ({"c": 4e-5}, 3),
    ]


def test_flow_mapping_of_yaml_is_no_json() -> None:
    assert read_document("{a: 1, b: [x]}") == {"a": 1, "b": ["x"]}


def test_empty_text_has_no_document() -> None:
    assert read_document("") is None
    assert read_documents("---\n") == []


BILLION_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1", 'key "a" is given twice'),
        ('{"a": 1,\n "a": 2}', "line 2, column 2", 'key "a" is given twice'),
        ("a: [b,\n", "line 2, column 1", "expected the node content"),
        ("a:\n\tb: 1\n", "line 2, column 1", "cannot start any token"),
        ("a: 'x\n", "line 2, column 1", "unexpected end"),
        ("a: b: c\n", "line 1, column 5", "mapping values are not allowed"),
        ("a: *b\n", "line 1, column 4", "undefined alias"),
        ("a: &a [*a]\n", "line 1, column 4", "contains itself"),
        ("a: \x01\n", "line 1, column 4", "character #x0001"),
        ("ok: 1\nb: <<\n<<: 3\n", "line 3, column 5", "a map or a list of maps"),
        ("? [a]\n: b\n", "line 1, column 3", "must be a string"),
        ("~: b\n", "line 1, column 1", "must be a string"),
        ("a: !!binary '%'\n", "line 1, column 4", "base64"),
        ("[" * 1000, "line 1, column 1", "nested too deeply"),
        (BILLION_LAUGHS, "line 1", "more than 100,000 values"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_error_says_line_and_column(text: str, where: str, what: str) -> None:
    with pytest.raises(YamlError) as refused:
        read_documents(text)
    assert str(refused.value).startswith(where)
    assert what in str(refused.value)


def test_second_document_is_refused_where_one_is_expected() -> None:
    with pytest.raises(YamlError, match="line 3"):
        read_document("a: 1\n---\nb: 1\n")


@given(st.text(alphabet=st.sampled_from("abc:-[]{}&*!|>'\"%@`#,? \n\t01.e~<\x00ä"), max_size=40))
@example("!!binary")
@example("&a")
@example("<<: *a")
@example("{")
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        json.dumps([document.value for document in read_documents(text)])
        refusal = "line "
    except YamlError as error:
        refusal = str(error)
    assert refusal.startswith("line ")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8) | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert read_document(json.dumps({"a": value})) == {"a": value}


@pytest.mark.parametrize(
    "text",
    ["0008", "1e5", "12e-3", "0o7", "0x1f", "1_000", "12:30", "2026-01-01", "null", "~", "yes", ".5", ""],
)
def test_a_string_is_written_so_that_it_is_read_as_one(text: str) -> None:
    assert read_document(write_document({"a": text, "b": [text]})) == {"a": text, "b": [text]}
