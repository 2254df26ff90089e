"""An index of row identities on disk, for fields of many millions of rows: opened in constant time, read by a few pages.

    FIELD/index/ids.bin       uint64 [N, 2], ascending
    FIELD/index/places.bin    int64 [N]: where each of them stands, counted over all shards
    FIELD/index/index.json    what it was made of: shards with sizes, times and rows; written last

A wrong byte in it can hide a row, which is then scored again, or name a wrong place, which the reader notices: every shard holds
the identities of its rows itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.models.row_index import Ids

INDEX = "index"
_BUCKETS = 256  # of the first 8 bits of identities, which are hashes: each bucket holds about 1/256 of the rows
_HELD = 1 << 19  # rows that wait before they are written to their buckets
_ROUND = 1 << 16  # ids that are looked up at a time
Stamp = tuple[int, int]  # size and time of a file


class DiskIndex:
    """Where rows stand, by id; as `RowIndex`, from mapped files."""

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.directory = content["directory"]
        self.names: list[str] = [name for name, _, _, _ in content["shards"]]
        self.starts = np.cumsum([0, *(rows for _, _, _, rows in content["shards"])])
        count = int(content["rows"])
        shape = {"ids": (count, 2), "places": (count,)}
        types: dict[str, Any] = {"ids": np.uint64, "places": np.int64}
        self._ids, self._places = (
            np.memmap(folder / INDEX / f"{name}.bin", types[name], "r", shape=shape[name])
            if count
            else np.empty(shape[name], types[name])
            for name in ("ids", "places")
        )

    @classmethod
    def open(cls, folder: Path, stamps: Mapping[str, Stamp]) -> DiskIndex | None:
        """The index of exactly these shards; None where there is none."""
        try:
            content = json.loads((folder / INDEX / "index.json").read_text(encoding="utf-8"))
            made_of = {name: (size, time) for name, size, time, _ in content["shards"]}
            return cls(folder, content) if made_of == dict(stamps) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    @contextlib.contextmanager
    def writer(cls, folder: Path) -> Iterator[IndexWriter]:
        """Takes in shard by shard; the index is there when the block ends without an error."""
        writer = IndexWriter(folder)
        try:
            yield writer
            writer.finish()
        finally:
            shutil.rmtree(writer.work, ignore_errors=True)

    def is_of_now(self) -> bool:
        """Whether no file of the folder came, went or was renamed since."""
        with contextlib.suppress(OSError):
            return bool(os.stat(self.folder).st_mtime_ns == self.directory)
        return False

    def __len__(self) -> int:
        return len(self._places)

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """int64 [n]: the place of each id; -1 where it is not there."""
        parts = [self._find(np.asarray(ids[i : i + _ROUND])) for i in range(0, len(ids), _ROUND)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _find(self, ids: Ids) -> NDArray[np.int64]:
        """Binary search, all ids at once, in ascending order: pages are read once and forward."""
        order = np.argsort(ids[:, 0], kind="stable")
        wanted = ids[order]
        low = np.zeros(len(ids), np.int64)
        high = np.full(len(ids), len(self), np.int64)
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            found, sought = self._ids[middle], wanted[open_]
            less = (found[:, 0] < sought[:, 0]) | ((found[:, 0] == sought[:, 0]) & (found[:, 1] < sought[:, 1]))
            low[open_] = np.where(less, middle + 1, low[open_])
            high[open_] = np.where(less, high[open_], middle)
        places = np.full(len(ids), -1, np.int64)
        inside = np.flatnonzero(low < len(self))
        hit = inside[(self._ids[low[inside]] == wanted[inside]).all(1)]
        places[order[hit]] = self._places[low[hit]]
        return places


class IndexWriter:
    """Sorts identities through files, so that memory holds one bucket at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / f"{INDEX}.{os.getpid()}.tmp"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.shards: list[tuple[str, int, int, int]] = []
        self.rows = 0
        self.index: DiskIndex | None = None
        self._waiting: list[tuple[Ids, NDArray[np.int64]]] = []
        self._held = 0

    def add(self, name: str, stamp: Stamp, ids: Ids) -> None:
        """One shard, in the order of places."""
        self._waiting.append((ids, np.arange(self.rows, self.rows + len(ids))))
        self._held += len(ids)
        self.rows += len(ids)
        self.shards.append((name, *stamp, len(ids)))
        if self._held >= _HELD:
            self._spill()

    def _spill(self) -> None:
        """Append what is held to the buckets."""
        if not self._held:
            return
        ids = np.concatenate([ids for ids, _ in self._waiting])
        lines = np.column_stack([ids, np.concatenate([p for _, p in self._waiting]).astype(np.uint64)])
        self._waiting, self._held = [], 0
        bucket = (ids[:, 0] >> np.uint64(56)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(_BUCKETS + 1))
        for number in range(_BUCKETS):
            part = lines[order[ends[number] : ends[number + 1]]]
            if len(part):
                with (self.work / f"bucket-{number:03d}").open("ab") as file:
                    file.write(np.ascontiguousarray(part).tobytes())

    def finish(self) -> None:
        """Sort bucket by bucket; of equal ids the first place counts."""
        self._spill()
        rows = 0
        with (self.work / "ids.bin").open("wb") as ids, (self.work / "places.bin").open("wb") as places:
            for path in sorted(self.work.glob("bucket-*")):
                lines = np.fromfile(path, np.uint64).reshape(-1, 3)
                lines = lines[np.lexsort((lines[:, 2], lines[:, 1], lines[:, 0]))]
                first = np.ones(len(lines), bool)
                first[1:] = (lines[1:, :2] != lines[:-1, :2]).any(1)
                ids.write(np.ascontiguousarray(lines[first, :2]).tobytes())
                places.write(lines[first, 2].astype(np.int64).tobytes())
                rows += int(first.sum())
                path.unlink()
        final = self.folder / INDEX
        shutil.rmtree(final, ignore_errors=True)
        os.replace(self.work, final)
        content: dict[str, Any] = {"rows": rows, "shards": self.shards, "directory": os.stat(self.folder).st_mtime_ns}
        temporary = final / "index.json.tmp"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, final / "index.json")
        self.index = DiskIndex(self.folder, content)
