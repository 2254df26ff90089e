"""Write tables in every format that can be read, with other libraries than the readers use where there are any."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Columns = Mapping[str, Sequence[Any]]


def rows_of(columns: Columns) -> list[tuple[Any, ...]]:
    return list(zip(*columns.values(), strict=True))


def write_csv(path: Path, columns: Columns, delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerow(columns)
        writer.writerows(rows_of(columns))
    return path


def write_tsv(path: Path, columns: Columns) -> Path:
    return write_csv(path, columns, "\t", csv.QUOTE_ALL)


def write_plain_tsv(path: Path, columns: Columns) -> Path:
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows_of(columns))]
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def write_jsonl(path: Path, columns: Columns) -> Path:
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows_of(columns)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, columns: Columns) -> Path:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


WRITERS: dict[str, Callable[[Path, Columns], Path]] = {
    ".csv": write_csv,
    ".tsv": write_tsv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}
