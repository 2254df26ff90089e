"""A label column, as class indexes or scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.data.columns import is_string
from distilect.data.source import Rows, listed
from distilect.errors import DataError, did_you_mean
from distilect.tasks import NO_LABEL, Kind, Task
from distilect.tasks.label_names import join_spellings, match_labels

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


class LabelColumn:
    """A label column read twice: as names and as numbers, until the kind of task is known.

    Attributes:
        names: large_string [N], trimmed; null where the label is missing. Integers are "0", "1", …, also where
            the column holds them as floats.
        numbers: float64 [N]; NaN where the label is not a finite number.
        class_names: all names of a `ClassLabel` column, also of classes without rows.
        notes: which spellings were taken for one label, for the user.
    """

    def __init__(self, rows: Rows, name: str) -> None:
        self.rows, self.column = rows, name
        values = rows.table[name].combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        self.class_names = rows.class_names.get(name)
        if self.class_names is not None and pa.types.is_integer(values.type):
            values = _named_classes(values, self.class_names)
        else:
            self.class_names = None
        self.names, self.numbers = _names_and_numbers(values, rows.label, name)
        self.notes: list[str] = []
        if is_string(values.type) and not np.isfinite(self.numbers).all():
            self._join_spellings()

    def _join_spellings(self) -> None:
        """Write the labels that are spelled in several ways in one way."""
        found = pc.unique(self.names).drop_null()
        plain = join_spellings(found.to_pylist())
        if plain:
            self.names = replaced(self.names, found, [plain.get(name, name) for name in found.to_pylist()])
            for label in filter(None, dict.fromkeys(plain.values())):
                ways = [ascii(name) for name, key in plain.items() if key == label]
                if len(ways) > 1:
                    self.notes.append(
                        f"label {label!r} is spelled in {len(ways)} ways ({listed(ways, 4)}), taken as one"
                    )

    def require_all(self, role: str) -> None:
        """Refuse rows without a label.

        Raises:
            DataError: names the first one.
        """
        refuse_unlabelled(self.rows, self.names, self.column, role)

    def kind(self) -> Kind:
        """Regression where most labels are numbers and not all of them integers; else classification."""
        finite = np.isfinite(self.numbers)
        fractional = finite & (self.numbers != np.round(np.where(finite, self.numbers, 0)))
        mostly = self.class_names is None and finite.sum() * 2 > len(self.numbers)
        return "regression" if mostly and fractional.any() else "classification"

    def found(self) -> list[str]:
        """The different labels of the rows: integers by value, then names in order."""
        return sorted(pc.unique(self.names).drop_null().to_pylist(), key=by_value)

    def largest_ratio(self) -> float:
        """Rows of the most frequent label per row of the least frequent one."""
        counts = pc.value_counts(self.names.drop_null()).field("counts")
        return float(pc.max(counts).as_py() / pc.min(counts).as_py()) if len(counts) else 1.0

    def require_classes(self) -> None:
        """Refuse a column with one class only.

        Raises:
            DataError: names the class.
        """
        if len(found := self.found()) < 2:
            raise DataError(
                f"{self.rows.label}: every row has the label {listed(found)} in column {self.column!r}; "
                "a classifier needs two classes or more"
            )

    def __len__(self) -> int:
        return len(self.names)

    def array(self, task: Task, role: str, origin: str) -> NDArray[Any]:
        """[N]: class indexes or scores, as the task has it; see `classes` and `scores`."""
        return self.scores() if task.kind == "regression" else self.classes(task.labels, role, origin)

    def classes(self, labels: Sequence[str], role: str, origin: str) -> NDArray[np.int64]:
        """int64 [N]: index of each row's label in `labels`; where these are names and the column holds integers
        0 … C-1 throughout, the integers are taken as the indexes.

        Args:
            origin: where `labels` come from, for the message.

        Raises:
            DataError: a label that is not in `labels`, with its row.
        """
        numbered = [str(i) for i in range(len(labels))]
        found = set(self.found())
        match = match_labels(sorted(found), labels)
        reversed_booleans = [label.lower() for label in labels] == ["true", "false"]
        by_index = not match and found <= set(numbered) and not reversed_booleans
        names = self.names
        if any(name != label for name, label in match.items()):
            names = replaced(names, pa.array(list(match), pa.large_string()), list(match.values()))
            others = [f"{name!a} for {label!a}" for name, label in match.items() if name != label]
            self.notes.append(f"labels are taken for those of the task in another spelling: {listed(others, 4)}")
        codes = pc.index_in(names, value_set=pa.array(numbered if by_index else list(labels), pa.large_string()))
        row = int(pc.index(codes.is_null(), True).as_py())
        if row >= 0:
            name = self.names[row].as_py()
            hint = did_you_mean(str(name), labels)
            if reversed_booleans and found <= set(numbered):
                hint = " 0 may mean false or the first label: write the labels as names"
            raise DataError(
                f"{self.rows.where(row)}: the {role} label {name!r} is not among {origin}: {listed(labels)}.{hint}"
            )
        return codes.to_numpy(zero_copy_only=False).astype(np.int64)

    def scores(self) -> NDArray[np.float32]:
        """float32 [N].

        Raises:
            DataError: a score that is NaN, infinite or not a number, with its row.
        """
        bad = np.flatnonzero(~np.isfinite(self.numbers))
        if len(bad):
            row = int(bad[0])
            value = self.rows.table[self.column][row].as_py()
            raise DataError(
                f"{self.rows.where(row)}: score {value!r} in column {self.column!r} is not a finite number. "
                "Correct it, or set task.kind: classification if these are names"
            )
        return self.numbers.astype(np.float32)


class Unlabelled:
    """Rows without a label column, in the place of a `LabelColumn`."""

    class_names: list[str] | None = None

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.rows)

    def require_all(self, role: str) -> None:
        """No row has a label, and the user knows."""

    def kind(self) -> Kind:
        return "classification"

    def found(self) -> list[str]:
        return []

    def array(self, task: Task, role: str, origin: str) -> NDArray[Any]:
        """As of a `LabelColumn`, with no label in any row."""
        if task.kind == "regression":
            return np.full(len(self), np.nan, np.float32)
        shape = (len(self), len(task.labels)) if task.kind == "multi-label" else (len(self),)
        return np.full(shape, NO_LABEL, np.int8 if task.kind == "multi-label" else np.int64)


def replaced(names: pa.Array, old: pa.Array, new: Sequence[str]) -> pa.Array:
    """`names` with each of `old` replaced by the value at its place in `new`; others stay, and "" becomes null."""
    values = pa.array([name or None for name in new], pa.large_string())
    codes = pc.index_in(names, value_set=old)
    return pc.if_else(codes.is_valid(), values.take(codes), names)


def refuse_unlabelled(rows: Rows, labels: pa.Array, column: str, role: str) -> None:
    """Refuse rows whose label is null.

    Raises:
        DataError: names the first one.
    """
    row = int(pc.index(pc.is_null(labels), True).as_py())
    if row < 0:
        return
    advice = (
        "Rows without labels go in a file of their own, given as data.extra"
        if role == "train"
        else f"The {role} rows must all be labelled"
    )
    raise DataError(f"{rows.where(row)}: no label in column {column!r}. {advice}")


def _names_and_numbers(values: pa.Array, label: str, column: str) -> tuple[pa.Array, NDArray[np.float64]]:
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = _float64(values.cast(pa.float64()))
        return _float_names(numbers), numbers
    if pa.types.is_integer(kind):
        return values.cast(pa.large_string()), _float64(values.cast(pa.float64(), safe=False))
    if not (pa.types.is_boolean(kind) or pa.types.is_null(kind) or is_string(kind)):
        raise DataError(
            f"{label}: column {column!r} holds {kind}, expected names, integers or scores as labels; lists of labels are for "
            "task.kind: multi-label"
        )
    names = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    names = pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.large_string()), names)
    is_number = pc.match_substring_regex(names, _NUMBER)
    numbers = _float64(pc.if_else(is_number, names, pa.scalar(None, pa.large_string())).cast(pa.float64()))
    if len(numbers) and np.isfinite(numbers).all() and (numbers == np.round(numbers)).all():
        names = pc.replace_substring_regex(names, r"\.0*$", "")  # "1.0", as pandas writes integers beside a gap
    return names, numbers


def _float_names(numbers: NDArray[np.float64]) -> pa.Array:
    names = [
        None if np.isnan(x) else str(int(x)) if np.isfinite(x) and x == int(x) else repr(float(x)) for x in numbers
    ]
    return pa.array(names, pa.large_string())


def _named_classes(values: pa.Array, names: Sequence[str]) -> pa.Array:
    """Integers of a `ClassLabel` column as its names; -1, which `datasets` uses for "no label", becomes null."""
    inside = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(names)))
    index = pc.if_else(inside, values.cast(pa.int64()), pa.scalar(None, pa.int64()))
    return pa.array(names, pa.large_string()).take(index)


def _float64(values: pa.Array) -> NDArray[np.float64]:
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def by_value(name: str) -> tuple[int, float, str]:
    """Sort key: integers by value and before names."""
    try:
        return 0, int(name), name
    except ValueError:
        return 1, 0, name
