"""Write tables as files that `open_source` can read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilect.data.table import CHUNK, Table
from distilect.errors import DataError
from distilect.files import atomic
from distilect.tasks import Scheme, spans

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def check_suffix(path: Path) -> None:
    """Refuse an unknown file suffix before any work is done.

    Raises:
        DataError: lists the known suffixes.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in one of {' '.join(SUFFIXES)}")


def write_columns(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write columns of equal length in the format of the file's suffix, as `table_writer`."""
    with table_writer(path) as write:
        write(pa.table(dict(columns)))


def entity_columns(table: Table, classes: NDArray[np.int64], scheme: Scheme) -> dict[str, pa.Array]:
    """The rows of a table of words as `text` and `entities`, for JSONL and Parquet.

    Args:
        classes: int64 [U], the class of each word's tag, -100 for none.

    Returns:
        the words joined by spaces; for each row a list of its entities: first word (from 0), the one after the last, type, and text.
    """
    words = table.words(range(len(table)))
    entities: list[list[dict[str, str | int]]] = [[] for _ in words]
    offsets = table.offsets
    assert offsets is not None
    for row, start, end, kind in zip(*(part.tolist() for part in spans(classes, offsets, scheme)), strict=True):
        text = " ".join(words[row][start:end])
        entities[row].append({"start": start, "end": end, "type": scheme.types[kind], "text": text})
    one = {"start": pa.int64(), "end": pa.int64(), "type": pa.string(), "text": pa.large_string()}
    lists = pa.list_(pa.struct(list(one.items())))
    return {
        "text": pa.array([" ".join(row) for row in words], pa.large_string()),
        "entities": pa.array(entities, lists),
    }


@contextmanager
def table_writer(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends rows to a file of the suffix's format. An interrupted write leaves no file.

    CSV and TSV fields are quoted where necessary. Every part must have the columns of the first.

    Raises:
        DataError: an unknown suffix, or a place that cannot be written to.
    """
    check_suffix(path)
    try:
        with atomic(path) as temporary, ExitStack() as files:
            write = _parquet_rows if path.suffix == ".parquet" else _text_rows
            yield write(temporary, files, path.suffix)
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def _parquet_rows(path: Path, files: ExitStack, suffix: str) -> Callable[[pa.Table], None]:
    writers: list[pq.ParquetWriter] = []

    def write(table: pa.Table) -> None:
        if not writers:
            # a column without a value yet may be text in a later part
            fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
            writers.append(files.enter_context(pq.ParquetWriter(path, pa.schema(fields))))
        writers[0].write_table(table.cast(writers[0].schema))

    return write


def _text_rows(path: Path, files: ExitStack, suffix: str) -> Callable[[pa.Table], None]:
    file = files.enter_context(path.open("w", encoding="utf-8", newline=""))
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")

    def write(table: pa.Table) -> None:
        names = table.column_names
        if suffix != ".jsonl" and not file.tell():
            writer.writerow(names)
        for batch in table.to_batches(CHUNK):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if suffix != ".jsonl":
                writer.writerows(rows)
                continue
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")

    return write
