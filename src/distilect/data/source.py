"""The one interface of everything that rows are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilect.errors import DataError, did_you_mean


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns as they were read, with the place of each row for messages.

    Args:
        unit: what `numbers` count: "line" or "row".
        numbers: int64 [N], from 1; None: rows are numbered in order.
        class_names: names behind the integers of a column (`ClassLabel` of `datasets`).
    """

    table: pa.Table
    label: str
    unit: str = "row"
    numbers: NDArray[np.int64] | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def where(self, row: int) -> str:
        """Such as `train.csv, line 12`."""
        number = row + 1 if self.numbers is None else self.numbers[row]
        return f"{self.label}, {self.unit} {number}"


class Source(Protocol):
    """A file, folder or hub data set: its column names at once, its rows when asked."""

    label: str
    columns: list[str]

    def read(self, columns: Sequence[str], limit: int | None = None) -> Rows:
        """Read some columns of the first `limit` rows."""
        ...


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
    """The names, at most `limit` of them."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown}, … ({len(names)})" if len(names) > limit else shown
