"""Units: the positions of a row that have a label and an output distribution of their own, in flat arrays.

A row of a classification or a regression is one unit; in a word table each word is one. A row stays what is loaded, tokenised and
paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indexes = NDArray[np.int64]
Rows = Sequence[int] | NDArray[np.integer]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Units:
    """Row i has the units `offsets[i]` to `offsets[i + 1]`.

    Args:
        offsets: int64 [N + 1], ascending; every row has at least one unit.
    """

    offsets: Indexes

    @classmethod
    def of_sizes(cls, sizes: Sequence[int] | NDArray[np.integer]) -> Units:
        """Rows of so many units."""
        return cls(np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def sizes(self) -> Indexes:
        """int64 [N]: units of each row."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Indexes:
        """int64 [U]: the row of every unit."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.sizes)

    def sizes_of(self, rows: Rows) -> Indexes:
        """int64 [n]: units of some rows; of offsets in a mapped file these alone are read."""
        index = np.asarray(rows, dtype=np.int64)
        return np.asarray(self.offsets[index + 1] - self.offsets[index])

    def of(self, rows: Rows) -> Indexes:
        """int64 [U]: the units of some rows, row by row."""
        index = np.asarray(rows, dtype=np.int64)
        sizes = self.sizes_of(index)
        inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(self.offsets[index], sizes) + inside

    def take(self, rows: Rows) -> Units:
        """Those of some rows, in their order."""
        return Units.of_sizes(self.sizes_of(rows))

    def rows(self, units: NDArray[np.integer]) -> Indexes:
        """int64 [u]: the row of each unit."""
        return np.searchsorted(self.offsets, units, side="right").astype(np.int64) - 1

    def locate(self, units: NDArray[np.integer]) -> tuple[Indexes, Indexes]:
        """The rows of some units, ascending and each once, and where the units stand among all units of these rows, int64 [u]."""
        own = self.rows(units)
        rows = np.unique(own)
        starts = self.take(rows).offsets
        return rows, starts[np.searchsorted(rows, own)] + units - self.offsets[own]

    def progress(self, units: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 [u]: how far within its row each unit stands, 0 the first and 1 the last; 0 of an only one."""
        own = self.rows(units)
        place = (units - self.offsets[own]) / np.maximum(self.offsets[own + 1] - self.offsets[own] - 1, 1)
        return place.astype(np.float32)

    def keys(self, row_keys: Indexes) -> Indexes:
        """int64 [U]: an identity for each unit, from its row's and its place in the row."""
        own = self.owners
        place = (np.arange(len(self)) - self.offsets[own]).astype(np.uint64)
        with np.errstate(over="ignore"):
            return splitmix64(row_keys.view(np.uint64)[own] + place * _GOLDEN).view(np.int64)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of the generator: neighbouring numbers become unrelated ones. The arithmetic of uint64 arrays wraps around."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
