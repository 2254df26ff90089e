"""Texts as arrays of numbers, so that a few array operations change a whole table; and the random choice of words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.data.table import WORD_END
from distilect.data.units import splitmix64

Ints = NDArray[np.int64]
_PIECE = re.compile(r"\w+|[^\w\s]+|\s+")  # joined, the pieces are the text again
_WORD = re.compile(f"{WORD_END}|[^{WORD_END}]+")


class Vocabulary:
    """Every different piece of the texts, by number."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._number: dict[str, int] = {}

    def add(self, piece: str) -> int:
        """Its number; a new one for a new piece."""
        number = self._number.setdefault(piece, len(self.pieces))
        if number == len(self.pieces):
            self.pieces.append(piece)
        return number


@dataclass(frozen=True)
class Pieces:
    """A column of texts, cut into words, punctuation and white space; of a word table, into its words and what stands between them.

    Attributes:
        ids: int64 [T], piece numbers, all texts one after the other.
        offsets: int64 [N + 1], where each text begins.
    """

    ids: Ints
    offsets: Ints

    @classmethod
    def cut(cls, texts: Iterable[str], vocabulary: Vocabulary, words: bool = False) -> Pieces:
        """About 1 µs per piece; `words`: of texts that are words with `WORD_END` between them."""
        sizes, ids, pattern = [0], [], _WORD if words else _PIECE
        for text in texts:
            found = pattern.findall(text)
            ids += [vocabulary.add(piece) for piece in found]
            sizes.append(len(found))
        return cls(np.array(ids, dtype=np.int64), np.cumsum(sizes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> Ints:
        """int64 [T]: the text that each piece belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def join(self, ids: Ints, vocabulary: Vocabulary) -> pa.Array:
        """The texts with `ids` in place of their own pieces: [N] strings, without white space at their ends."""
        words = pa.array(vocabulary.pieces, type=pa.large_string()).take(pa.array(ids))
        lists = pa.LargeListArray.from_arrays(pa.array(self.offsets), words)
        joined = pc.binary_join(lists, pa.scalar("", type=pa.large_string()))
        return pc.utf8_trim_whitespace(joined)


@dataclass(frozen=True)
class Chosen:
    """The words that one copy of a column replaces.

    Attributes:
        places: int64 [W], their positions in `Pieces.ids`, ascending.
        rows: int64 [W], their texts.
        draws: float64 [W] in [0, 1), which choose the replacements.
    """

    places: Ints
    rows: Ints
    draws: NDArray[np.float64]


def choose_words(
    pieces: Pieces,
    able: NDArray[np.bool_],
    state: NDArray[np.uint64],
    share: float,
    stays: NDArray[np.bool_] | None = None,
) -> Chosen:
    """Choose each replaceable word with probability `share`, and at least one word of each text that has any.

    Args:
        able: bool [V], the pieces that can be replaced.
        state: uint64 [N], see `random_state`.
        stays: bool [T], pieces that are not replaced.
    """
    places = np.flatnonzero(able[pieces.ids] if stays is None else able[pieces.ids] & ~stays)
    rows = pieces.rows[places]
    counts = np.bincount(rows, minlength=len(pieces))
    starts = np.cumsum(counts) - counts
    word = splitmix64((np.arange(len(places)) - starts[rows]).astype(np.uint64))  # a word's number in its text
    drawn, which = (_unit(splitmix64(splitmix64(state + np.uint64(stream))[rows] ^ word)) for stream in (1, 2))
    least = np.full(len(pieces), np.inf)
    least[counts > 0] = np.minimum.reduceat(drawn, starts[counts > 0]) if len(places) else np.inf
    chosen = (drawn < share) | (drawn == least[rows])
    return Chosen(places[chosen], rows[chosen], which[chosen])


def random_state(keys: Ints, *numbers: int) -> NDArray[np.uint64]:
    """uint64 [N]: the origin of all draws for some rows, a function of `keys` and `numbers` and of nothing else.

    A row's copies therefore stay the same in a longer table, in another order, and when more copies are made.

    Args:
        keys: int64 [N], identities of the rows.
        numbers: what the draws are for: seed, copy, column.
    """
    state = keys.view(np.uint64)
    for number in numbers:
        state = splitmix64(state ^ splitmix64(np.array([number % 2**64], dtype=np.uint64)))
    return state


def row_draws(state: NDArray[np.uint64]) -> NDArray[np.float64]:
    """float64 [N] in [0, 1)."""
    return _unit(splitmix64(state + np.uint64(1)))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)
