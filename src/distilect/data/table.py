"""Rows of text with labels and a content hash as identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilect.errors import DataError
from distilect.tasks import NO_LABEL, has_label

_STRETCH = 1 << 20  # rows, a multiple of 8, whose labels are in memory at a time
CHUNK = 16_384  # rows that exist as Python strings at a time


@dataclass(frozen=True, eq=False)
class Table:
    """Immutable rows of one or two texts.

    Args:
        texts: one or two Arrow arrays of strings, [N] each.
        labels: int64 [N] class indexes, -100 = no label; float32 [N] scores, NaN = none; or, multi-label, int8 [N, C] of 0 and 1,
            -100 in rows without labels.
        ids: uint64 [N, 2], `row_identity` of each row. Rows with equal texts have equal ids, whatever their labels.
        folder: of its mapped files, if it is larger than memory (`data.on_disk`).
    """

    texts: tuple[pa.Array, ...]
    labels: NDArray[Any]
    ids: NDArray[np.uint64]
    folder: Path | None = None

    def __post_init__(self) -> None:
        texts = tuple(_flat(column) for column in self.texts)
        object.__setattr__(self, "texts", texts)
        if len(texts) not in (1, 2):
            raise DataError(f"a table has one text or two per row, got {len(texts)}")
        sizes = {len(self.labels), len(self.ids), *map(len, texts)}
        if len(sizes) != 1:
            raise DataError(f"texts, labels and ids differ in length: {sorted(sizes)}")

    @classmethod
    def from_texts(cls, texts: Sequence[str | tuple[str, str]], labels: Iterable[float] | None = None) -> Table:
        """A table from Python values; integer labels are class indexes, others scores; lists of 0 and 1 are multi-label.

        Example:
            >>> Table.from_texts(["a fine film", "dull"], [1, 0]).labels.tolist()
            [1, 0]
        """
        tuples = [(row,) if isinstance(row, str) else tuple(row) for row in texts]
        width = len(tuples[0]) if tuples else 1
        if any(len(row) != width for row in tuples):
            raise DataError("every row of a table has the same number of texts, got rows with one and with two")
        columns = [to_strings([row[i] for row in tuples]) for i in range(width)]
        return cls.from_columns(columns, labels)

    @classmethod
    def from_columns(cls, texts: Sequence[pa.Array], labels: Iterable[float] | None = None) -> Table:
        """A table from Arrow string columns. Computing the identities takes about 2 s per million rows."""
        columns = tuple(_flat(column) for column in texts)
        array = np.full(len(columns[0]), NO_LABEL) if labels is None else np.asarray(labels)
        kind: Any = np.int64 if array.dtype.kind in "iub" or not array.size else np.float32
        kind = np.int8 if array.ndim == 2 else kind
        return cls(columns, array.astype(kind), identities(columns))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_texts(self) -> int:
        """1, or 2 for pairs."""
        return len(self.texts)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """bool [N]."""
        return np.asarray(has_label(np.asarray(self.labels)))

    @property
    def num_labelled(self) -> int:
        """How many rows have a label."""
        return sum(int(has_label(labels).sum()) for labels in self._label_blocks())

    def _label_blocks(self) -> Iterator[NDArray[Any]]:
        """The labels in blocks: those of a mapped table are never all in memory."""
        for start in range(0, len(self), _STRETCH):
            yield np.asarray(self.labels[start : start + _STRETCH])

    def text(self, rows: Sequence[int] | NDArray[np.integer]) -> list[tuple[str, ...]]:
        """The texts of `rows`, a tuple of one or two strings each."""
        index = pa.array(np.asarray(rows, dtype=np.int64))
        return list(zip(*(column.take(index).to_pylist() for column in self.texts), strict=True))

    def chunks(self, size: int = CHUNK) -> Iterator[list[list[str]]]:
        """Blocks of `size` rows in order, as one list of strings per text."""
        return _blocks(self.texts, size)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Table:
        """The table of `rows`, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        texts = tuple(column.take(pa.array(index)) for column in self.texts)
        return Table(texts, self.labels[index], self.ids[index])

    @staticmethod
    def concat(tables: Sequence[Table]) -> Table:
        """The rows of all `tables`, one after the other.

        Raises:
            DataError: tables of one text and of two, or of different kinds of labels.
        """
        if len({table.num_texts for table in tables}) != 1:
            raise DataError("tables with one text and with two texts per row cannot be joined")
        if len({(table.labels.dtype, *table.labels.shape[1:]) for table in tables}) != 1:
            raise DataError("tables with different kinds of labels (classes, scores, several per row) cannot be joined")
        columns = zip(*(table.texts for table in tables), strict=True)
        texts = tuple(pa.concat_arrays(list(parts)) for parts in columns)
        return Table(texts, np.concatenate([t.labels for t in tables]), np.concatenate([t.ids for t in tables]))

    def without_labels(self) -> Table:
        """The same rows, none of them labelled."""
        empty = np.nan if self.labels.dtype.kind == "f" else NO_LABEL
        return Table(self.texts, np.full_like(self.labels, empty), self.ids)

    def fingerprint(self) -> str:
        """16 hex digits over texts, labels and the order of the rows."""
        digest = hashlib.sha256(f"{self.labels.dtype} {len(self)} ".encode())
        digest.update(np.ascontiguousarray(self.ids).data)
        for labels in self._label_blocks():
            known = has_label(labels).reshape(-1, *[1] * (labels.ndim - 1))
            digest.update(np.where(known, labels, labels.dtype.type(0)).data)
        for labels in self._label_blocks():
            digest.update(np.packbits(has_label(labels)).data)
        return digest.hexdigest()[:16]


def row_identity(texts: Sequence[str]) -> tuple[int, int]:
    """128-bit content hash of a row as (high, low) 64-bit halves.

    Each text is hashed with its length before it, so that ("ab", "c"), ("a", "bc") and ("abc",) differ.
    """
    digest = _digest(texts)
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def identities(texts: Sequence[pa.Array]) -> NDArray[np.uint64]:
    """uint64 [N, 2]: `row_identity` of every row of one or two string columns."""
    digests = [
        b"".join(map(_digest, zip(*block, strict=True))) for block in _blocks([_flat(column) for column in texts])
    ]
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def row_keys(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64 [N]: a key per row for random draws; equal texts have equal keys."""
    return np.ascontiguousarray(ids[:, 0]).view(np.int64)


def to_strings(values: Sequence[str | None], where: Callable[[int], str] = lambda row: f"row {row + 1}") -> pa.Array:
    """An Arrow column of strings (64-bit offsets: more than 2 GB of text fits).

    Args:
        where: index → how the message names that row.

    Raises:
        DataError: a text that has no UTF-8 form (a lone surrogate), with its row.
    """
    try:
        return pa.array(values, type=pa.large_string())
    except UnicodeEncodeError:
        row = next(i for i, text in enumerate(values) if text and any("\ud800" <= char <= "\udfff" for char in text))
        raise DataError(
            f"{where(row)}: the text holds a lone surrogate (\\ud800 to \\udfff), which UTF-8 cannot store: clean it"
        ) from None


def _digest(texts: Sequence[str]) -> bytes:
    parts = [text.encode() for text in texts]
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.blake2b(framed, digest_size=16).digest()


def _blocks(columns: Sequence[pa.Array], size: int = CHUNK) -> Iterator[list[list[str]]]:
    for start in range(0, len(columns[0]), size):
        yield [column.slice(start, size).to_pylist() for column in columns]


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array of 64-bit-offset strings."""
    if column.type != pa.large_string():
        column = column.cast(pa.large_string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
