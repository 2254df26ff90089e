"""The ways to change texts: a column of texts as pieces goes in, as many texts come out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from distilect.augment.pieces import Draws, Ints, Pieces, Words

Bools = NDArray[np.bool_]
_CANDIDATES = (
    128  # rows of which the nearest one becomes the partner; of few rows a tenth, or it would always be the same
)
_BLOCK = 1024  # rows whose candidates are held at once


def neighbours(pieces: Pieces, able: Bools, table: Ints, draws: Draws, probability: float) -> Pieces:
    """Replace words by one of those that may stand for them, each with `probability`, one at least.

    Args:
        able: bool [V]: pieces that have any.
        table: int64 [V, k]: those, as pieces.
    """
    words = Words.among(pieces, able[pieces.ids])
    chosen = some_words(words, draws, probability)
    which = (draws.words(words)[chosen] * table.shape[1]).astype(np.int64)
    ids = pieces.ids.copy()
    ids[words.places[chosen]] = table[pieces.ids[words.places[chosen]], which]
    return Pieces(ids, pieces.offsets)


def some_words(words: Words, draws: Draws, probability: float) -> Bools:
    """bool [W]: each word with `probability`; of a text where none is drawn, the one with the least draw."""
    drawn = draws.words(words)
    return (drawn < probability) | (drawn == words.least(drawn)[words.rows])


def swap(pieces: Pieces, words: Words, draws: Draws, probability: float) -> Pieces:
    """Exchange two random words, as often as `probability` of a text's words, once at least."""
    ids, counts = pieces.ids.copy(), words.counts
    times = np.maximum(1, np.round(probability * counts)).astype(np.int64)
    for time in range(int(times.max(initial=0))):
        on = np.flatnonzero((counts > 1) & (time < times))
        first = (draws.rows()[on] * counts[on]).astype(np.int64)
        second = (first + 1 + (draws.rows()[on] * (counts[on] - 1)).astype(np.int64)) % counts[on]
        a, b = words.places[words.starts[on] + first], words.places[words.starts[on] + second]
        ids[a], ids[b] = ids[b], ids[a]
    return Pieces(ids, pieces.offsets)


def delete(pieces: Pieces, words: Words, is_space: Bools, draws: Draws, probability: float) -> Pieces:
    """Leave words out, each with `probability`, one at least and never all; the space before each goes with it.

    Args:
        is_space: bool [V].
    """
    gone = some_words(words, draws, probability)
    remain = np.bincount(words.rows[~gone], minlength=len(pieces))
    order = draws.words(words)
    gone &= (remain[words.rows] > 0) | (order != words.least(order)[words.rows])  # one of them stays
    places, rows = words.places[gone], words.rows[gone]
    first = places == pieces.offsets[rows]
    beside = np.where(first, places + 1, places - 1)
    beside = beside[beside < pieces.offsets[rows + 1]]  # a first word may be the last piece, too
    keep = np.ones(len(pieces.ids), dtype=bool)
    keep[places] = False
    keep[beside[is_space[pieces.ids[beside]]]] = False
    return pieces.keep(keep)


def crossover(pieces: Pieces, words: Words, partner: Ints, draws: Draws) -> Pieces:
    """The head of each text with the tail of its partner's, both cut at the same share of their words, 1/4 to 3/4.

    Args:
        partner: int64 [N], a text number each.
    """
    share = 0.25 + 0.5 * draws.rows()
    mine = _cut(pieces, words, np.arange(len(pieces)), share)
    theirs = _cut(pieces, words, partner, share)
    starts = np.stack([pieces.offsets[:-1], theirs], axis=1)
    sizes = np.stack([mine, pieces.offsets[partner + 1]], axis=1) - starts  # [N, 2]: head, tail
    offsets = np.concatenate([[0], np.cumsum(sizes.sum(1))])
    return Pieces(pieces.ids[_ranges(starts.reshape(-1), sizes.reshape(-1))], offsets)


def _cut(pieces: Pieces, words: Words, rows: Ints, share: NDArray[np.float64]) -> Ints:
    """int64 [N]: the place of the word that stands at that share of a text's words; its start where it has none."""
    counts = words.counts[rows]
    number = (share * counts).astype(np.int64)
    if not len(words.places):
        return pieces.offsets[rows]
    place = words.places[np.minimum(words.starts[rows] + number, len(words.places) - 1)]
    return np.where(counts > 0, place, pieces.offsets[rows])


def _ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, …: `sizes` numbers for each start, one after the other."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - (ends - sizes), sizes)


def partners(vectors: NDArray[np.float32] | None, count: int, draws: Draws) -> Ints:
    """int64 [N]: for each row the nearest of up to 128 others drawn at random; without vectors, one drawn.

    Args:
        vectors: float32 [N, H] of length 1.
        count: N.
    """
    if count < 2:
        return np.zeros(count, np.int64)
    each = np.arange(count)
    candidates = 1 if vectors is None else min(_CANDIDATES, -(-count // 10))
    drawn = np.stack([draws.rows() for _ in range(candidates)], axis=1)
    others = (each[:, None] + 1 + (drawn * (count - 1)).astype(np.int64)) % count  # never the row itself
    if vectors is None:
        return others[:, 0]
    best = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        similar = np.einsum("nh,nch->nc", vectors[block], vectors[others[block]])
        best[block] = similar.argmax(1)
    return others[each, best]


def row_vectors(columns: list[Pieces], vectors: NDArray[np.float32], width: int = 64) -> NDArray[np.float32]:
    """float32 [N, 64]: the mean of the rows' word vectors, randomly projected (which keeps angles, at a sixth of the cost).

    Args:
        vectors: float32 [V, H], 0 for a piece that has none.
    """
    rng = np.random.default_rng(0)
    small = vectors @ rng.normal(size=(vectors.shape[1], width)).astype(np.float32)
    total = np.zeros((len(columns[0]), width), np.float32)
    for pieces in columns:
        ones = np.ones(len(pieces.ids), np.float32)
        shape = (len(pieces), len(vectors))
        total += csr_matrix((ones, pieces.ids, pieces.offsets), shape=shape) @ small
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)
