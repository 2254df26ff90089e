"""Labels of a multi-label task: any number of them per row, in any of the forms that files have."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.data.columns import is_string
from distilect.data.labels import by_value, refuse_unlabelled, replaced
from distilect.data.source import Rows, listed
from distilect.errors import DataError, did_you_mean
from distilect.tasks import NO_LABEL, Kind, Task
from distilect.tasks.label_names import join_spellings, match_labels

TOLD = ("|", ";", ",", "\t", " ")  # delimiters that are told by themselves where the labels are known
_YES = ("1", "1.0", "true", "yes")
_NO = ("0", "0.0", "false", "no")


class LabelSets:
    """The labels of each row, read until the task's labels are known.

    Attributes:
        column: its name, or the names of several columns, for messages.
        sets: large_list of large_string [N]; null where a row's labels are missing, an empty list where it has none.
        class_names: all labels in order, where the file tells them.
        notes: lines for the user, about labels that are spelled in several ways.
    """

    def __init__(self, rows: Rows, column: str, sets: pa.Array, class_names: Sequence[str] | None = None) -> None:
        self.rows, self.column, self.class_names = rows, column, class_names
        joined = {name: label for name, label in join_spellings(_different(sets)).items() if label != name}
        self.sets = _renamed(sets, joined)
        self.notes = [f"labels spelled in several ways are joined: {_pairs(joined)}"] if joined else []

    def __len__(self) -> int:
        return len(self.sets)

    def require_all(self, role: str) -> None:
        """Refuse rows whose labels are missing; a row with an empty list is labelled: with none.

        Raises:
            DataError: names the first one.
        """
        refuse_unlabelled(self.rows, self.sets, self.column, role)

    def kind(self) -> Kind:
        return "multi-label"

    def found(self) -> list[str]:
        """The different labels of the rows: integers by value, then names in order."""
        return sorted(_different(self.sets), key=by_value)

    def array(self, task: Task, role: str, origin: str) -> NDArray[np.int8]:
        """int8 [N, C]: 1 where a row has the label, 0 where not; -100 in rows whose labels are missing.

        Args:
            origin: where the task's labels come from, for the message.

        Raises:
            DataError: a label that is not the task's, with its row.
        """
        match = match_labels(_different(self.sets), task.labels)
        match = {name: label for name, label in match.items() if name != label}
        if match:
            self.notes.append(f"labels are taken for those of the task in another spelling: {_pairs(match)}")
        sets = _renamed(self.sets, match)
        matrix = np.zeros((len(sets), len(task.labels)), np.int8)
        rows = _row_of_each(sets)
        codes = pc.index_in(sets.flatten(), value_set=pa.array(task.labels, pa.large_string()))
        place = int(pc.index(codes.is_null(), True).as_py())
        if place >= 0:
            name = self.sets.flatten()[place].as_py()
            raise DataError(
                f"{self.rows.where(int(rows[place]))}: the {role} label {name!r} is not among {origin}: "
                f"{listed(task.labels)}.{did_you_mean(str(name), task.labels)}"
            )
        matrix[rows, codes.to_numpy(zero_copy_only=False).astype(np.int64)] = 1
        matrix[pc.is_null(self.sets).to_numpy(zero_copy_only=False)] = NO_LABEL
        return matrix


def _different(sets: pa.Array) -> list[str]:
    return sorted(pc.unique(sets.flatten()).to_pylist())


def _renamed(sets: pa.Array, names: Mapping[str, str]) -> pa.Array:
    if not names:
        return sets
    values = replaced(sets.flatten(), pa.array(list(names), pa.large_string()), list(names.values()))
    sizes = pc.fill_null(pc.list_value_length(sets), 0).to_numpy(zero_copy_only=False)
    again = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64()), values)
    return pc.if_else(pc.is_null(sets), pa.scalar(None, again.type), again)


def _pairs(names: Mapping[str, str]) -> str:
    return listed([f"{name!a} for {label!a}" for name, label in names.items()], 4)


def from_columns(rows: Rows, names: Sequence[str]) -> LabelSets:
    """One column per label, which holds 0 or 1, false or true, no or yes.

    Raises:
        DataError: another value, or a row in which some of the columns are empty and others are not.
    """
    matrix = np.stack([_zeros_and_ones(rows, name) for name in names], axis=1)  # float64, NaN where empty
    empty = np.isnan(matrix)
    partly = np.flatnonzero(empty.any(axis=1) & ~empty.all(axis=1))
    if len(partly):
        row = int(partly[0])
        raise DataError(
            f"{rows.where(row)}: column {names[int(empty[row].argmax())]!r} is empty, other labels of the row are not: "
            "write 0 or 1 in each, or leave all of them empty"
        )
    row_of, label_of = np.nonzero(matrix == 1)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=len(matrix)))])
    values = pa.array(names, pa.large_string()).take(pa.array(label_of))
    missing = pa.array(empty.all(axis=1))
    sets = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)
    return LabelSets(rows, listed(names), pc.if_else(missing, pa.scalar(None, sets.type), sets), list(names))


def from_column(rows: Rows, name: str, delimiter: str | None, known: Sequence[str] | None) -> LabelSets:
    """A column of lists; of texts with a delimiter in them; or of lists written as text, as pandas writes them to CSV.

    Args:
        delimiter: between two labels of a text; None: told where the labels are known, and if these are lists.
        known: the labels, where they are known.

    Raises:
        DataError: the column is none of these.
    """
    values = rows.table[name].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_list(values.type):
        if delimiter is not None:
            raise DataError(f"{rows.label}: column {name!r} holds lists: remove data.label_delimiter")
        return _of_lists(rows, name, values)
    if pa.types.is_null(values.type):
        return LabelSets(rows, name, pa.nulls(len(values), pa.large_list(pa.large_string())))
    if not (is_string(values.type) or pa.types.is_integer(values.type)):
        raise DataError(f"{rows.label}: column {name!r} holds {values.type}, expected lists of labels, or texts")
    texts = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    if delimiter is None and holds_lists(texts):
        sets = _parsed(rows, name, texts)
        _refuse_indicators(rows, name, sets)
        return LabelSets(rows, name, sets)
    if delimiter is None:
        delimiter = _told_delimiter(rows, name, texts, known)
    return LabelSets(rows, name, _split(texts, delimiter))


def is_list(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's list types."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def holds_lists(texts: pa.Array) -> bool:
    """Whether all texts are lists written as text, `['a', 'b']`; empty ones do not count."""
    filled = texts.drop_null().filter(pc.not_equal(texts.drop_null(), ""))
    inside = pc.and_(pc.starts_with(filled, "["), pc.ends_with(filled, "]"))
    return bool(len(filled) and pc.all(inside).as_py())


def _of_lists(rows: Rows, name: str, values: pa.Array) -> LabelSets:
    """The labels as names; integers are "0", "1", …, or the names behind them."""
    inner, names = values.flatten(), rows.class_names.get(name)
    if names is not None and pa.types.is_integer(inner.type):
        inner = pa.array(names, pa.large_string()).take(inner.cast(pa.int64()))
    elif not (is_string(inner.type) or pa.types.is_integer(inner.type) or pa.types.is_null(inner.type)):
        raise DataError(f"{rows.label}: column {name!r} holds lists of {inner.type}, expected names or integers")
    labels = pc.utf8_trim_whitespace(inner.cast(pa.large_string()))
    if labels.null_count:
        row = int(_row_of_each(values)[int(pc.index(pc.is_null(labels), True).as_py())])
        raise DataError(
            f"{rows.where(row)}: a label in column {name!r} is null: write an empty list for a row without any"
        )
    sizes = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    sets = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64()), labels)
    _refuse_indicators(rows, name, sets)
    return LabelSets(rows, name, pc.if_else(pc.is_null(values), pa.scalar(None, sets.type), sets), names)


def _refuse_indicators(rows: Rows, name: str, sets: pa.Array) -> None:
    """[0, 1, 1] may be labels "0" and "1", or a 0 or 1 for each of three labels: it must not be read as the first.

    Raises:
        DataError: a row lists 0 or 1 twice, and there is no other label.
    """
    labels = sets.flatten()
    if not set(pc.unique(labels).to_pylist()) <= {"0", "1"}:
        return
    pairs, counts = np.unique(2 * _row_of_each(sets) + pc.equal(labels, "1").to_numpy(False), return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{rows.where(int(pairs[counts > 1][0]) // 2)}: a list in column {name!r} names a label twice. If its lists hold a 0 or 1 "
            "for each label, write a column per label instead, and name all of them in data.label"
        )


def _split(texts: pa.Array, delimiter: str) -> pa.Array:
    """Texts cut at the delimiter; blank parts are no labels."""
    parts = pc.split_pattern(texts, delimiter)
    rows, labels = _row_of_each(parts), pc.utf8_trim_whitespace(parts.flatten())
    kept = pc.not_equal(labels, "")
    sizes = np.bincount(rows[kept.to_numpy(zero_copy_only=False)], minlength=len(texts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64())
    sets = pa.LargeListArray.from_arrays(offsets, labels.filter(kept).cast(pa.large_string()))
    return pc.if_else(pc.is_null(texts), pa.scalar(None, sets.type), sets)


def _parsed(rows: Rows, name: str, texts: pa.Array) -> pa.Array:
    """`['a', 'b']` and `["a", "b"]` as lists; an empty text is a row whose labels are missing, as pandas writes it."""
    found: list[list[str] | None] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            value = ast.literal_eval(text) if text else None
            if value is not None and not all(isinstance(label, (str, int)) for label in value):
                raise ValueError
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise DataError(
                f"{rows.where(row)}: {text[:60]!r} in column {name!r} is no list of labels such as ['a', 'b']; if these are no lists, "
                "set data.label_delimiter or task.kind: classification"
            ) from None
        found.append(None if value is None else [str(label).strip() for label in value])
    return pa.array(found, pa.large_list(pa.large_string()))


def _told_delimiter(rows: Rows, name: str, texts: pa.Array, known: Sequence[str] | None) -> str:
    """The delimiter that parts all texts into known labels.

    Raises:
        DataError: there is none, or no label is known.
    """
    different = pc.unique(texts.drop_null())
    for delimiter in TOLD if known else ():
        if set(_split(different, delimiter).flatten().to_pylist()) <= set(known or ()):
            return delimiter
    example = next((text for text in different.to_pylist() if text), "")[:60]
    if known is None:
        raise DataError(
            f"{rows.label}: column {name!r} holds texts such as {example!r}: set data.label_delimiter to what parts two labels"
        )
    raise DataError(
        f"{rows.label}: column {name!r} holds texts such as {example!r}, which no usual delimiter ({' '.join(TOLD[:3])} tab, space) "
        f"parts into the labels {listed(known)}: set data.label_delimiter, or name the column of labels"
    )


def _zeros_and_ones(rows: Rows, name: str) -> NDArray[np.float64]:
    """float64 [N]: 0 or 1; NaN where the column is empty."""
    values = rows.table[name].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_list(values.type):
        raise DataError(f"{rows.label}: column {name!r} holds lists: name it alone in data.label")
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(values.cast(pa.large_string())))
    yes, no = (pc.is_in(texts, value_set=pa.array(words, pa.large_string())) for words in (_YES, _NO))
    yes, no = yes.to_numpy(zero_copy_only=False), no.to_numpy(zero_copy_only=False)
    empty = pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False)
    if len(other := np.flatnonzero(~(yes | no | empty))):
        row = int(other[0])
        raise DataError(
            f"{rows.where(row)}: {values[row].as_py()!r} in column {name!r}, expected 0 or 1: with several label columns, each of them "
            "says whether a row has that label"
        )
    return np.where(yes, 1.0, np.where(no, 0.0, np.nan))


def _row_of_each(lists: pa.Array) -> NDArray[np.int64]:
    """int64: the row of each element of `lists.flatten()`."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), sizes)
