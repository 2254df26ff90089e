"""Numbers that belong to words, such as the outputs of a teacher that ran elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.data.label_sets import is_list
from distilect.data.readers import open_source
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.data.tag_columns import ANY_TASK, TagColumn
from distilect.data.units import Units
from distilect.errors import DataError
from distilect.tasks.label_names import match_labels


def read_word_columns(
    file: str | Path, columns: Sequence[str]
) -> tuple[NDArray[np.uint64], Units, NDArray[np.float64]]:
    """Read a list of words and, for each of `columns`, a list with a number per word.

    Args:
        file: JSONL or Parquet, a line per row; the words are in the one column of lists of strings.
        columns: in any spelling of the same label.

    Returns:
        ids uint64 [N, 2], as `Table.ids`; the words of each row; values float64 [U, len(columns)], NaN where a number is missing.

    Raises:
        DataError: no file, a missing column, or a list whose length is not that of the words.
    """
    source = open_source(str(file))
    spelled = match_labels([name for name in columns if name not in source.columns], source.columns)
    columns = [spelled.get(name, name) for name in columns]
    check_columns(columns, source.columns, source.label)
    name = _words_of(source, columns)
    rows = source.read([name, *columns])
    words = TagColumn(rows, name, None)  # leaves out what every table of words does
    table = words.table(ANY_TASK, "outputs", "")
    sizes = _sizes(rows, name)
    values = []
    for column in columns:
        lengths = _sizes(rows, column)
        if (lengths != sizes).any():
            row = int(np.argmax(lengths != sizes))
            raise DataError(f"{rows.where(row)}: {lengths[row]} numbers in {column!r} for {sizes[row]} words")
        flat = pc.list_flatten(rows.table[column].combine_chunks()).cast(pa.float64())
        values.append(flat.to_numpy(zero_copy_only=False)[words.as_read])
    return table.ids, words.units, np.stack(values, axis=1)


def _sizes(rows: Rows, column: str) -> NDArray[np.int64]:
    """int64 [N]: how many values each list has."""
    found = pc.fill_null(pc.list_value_length(rows.table[column].combine_chunks()), 0)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _words_of(source: Source, others: Sequence[str]) -> str:
    """The name of the column of lists of strings."""
    schema = source.read(source.columns, 1).table.schema
    lists = [name for name in source.columns if name not in others and is_list(schema.field(name).type)]
    found = [name for name in lists if str(schema.field(name).type.value_type) in ("string", "large_string")]
    if len(found) != 1:
        raise DataError(
            f"{source.label}: expected one column of lists of words beside {listed(others)}, got {listed(found) or 'none'}"
        )
    return found[0]
