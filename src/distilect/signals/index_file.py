"""The index of a large field on disk: opened in constant time, read a few pages at a time.

One file, `index-<listing>-<N>.bin`: three arrays uint64 [N], the high and low halves of the row identities in ascending order, and
where each row stands. Its name holds a hash of the listing of the shards that it indexes, so that an index of other shards is never
opened.

A wrong byte in it can hide a row, which is then scored again, or give a wrong place, which the reader notices: every shard holds
the identities of its rows itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from distilect.files import atomic
from distilect.models.row_index import Ids, RowIndex

_BUCKETS = 256


def open_index(folder: Path, listing: str) -> RowIndex | None:
    """The index of the shards with that hash, mapped; None where there is none."""
    for path in folder.glob(f"index-{listing}-*.bin"):
        with contextlib.suppress(OSError, ValueError):
            index = np.memmap(path, np.uint64, "r").reshape(3, int(path.stem.rpartition("-")[2]))
            return _row_index(index)
    return None


def write_index(folder: Path, listing: str, shards: Callable[[], Iterable[tuple[Ids, int]]]) -> RowIndex:
    """Sort the identities of all shards into a file, in the memory that one shard and one bucket need.

    Identities are hashes, so each bucket of their first 8 bits holds about 1/256 of them.

    Args:
        shards: yields the ids of each shard, uint64 [n, 2], and the place of its first row; it is called twice.
    """
    sizes = np.zeros(_BUCKETS, np.int64)
    for ids, _ in shards():
        sizes += np.bincount(_bucket(ids), minlength=_BUCKETS)
    ends = np.cumsum(sizes)
    with atomic(folder / f"index-{listing}-{ends[-1]}.bin") as temporary:
        with temporary.open(
            "wb"
        ) as file:  # written, not only reserved: a full disk is an error now, a crash once mapped
            for size in sizes.tolist():
                file.write(bytes(3 * 8 * size))
        mapped = np.memmap(temporary, np.uint64, "r+")
        index = mapped.reshape(3, -1)
        free = ends - sizes  # [256], where each bucket's next row goes
        for ids, first in shards():
            bucket = _bucket(ids)
            order = np.argsort(bucket, kind="stable")
            counts = np.bincount(bucket, minlength=_BUCKETS)
            to = np.arange(len(ids)) + np.repeat(free - np.cumsum(counts) + counts, counts)
            index[0, to], index[1, to] = ids[order, 0], ids[order, 1]
            index[2, to] = first + order
            free += counts
        for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
            rows = np.array(index[:, start:end])
            index[:, start:end] = rows[:, np.lexsort(rows[::-1])]  # by high, low, place
        mapped.flush()
    return _row_index(index)


def remove_indexes(folder: Path) -> None:
    """Remove the index files; a process that has mapped one keeps it."""
    for path in folder.glob("index-*.bin"):
        path.unlink(missing_ok=True)


def _row_index(index: Ids) -> RowIndex:
    return RowIndex(index[0], index[1], index[2].view(np.int64))


def _bucket(ids: Ids) -> np.ndarray:
    return (ids[:, 0] >> np.uint64(56)).astype(np.int64)
