"""Parquet files as one table that is read a row group at a time, by row.

Pictures lie in such files as the datasets library stores them, a struct of the encoded bytes and a path. A
row group is the least that can be decoded: the last few are kept, as many as fit a fixed number of bytes.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from phitune_trainer.data.errors import DataError
from phitune_trainer.errors import raise_if_out_of_reach

CACHE_BYTES: Final = 64 * 2**20
"""Decoded row groups that one process keeps, but at least one; the datasets library puts 100 rows in each."""

PICTURE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture as the datasets library stores it."""

_BATCH_ROWS: Final = 256
"""Rows decoded at a time when all are read in order."""


class ParquetRows:
    """The rows of several files, counted through; only the columns that are asked for are read.

    It can be sent to another process: it holds paths and counts, and opens files when it needs them. Errors
    are DataErrors that name the file, and the row where there is one (counted from 0 in each file).
    """

    def __init__(self, files: Sequence[Path], columns: Mapping[str, pa.DataType]) -> None:
        """Check that every file has the columns; what else a file or a struct has does not matter."""
        self._files = tuple(files)
        self._groups: list[tuple[int, int]] = []
        """File and row group, both counted from 0."""
        sizes: list[int] = []
        self._first_of_file: list[int] = []
        self._forget()
        for number, file in enumerate(self._files):
            self._first_of_file.append(sum(sizes))
            with _reading(file):
                content = self._open(number)
                _check_columns(file, content.schema_arrow, columns)
                for group in range(content.num_row_groups):
                    self._groups.append((number, group))
                    sizes.append(content.metadata.row_group(group).num_rows)
        self._starts = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_files", "_groups", "_first_of_file", "_starts")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, and rows of all, by names for people."""
        sizes = {f"bytes of {file.name}": file.stat().st_size for file in self._files}
        return {**sizes, "rows": len(self)}

    def where(self, index: int) -> str:
        """The place of a row, as "file:row 17"."""
        file = bisect_right(self._first_of_file, index) - 1
        return f"{self._files[file]}:row {index - self._first_of_file[file]}"

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of one row as plain data; "query.en" reads one field of a struct."""
        group = bisect_right(self._starts, index) - 1
        table = self._table(group, tuple(columns))
        return self._record(table, index - self._starts[group], index)

    def scan(
        self,
        columns: Sequence[str],
        first: int = 0,
        end: int | None = None,
        *,
        batch_rows: int = _BATCH_ROWS,
    ) -> Iterator[dict[str, Any]]:
        """Some columns of the rows from `first` up to `end`, in order, `batch_rows` in memory at a time."""
        end = len(self) if end is None else min(end, len(self))
        for number, (file, group) in enumerate(self._groups):
            start = self._starts[number]
            if start >= end:
                return
            if self._starts[number + 1] <= first:
                continue
            with _reading(self._files[file]):
                batches = self._open(file).iter_batches(
                    batch_rows, row_groups=[group], columns=list(columns), use_threads=False
                )
                for batch in batches:
                    for row in range(max(0, first - start), min(batch.num_rows, end - start)):
                        yield self._record(batch, row, start + row)
                    start += batch.num_rows

    def _table(self, number: int, columns: tuple[str, ...]) -> pa.Table:
        key = (number, columns)
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
            file, group = self._groups[number]
            with _reading(self._files[file]):
                table = self._open(file).read_row_group(group, columns=list(columns), use_threads=False)
            self._tables[key] = table
            while len(self._tables) > 1 and sum(kept.nbytes for kept in self._tables.values()) > CACHE_BYTES:
                self._tables.popitem(last=False)
            return table

    def _record(self, table: pa.Table | pa.RecordBatch, row: int, index: int) -> dict[str, Any]:
        try:
            return {name: table.column(name)[row].as_py() for name in table.schema.names}
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(index)}: a text is not UTF-8: {error.reason}") from error

    def _open(self, file: int) -> pq.ParquetFile:
        if file not in self._open_files:
            # Reading ahead uses threads of the library's own, which a forked worker process does not have.
            self._open_files[file] = pq.ParquetFile(self._files[file], pre_buffer=False)
        return self._open_files[file]

    def _forget(self) -> None:
        self._open_files: dict[int, pq.ParquetFile] = {}
        self._tables: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._lock = threading.Lock()


def find_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern such as docvqa/*.parquet below a folder, in the order of their names."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Within this block, what goes wrong with a file becomes a DataError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise_if_out_of_reach(error, file)
        number = error.errno if isinstance(error, OSError) else None
        reason = str(error) if number is None else os.strerror(number)
        raise DataError(
            f"{file}: cannot be read as parquet: {reason}; it may be cut short, fetch or copy it again"
        ) from error


def _check_columns(file: Path, schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
    for name, wanted in columns.items():
        found = schema.field(name).type if name in schema.names else None
        if found is None or not _fits(found, wanted):
            has = f"is {found}" if found is not None else f"is missing; it has {', '.join(schema.names)}"
            raise DataError(f"{file}: column {name!r} must be {wanted}, but {has}")


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column can be read as the wanted type: large forms are the same, more fields do no harm."""
    if pa.types.is_struct(wanted):
        names = {field.name: field.type for field in found} if pa.types.is_struct(found) else {}
        return all(field.name in names and _fits(names[field.name], field.type) for field in wanted)
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _fits(found.value_type, wanted.value_type)
    if pa.types.is_binary(wanted):
        return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found))
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
