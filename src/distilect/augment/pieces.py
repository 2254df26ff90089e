"""Texts as flat numbers: words and what stands between them, so that a whole table is changed by a few array operations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_PIECE = re.compile(r"\w+|[^\w\s]+|\s+")  # joined, the pieces are the text again


class Vocabulary:
    """Every different piece of the texts, by number."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._number: dict[str, int] = {}

    def add(self, piece: str) -> int:
        """Its number; a new one where it is not known."""
        number = self._number.setdefault(piece, len(self.pieces))
        if number == len(self.pieces):
            self.pieces.append(piece)
        return number

    def where(self, kind: Any) -> NDArray[np.bool_]:
        """bool [V]: the pieces that `kind`, a function of a string, is true of."""
        return np.fromiter((bool(kind(piece)) for piece in self.pieces), np.bool_, len(self.pieces))


@dataclass(frozen=True)
class Pieces:
    """Texts, cut.

    Attributes:
        ids: int64 [T], piece numbers, all texts one after the other.
        offsets: int64 [N + 1], where each text begins.
    """

    ids: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Ints:
        return np.diff(self.offsets)

    @property
    def rows(self) -> Ints:
        """int64 [T]: the text that each piece belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def keep(self, mask: NDArray[np.bool_]) -> Pieces:
        """Without the pieces where `mask`, bool [T], is false."""
        counts = np.concatenate([[0], np.cumsum(mask)])
        return Pieces(self.ids[mask], counts[self.offsets])

    def join(self, vocabulary: Vocabulary) -> pa.Array:
        """The texts, [N] strings, without white space at their ends."""
        words = pa.array(vocabulary.pieces, type=pa.large_string()).take(pa.array(self.ids))
        lists = pa.LargeListArray.from_arrays(pa.array(self.offsets), words)
        joined = pc.binary_join(lists, pa.scalar("", type=pa.large_string()))
        return pc.utf8_trim_whitespace(joined)


def cut(texts: Iterable[str], vocabulary: Vocabulary) -> Pieces:
    """Texts as pieces; about 1 µs per piece."""
    sizes, ids = [0], []
    for text in texts:
        found = _PIECE.findall(text)
        ids += [vocabulary.add(piece) for piece in found]
        sizes.append(len(found))
    return Pieces(np.array(ids, dtype=np.int64), np.cumsum(sizes, dtype=np.int64))


@dataclass(frozen=True)
class Words:
    """The words among the pieces of each text.

    Attributes:
        places: int64 [W], where they stand in `Pieces.ids`.
        rows: int64 [W], their texts.
        starts, counts: int64 [N], the first word of each text among `places`, and how many it has.
    """

    places: Ints
    rows: Ints
    starts: Ints
    counts: Ints

    @classmethod
    def among(cls, pieces: Pieces, mask: NDArray[np.bool_]) -> Words:
        """The pieces where `mask`, bool [T], is true."""
        places = np.flatnonzero(mask)
        rows = pieces.rows[places]
        counts = np.bincount(rows, minlength=len(pieces))
        return cls(places, rows, np.cumsum(counts) - counts, counts)

    def least(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [N]: the least of `values`, [W], in each text; infinity where it has no word."""
        found = np.full(len(self.counts), np.inf)
        filled = np.flatnonzero(self.counts)
        if len(filled):
            found[filled] = np.minimum.reduceat(values, self.starts[filled])
        return found


class Draws:
    """Uniform draws in [0, 1) that are a function of (seed, copy, text, place) and of nothing else.

    So a row's copies are the same in a longer table, in another order, or when more copies are made.

    Args:
        keys: int64 [N], identities of the rows.
        numbers: what the draws are for: seed, copy, column, …
    """

    def __init__(self, keys: Ints, *numbers: int) -> None:
        state = keys.view(np.uint64)
        for number in numbers:
            state = _mix(state ^ _mix(np.array([number % 2**64], dtype=np.uint64)))
        self.state = state
        self.stream = 0

    def rows(self) -> NDArray[np.float64]:
        """float64 [N]; new ones with each call."""
        self.stream += 1
        return _unit(_mix(self.state + np.uint64(self.stream)))

    def words(self, words: Words) -> NDArray[np.float64]:
        """float64 [W]; new ones with each call."""
        self.stream += 1
        place = np.arange(len(words.places)) - words.starts[words.rows]
        state = _mix(self.state + np.uint64(self.stream))
        return _unit(_mix(state[words.rows] ^ _mix(place.astype(np.uint64))))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)
