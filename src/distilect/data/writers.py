"""Write tables as files that `open_source` can read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distilect.data.table import CHUNK
from distilect.errors import DataError
from distilect.files import atomic

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def check_suffix(path: Path) -> None:
    """Refuse an unknown file suffix before any work is done.

    Raises:
        DataError: lists the known suffixes.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in one of {' '.join(SUFFIXES)}")


def write_columns(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write columns of equal length in the format of the file's suffix. An interrupted write leaves no file.

    CSV and TSV fields are quoted where necessary.

    Raises:
        DataError: an unknown suffix, or a place that cannot be written to.
    """
    check_suffix(path)
    table = pa.table(dict(columns))
    try:
        with atomic(path) as temporary:
            if path.suffix == ".parquet":
                pq.write_table(table, temporary)
            else:
                _write_lines(temporary, table, path.suffix)
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def _write_lines(path: Path, table: pa.Table, suffix: str) -> None:
    names = table.column_names
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        if suffix != ".jsonl":
            writer.writerow(names)
        for batch in table.to_batches(CHUNK):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if suffix != ".jsonl":
                writer.writerows(rows)
                continue
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
