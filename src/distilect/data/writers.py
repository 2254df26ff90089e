"""Tables as files that `open_source` reads back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distilect.data.table import CHUNK
from distilect.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def write_columns(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write columns of equal length, by the file's suffix; whole or not at all.

    CSV and TSV fields are quoted where they have to be.

    Raises:
        DataError: another suffix, or a place that cannot be written to.
    """
    check_suffix(path)
    table = pa.table(dict(columns))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            _write_lines(temporary, table, path.suffix)
        os.replace(temporary, path)
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Refuse a file whose kind is not known, before any work.

    Raises:
        DataError: names the kinds that there are.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in one of {' '.join(SUFFIXES)}")


def _write_lines(path: Path, table: pa.Table, suffix: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        if suffix != ".jsonl":
            writer.writerow(table.column_names)
        for batch in table.to_batches(CHUNK):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if suffix == ".jsonl":
                names = table.column_names
                file.writelines(
                    json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
                )
            else:
                writer.writerows(rows)
