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

from distilect.data.tokens import Tokens
from distilect.data.units import Units
from distilect.errors import DataError
from distilect.tasks import NO_LABEL, has_label

_STRETCH = 1 << 20  # rows or units, a multiple of 8, whose labels are in memory at a time
CHUNK = 16_384  # rows that exist as Python strings at a time
WORD_END = "\x1f"  # between the words of a row of a word table: the ASCII unit separator, which no text holds


@dataclass(frozen=True, eq=False)
class Table:
    """Immutable rows of one or two texts, of words, or of a language model's tokens.

    Args:
        texts: one or two Arrow arrays of strings, [N] each. Of a word table one, of words with `WORD_END` between them.
        labels: int64 [N] class indexes, -100 = no label; float32 [N] scores, NaN = none; or, multi-label, int8 [N, C] of 0 and 1,
            -100 in rows without labels. Of a word table int64 [U], all rows one after the other; of tokens int32 [U]: 0, or -100
            where the text is no label.
        ids: uint64 [N, 2], `row_identity` of each row. Rows with equal texts have equal ids, whatever their labels.
        folder: of its mapped files, if it is larger than memory (`data.on_disk`).
        units: the words of each row, or the tokens that are to be learned; None: a row is one unit.
        tokens: of a table for language models, whose texts are read by one tokenizer only.
        keys: int64 [U], `unit_keys` of a mapped word table, from a file.
    """

    texts: tuple[pa.Array, ...]
    labels: NDArray[Any]
    ids: NDArray[np.uint64]
    folder: Path | None = None
    units: Units | None = None
    tokens: Tokens | None = None
    keys: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        texts = tuple(_flat(column) for column in self.texts)
        object.__setattr__(self, "texts", texts)
        if len(texts) not in (1, 2):
            raise DataError(f"a table has one text or two per row, got {len(texts)}")
        rows = len(self.labels) if self.units is None else len(self.units.offsets) - 1
        sizes = {rows, len(self.ids), *map(len, texts)}
        if len(sizes) != 1:
            raise DataError(f"texts, labels and ids differ in length: {sorted(sizes)}")
        if self.units is not None and len(self.labels) != len(self.units):
            raise DataError(f"{len(self.labels)} labels for {len(self.units)} units")

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

    @classmethod
    def from_words(cls, rows: Sequence[Sequence[str]], labels: Sequence[Sequence[int]] | None = None) -> Table:
        """A word table: rows of words, each with a class index per word.

        Raises:
            DataError: a row has no words, another number of labels than words, or a word that holds `WORD_END`.

        Example:
            >>> Table.from_words([["Ada", "lives"], ["here"]], [[1, 0], [0]]).labels.tolist()
            [1, 0, 0]
        """
        for number, words in enumerate(rows):
            if not words:
                raise DataError(f"row {number + 1} has no words")
            if any(WORD_END in word for word in words):
                raise DataError(f"row {number + 1}: a word holds the control character \\x1f: clean it")
            if labels is not None and len(labels[number]) != len(words):
                raise DataError(f"row {number + 1} has {len(words)} words and {len(labels[number])} labels")
        texts, units = to_strings([WORD_END.join(words) for words in rows]), Units.of_sizes([len(row) for row in rows])
        flat = [NO_LABEL] * len(units) if labels is None else [label for row in labels for label in row]
        return cls((texts,), np.array(flat, dtype=np.int64), identities([texts]), units=units)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def of_words(self) -> bool:
        """Whether rows are lists of words."""
        return self.units is not None and self.tokens is None

    @property
    def num_units(self) -> int:
        """Words of a word table; else the rows."""
        return len(self.labels)

    @property
    def num_labelled_units(self) -> int:
        """How many words of a word table have a label; else the rows."""
        if self.units is None:
            return self.num_labelled
        return sum(int(np.count_nonzero(has_label(labels))) for labels in self._label_blocks())

    @property
    def offsets(self) -> NDArray[np.int64] | None:
        """int64 [N + 1]: where the words of each row begin in `labels`; None where a row is one unit."""
        return None if self.units is None else self.units.offsets

    def unit_index(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """int64 [U]: where the units of some rows stand in `labels`, row by row."""
        return np.asarray(rows, dtype=np.int64) if self.units is None else self.units.of(rows)

    def unit_keys(self) -> NDArray[np.int64]:
        """int64 [U]: a key per unit for random draws; of equal texts they are equal."""
        if self.keys is not None:
            return self.keys
        keys = row_keys(self.ids)
        return keys if self.units is None else self.units.keys(keys)

    def locate(self, units: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of some units (int64 [u], places in `labels`), and where the units stand among all units of these rows, [u].

        Of a word table the rows are ascending and there once each; else they are the units.
        """
        if self.units is not None:
            return self.units.locate(units)
        return np.asarray(units, dtype=np.int64), np.arange(len(units))

    @property
    def num_texts(self) -> int:
        """1, or 2 for pairs."""
        return len(self.texts)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """bool [N]; of a word table the rows with a labelled word."""
        known = np.asarray(has_label(np.asarray(self.labels)))
        return known if self.units is None else np.logical_or.reduceat(known, self.units.offsets[:-1])

    @property
    def num_labelled(self) -> int:
        """How many rows have a label."""
        if self.units is None:
            return sum(int(has_label(labels).sum()) for labels in self._label_blocks())
        found = 0
        for start in range(0, len(self), CHUNK):
            begins = self.units.offsets[start : start + CHUNK + 1]
            known = has_label(np.asarray(self.labels[begins[0] : begins[-1]]))
            found += int(np.logical_or.reduceat(known, begins[:-1] - begins[0]).sum())
        return found

    def _label_blocks(self) -> Iterator[NDArray[Any]]:
        """The labels in blocks: those of a mapped table are never all in memory."""
        for start in range(0, len(self.labels), _STRETCH):
            yield np.asarray(self.labels[start : start + _STRETCH])

    def text(self, rows: Sequence[int] | NDArray[np.integer]) -> list[tuple[str, ...]]:
        """The texts of `rows`, a tuple of one or two strings each; the words of a word table are joined by spaces."""
        if self.of_words:
            return [(" ".join(words),) for words in self.words(rows)]
        index = pa.array(np.asarray(rows, dtype=np.int64))
        return list(zip(*(column.take(index).to_pylist() for column in self.texts), strict=True))

    def words(self, rows: Sequence[int] | NDArray[np.integer]) -> list[list[str]]:
        """The words of some rows of a word table; of one of tokens, what each token to be learned stands for in the text."""
        index = pa.array(np.asarray(rows, dtype=np.int64))
        if self.tokens is not None and self.units is not None:
            return self.tokens.pieces(
                self.texts[0].take(index).to_pylist(), self.units, np.asarray(rows, dtype=np.int64)
            )
        return [text.split(WORD_END) for text in self.texts[0].take(index).to_pylist()]

    def chunks(self, size: int = CHUNK) -> Iterator[list[list[str]]]:
        """Blocks of `size` rows in order, as one list of strings per text; words are joined by spaces."""
        blocks = _blocks(self.texts, size)
        if not self.of_words:
            return blocks
        return ([[text.replace(WORD_END, " ") for text in column] for column in block] for block in blocks)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Table:
        """The table of `rows`, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        texts = tuple(column.take(pa.array(index)) for column in self.texts)
        units = None if self.units is None else self.units.take(index)
        tokens = None if self.tokens is None else self.tokens.take(index, self.unit_index(index))
        return Table(texts, self.labels[self.unit_index(index)], self.ids[index], units=units, tokens=tokens)

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
        units = [table.units for table in tables]
        if len({one is None for one in units}) != 1:
            raise DataError("tables of words and tables of texts cannot be joined")
        tokens = [table.tokens for table in tables if table.tokens is not None]
        if tokens and len(tokens) != len(tables):
            raise DataError("tables for language models and other tables cannot be joined")
        columns = zip(*(table.texts for table in tables), strict=True)
        texts = tuple(pa.concat_arrays(list(parts)) for parts in columns)
        joined = [one.sizes for one in units if one is not None]
        labels, ids = np.concatenate([t.labels for t in tables]), np.concatenate([t.ids for t in tables])
        all_units = Units.of_sizes(np.concatenate(joined)) if joined else None
        return Table(texts, labels, ids, units=all_units, tokens=Tokens.concat(tokens) if tokens else None)

    def without_labels(self) -> Table:
        """The same rows, none of them labelled."""
        empty = np.nan if self.labels.dtype.kind == "f" else NO_LABEL
        return Table(self.texts, np.full_like(self.labels, empty), self.ids, units=self.units, tokens=self.tokens)

    def fingerprint(self) -> str:
        """16 hex digits over texts, labels and the order of the rows."""
        kind = self.labels.dtype if self.units is None else "words" if self.of_words else "tokens"
        digest = hashlib.sha256(f"{kind} {len(self)} ".encode())
        if self.tokens is not None:
            digest.update(self.tokens.ids.data)
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
