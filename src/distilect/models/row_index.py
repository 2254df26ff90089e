"""Rows found by identity, never by position: a sorted index of 128-bit ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint64]


class RowIndex:
    """Where rows stand, by id. A million ids take 24 MB; 32 look-ups among them about 30 µs.

    Args:
        ids: uint64 [N, 2]; of equal ids the first one counts.
    """

    def __init__(self, ids: Ids) -> None:
        self._order = np.lexsort((ids[:, 1], ids[:, 0]))
        self._high = np.ascontiguousarray(ids[self._order, 0])
        self._low = np.ascontiguousarray(ids[self._order, 1])

    def __len__(self) -> int:
        return len(self._order)

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """int64 [n]: the position of each id among those given at the start; -1 where it is not there."""
        found = np.full(len(ids), -1, dtype=np.int64)
        place = np.searchsorted(self._high, ids[:, 0])
        open_ = np.arange(len(ids))
        while len(open_):  # once; again only where two rows share their first 64 bits
            open_ = open_[place[open_] < len(self._high)]
            open_ = open_[self._high[place[open_]] == ids[open_, 0]]
            hit = self._low[place[open_]] == ids[open_, 1]
            found[open_[hit]] = self._order[place[open_[hit]]]
            open_ = open_[~hit]
            place[open_] += 1
        return found


def unique_rows(ids: Ids) -> NDArray[np.int64]:
    """One row number per distinct id, sorted by id: the same rows in any order give the same sequence of ids."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    ordered = ids[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order[first]
