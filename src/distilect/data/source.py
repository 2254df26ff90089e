"""The common interface of everything that rows are read from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilect.errors import DataError, did_you_mean


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns as they were read, with the position of each row for messages.

    Args:
        numbers: int64 [N], the line or row of its file on which each row starts, from 1.
        unit: what `numbers` count: "line" or "row".
        class_names: names behind the integers of a column (`ClassLabel` of `datasets`).
        files: (index of its first row, name) of each file, where the rows come from several.
    """

    table: pa.Table
    label: str
    numbers: NDArray[np.int64]
    unit: str = "row"
    class_names: dict[str, list[str]] = field(default_factory=dict)
    files: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def slice(self, start: int, length: int) -> Rows:
        """Some rows in order, without a copy."""
        return replace(self, table=self.table.slice(start, length), numbers=self.numbers[start : start + length])

    def where(self, row: int) -> str:
        """Such as `train.csv, line 12`."""
        label = self.files[bisect_right(self.files, row, key=lambda file: file[0]) - 1][1] if self.files else self.label
        return f"{label}, {self.unit} {self.numbers[row]}"


@dataclass(frozen=True, eq=False)
class Source:
    """A file, folder or hub data set. Column names are known at once; rows are read on demand.

    Args:
        label: its short name in messages.
        load: (columns, limit) → the first `limit` rows in blocks of a few ten thousand.
        num_rows: if known without reading; only such a source can be streamed.
        files: that are read, for telling whether they have changed since.
        notes: what was detected about the files, for the user.
        words: of a CoNLL file, whose columns all are lists: the usual columns of words and, if there are several, of tags.
    """

    label: str
    columns: list[str]
    load: Callable[[Sequence[str], int | None], Iterator[Rows]]
    num_rows: int | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def blocks(self, columns: Sequence[str], limit: int | None = None) -> Iterator[Rows]:
        """Read some columns of the first `limit` rows, one block in memory at a time.

        Raises:
            DataError: a missing column; while reading, a row that cannot be parsed.
        """
        check_columns(columns, self.columns, self.label)
        return self.load(columns, limit)

    def read(self, columns: Sequence[str], limit: int | None = None) -> Rows:
        """Read the same rows as one table.

        Raises:
            DataError: as `blocks`; there are no rows; or a column's types or names of classes differ between files.
        """
        blocks = list(self.blocks(columns, limit))
        if not blocks:
            raise DataError(f"{self.label} has columns but no rows")
        # permissive: a block of nulls only, or of integers where others hold floats, takes the type of the others
        try:
            table = pa.concat_tables([block.table for block in blocks], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"{self.label}: its files have columns of different types ({error})") from None
        starts = accumulate((len(block) for block in blocks[:-1]), initial=0)
        return replace(
            blocks[0],
            table=table,
            label=self.label,
            numbers=np.concatenate([block.numbers for block in blocks]),
            files=tuple((start, block.label) for start, block in zip(starts, blocks, strict=True)),
        )


def check_columns(wanted: Sequence[str], columns: Sequence[str], label: str) -> None:
    """Refuse columns that a source lacks.

    Raises:
        DataError: lists the columns that there are.
    """
    for name in wanted:
        if name not in columns:
            raise DataError(
                f"{label} has no column {name!r}; its columns: {listed(columns)}.{did_you_mean(name, columns)}"
            )


def listed(names: Sequence[Any], limit: int = 20) -> str:
    """The names, comma-separated, at most `limit` of them."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown}, … ({len(names)})" if len(names) > limit else shown
