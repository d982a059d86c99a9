"""Parquet files as rows: any row by its number, errors with their place, memory that does not grow."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.parquet_data import CAULDRON, cauldron_row, write_parquet
from phitune_trainer.data import DataError
from phitune_trainer.data.parquet import PICTURE, ParquetRows, find_files
from phitune_trainer.data.tasks.layouts import LAYOUTS

NUMBERS = pa.schema([("number", pa.int64()), ("text", pa.string())])


def write_numbers(folder: Path, *counts: int, group_size: int = 3) -> ParquetRows:
    """Files of so many rows each, counted through."""
    files, start = [], 0
    for index, count in enumerate(counts):
        rows = [{"number": number, "text": str(number)} for number in range(start, start + count)]
        files.append(write_parquet(folder / f"{index}.parquet", NUMBERS, rows, group_size=group_size))
        start += count
    return ParquetRows(files, {"text": pa.string()})


@settings(max_examples=20)
@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    group_size=st.integers(1, 4),
    first=st.integers(0, 10),
    end=st.none() | st.integers(0, 25),
)
def test_rows_are_counted_through_files_and_row_groups(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], group_size: int, first: int, end: int | None
) -> None:
    rows = write_numbers(tmp_path_factory.mktemp("rows"), *counts, group_size=group_size)
    total = sum(counts)
    assert len(rows) == total
    assert [rows.read(index, ["number"])["number"] for index in range(total)] == list(range(total))
    scanned = [row["number"] for row in rows.scan(["number"], first, end)]
    assert scanned == list(range(total))[first:end]


def test_a_row_is_named_by_its_file_and_its_number_there(tmp_path: Path) -> None:
    rows = write_numbers(tmp_path, 4, 0, 5)
    assert [Path(rows.where(index)).name for index in (0, 3, 4, 8)] == [
        "0.parquet:row 0",
        "0.parquet:row 3",
        "2.parquet:row 0",
        "2.parquet:row 4",
    ]


def test_rows_can_be_sent_to_another_process_after_they_were_read(tmp_path: Path) -> None:
    rows = write_numbers(tmp_path, 7)
    before = rows.read(5, ["text"])
    assert pickle.loads(pickle.dumps(rows)).read(5, ["text"]) == before == {"text": "5"}


def test_what_is_decoded_is_kept_up_to_a_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_numbers(tmp_path, 30)
    monkeypatch.setattr("phitune_trainer.data.parquet.CACHE_BYTES", 100)
    for index in range(30):
        assert rows.read(index, ["number"]) == {"number": index}
        kept = [table.nbytes for table in rows._tables.values()]
        assert len(kept) == 1 or sum(kept) <= 100


def test_large_forms_and_more_columns_are_read_alike(tmp_path: Path) -> None:
    picture = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string()), ("more", pa.int8())])
    text = pa.struct([(name, pa.large_string()) for name in ("user", "assistant")])
    schema = pa.schema([("images", pa.large_list(picture)), ("texts", pa.large_list(text)), ("x", pa.int8())])
    row = {"images": [{"bytes": b"1", "path": "p", "more": 1}], "texts": [{"user": "u", "assistant": "a"}]}
    file = write_parquet(tmp_path / "a.parquet", schema, [row])
    layout = LAYOUTS["cauldron"]
    found = ParquetRows([file], layout.columns).read(0, ["images", "texts"])
    assert layout.pictures(found) == [b"1"]
    assert layout.questions(found)[0].answers == ("a",)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        pytest.param(
            pa.schema([("images", pa.list_(PICTURE))]),
            r"'texts' must be list<.*is missing; it has",
            id="missing",
        ),
        pytest.param(
            pa.schema([("images", pa.list_(pa.string())), *list(CAULDRON)[1:]]),
            r"'images' must be list<.*but is list<",
            id="paths instead of pictures",
        ),
        pytest.param(
            pa.schema([*list(CAULDRON)[:1], ("texts", pa.list_(pa.struct([("user", pa.string())])))]),
            r"'texts' must be list<.*assistant.*but is list<",
            id="no answers",
        ),
    ],
)
def test_a_file_of_another_layout_is_refused_with_what_was_expected(
    schema: pa.Schema, message: str, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "other.parquet", schema, [])
    with pytest.raises(DataError, match=rf"other\.parquet: column {message}"):
        ParquetRows([file], LAYOUTS["cauldron"].columns)


def test_a_file_that_is_cut_short_or_changed_is_named(tmp_path: Path) -> None:
    rows = [cauldron_row((f"question {number}", "answer")) for number in range(50)]
    file = write_parquet(tmp_path / "a.parquet", CAULDRON, rows, group_size=50)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not parquet at all"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet.*copy it again"):
            ParquetRows([file], LAYOUTS["cauldron"].columns)
    file.write_bytes(b"PAR1" + b"\xff" * 2000 + whole[2004:])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        ParquetRows([file], LAYOUTS["cauldron"].columns).read(49, ["images", "texts"])
    with pytest.raises(DataError, match=r"none\.parquet: cannot be read as parquet: No such file"):
        ParquetRows([tmp_path / "none.parquet"], {})


def test_files_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("train-00010.parquet", "train-00002.parquet", "notes.txt"):
        write_parquet(tmp_path / "docvqa" / name, NUMBERS, [])
    assert [path.name for path in find_files(tmp_path, "docvqa/*.parquet")] == [
        "train-00002.parquet",
        "train-00010.parquet",
    ]
