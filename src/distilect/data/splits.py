"""The validation split: rows held out of train; repeats of a text stay on one side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distilect.data.table import Table
from distilect.data.units import Units, splitmix64
from distilect.errors import DataError

Indexes = NDArray[np.int64]


def hold_out(table: Table, size: float, seed: int) -> tuple[Indexes, Indexes]:
    """Split rows into (kept, held out), both in table order.

    Different texts are drawn, by (seed, text), not rows: repeats of a text never straddle the split and the order of
    the file does not matter. Classes keep their shares, and each keeps at least one text in train. Of several labels a row counts
    to its rarest one, of which there are the fewest to share out; so does a row of words to its rarest tag.

    Args:
        size: share (<1) or number (≥1) of rows to hold out; duplicates can make it miss by a few rows.

    Raises:
        DataError: nothing would be left on one side.
    """
    if size <= 0:
        return np.arange(len(table)), np.empty(0, np.int64)
    target = max(1, round(size * len(table))) if size < 1 else int(size)
    _, first, group, counts = np.unique(table.ids, axis=0, return_index=True, return_inverse=True, return_counts=True)
    if not 0 < target < len(table) or len(first) < 2:
        raise DataError(
            f"cannot hold {target} rows out of {len(table)} ({len(first)} different texts): "
            "set data.validation_size so that both sides get rows, or give a file as data.validation"
        )
    draws = _draw(table.ids[first], seed)
    strata = [
        members[np.argsort(draws[members], kind="stable")] for members in _strata(table, group.reshape(-1), len(first))
    ]
    sizes = np.array([counts[members].sum() for members in strata])
    out = np.zeros(len(first), dtype=bool)
    for members, quota in zip(strata, _apportion(sizes, target), strict=True):
        movable = members[:-1]  # one text stays, so that train knows the class
        out[_fill(movable, counts, int(quota))] = True
    if not out.any():  # every text is repeated more often than its class's quota: take the least repeated
        some = np.concatenate([members[:-1] for members in strata])
        if not len(some):
            raise DataError(
                f"cannot hold rows out of {len(table)}: each class has one text only. Give a file as data.validation"
            )
        out[some[np.argmin(counts[some])]] = True
    held = out[group.reshape(-1)]
    return np.flatnonzero(~held), np.flatnonzero(held)


def fold_of(ids: NDArray[np.uint64], folds: int) -> NDArray[np.int64]:
    """int64 [N]: the fold of each row, from 0, by its identity alone: repeats of a text share one."""
    return np.asarray((ids[:, 1] % np.uint64(folds)).astype(np.int64))


def validation_by_draw(ids: NDArray[np.uint64], share: float, seed: int) -> NDArray[np.bool_]:
    """bool [N]: rows of a table that is too large to be compared with itself; about `share` of its different texts.

    Repeats stay on one side here too; classes keep their shares on average.
    """
    return (_draw(ids, seed) >> np.uint64(11)).astype(np.float64) < share * 2.0**53


def _strata(table: Table, group: Indexes, num_texts: int) -> list[Indexes]:
    """Numbers of different texts by class; one stratum for scores.

    Args:
        group: [N] number of each row's text.
    """
    if table.labels.dtype.kind == "f":
        return [np.arange(num_texts)]
    if table.units is not None:
        classes = _rarest_tag(table.labels, table.units)
    else:
        classes = table.labels if table.labels.ndim == 1 else _rarest_label(table.labels)
    labels = np.full(num_texts, np.iinfo(np.int64).max)
    np.minimum.at(labels, group, classes)  # repeats that disagree: the lowest, whatever their order
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


def _rarest_label(labels: NDArray[np.int8]) -> Indexes:
    """int64 [N]: of each row's labels the one with the fewest rows; C for a row that has none of them.

    Args:
        labels: int8 [N, C].
    """
    rows = (labels == 1).sum(axis=0)
    rarity = np.where(labels == 1, rows, len(labels) + 1)
    return np.where((labels == 1).any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(np.int64)


def _rarest_tag(labels: Indexes, units: Units) -> Indexes:
    """int64 [N]: of the tags of each row's words the one that the fewest rows have.

    Args:
        labels: int64 [U], -100 for words without a tag.
    """
    tags, place = np.unique(labels, return_inverse=True)
    own = np.repeat(np.arange(len(units.sizes)), units.sizes)
    rows = np.bincount(np.unique(own * len(tags) + place) % len(tags), minlength=len(tags))
    rank = np.empty(len(tags), np.int64)
    rank[np.argsort(rows, kind="stable")] = np.arange(len(tags))  # 0: the rarest
    return np.asarray(tags[np.argsort(rank)[np.minimum.reduceat(rank[place], units.offsets[:-1])]])


def _fill(members: Indexes, counts: Indexes, quota: int) -> list[int]:
    """The first of `members` whose rows fit into `quota` together; one with too many repeats is passed over."""
    taken, room = [], quota
    for member in members:
        if room == 0:
            break
        if counts[member] <= room:
            taken.append(int(member))
            room -= int(counts[member])
    return taken


def _apportion(sizes: NDArray[np.int64], target: int) -> NDArray[np.int64]:
    """Whole quotas in proportion to `sizes` that sum to `target`: largest remainders, ties to the first."""
    exact = sizes * (target / sizes.sum())
    quotas = np.floor(exact).astype(np.int64)
    rest = target - int(quotas.sum())
    quotas[np.argsort(-(exact - quotas), kind="stable")[:rest]] += 1
    return quotas


def _draw(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """uint64 [N]: a random number per identity (splitmix64 of both halves and the seed)."""
    start = np.uint64(seed % 2**64)
    with np.errstate(over="ignore"):
        return splitmix64(splitmix64(splitmix64(ids[:, 0] + start) ^ ids[:, 1]) + start)
