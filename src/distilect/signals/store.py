"""The store on disk: signals by teacher and field, found by row identity, in files that carry their own checksum.

    ROOT/<teacher fingerprint>/manifest.json                  what the fingerprint is made of
    ROOT/<teacher fingerprint>/<field>/shard-<sha256>.safetensors   ids of rows and their values
    ROOT/<teacher fingerprint>/<field>/index-<listing>-<rows>.bin   large fields only, see `index_file`
    ROOT/<teacher fingerprint>/answers.jsonl                  of a teacher behind an API, see `answers`

A shard appears whole or not at all (temporary name, then rename), and its name is the hash of its bytes: a kill at any moment
leaves only finished shards, a flipped byte is found when the shard is read first, and processes need not agree on names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load_file

from distilect.errors import SignalError, why_unwritable
from distilect.files import atomic_write, file_digest
from distilect.models import per_token
from distilect.models.row_index import Ids, RowIndex
from distilect.signals.answers import Answers
from distilect.signals.index_file import open_index, remove_indexes, write_index

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"shard-[0-9a-f]{32}\.safetensors")
_SMALL = 1 << 27  # bytes of a field that is verified when it is opened (0.1 s), and whose vectors are held in memory
_MAPPED = 8192  # shards that are mapped at a time: the kernel allows some ten thousand per process
_ABANDONED = 3600.0  # seconds: a temporary file that old belongs to a process that was killed
_ROW = 32  # of a place in the index: bits of the row within its shard; those above are the shard's number
_ROWS = (1 << _ROW) - 1
Stamp = tuple[int, int]  # size and time of a file
Tensors = dict[str, NDArray[Any]]


class SignalStore:
    """Signals of any number of teachers below one folder.

    Args:
        root: created when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warnings: list[str] = []  # what was found damaged or changed since the store was opened
        self._open: dict[Path, FieldStore] = {}
        self._answers: dict[Path, Answers] = {}

    def field(self, fingerprint: str, name: str) -> FieldStore:
        """One field of one teacher, as it is on disk now."""
        folder = self.root / fingerprint[:16] / name
        if folder not in self._open:
            self._open[folder] = FieldStore(folder, self.warnings)
        self._open[folder].refresh()
        return self._open[folder]

    def answers(self, fingerprint: str) -> Answers:
        """The answers of a teacher behind an API, as they are on disk now."""
        path = self.root / fingerprint[:16] / "answers.jsonl"
        if path not in self._answers:
            self._answers[path] = Answers(path, self.warnings)
        self._answers[path].refresh()
        return self._answers[path]

    def size(self) -> int:
        """Bytes of all shards on disk, of all teachers that were ever scored into this store."""
        return sum(path.stat().st_size for path in self.root.glob("*/*/shard-*.safetensors"))

    def register(self, name: str, fingerprint: str, parts: Mapping[str, Any]) -> None:
        """Write the teacher's manifest, and warn of what has changed since a teacher of that name was stored last."""
        path = self.root / fingerprint[:16] / "manifest.json"
        if path.exists():
            return
        others = sorted(self.root.glob("*/manifest.json"), key=lambda other: other.stat().st_mtime)
        changes = [changed for other in others if (changed := _changed(other, name, parts))]
        if changes:
            self.warnings.append(
                f"teacher {name}: {', '.join(changes[-1])} changed since its signals were stored; they are computed anew"
            )
        content = {"name": name, "fingerprint": fingerprint, "parts": dict(parts)}
        _write(path, json.dumps(content, indent=1).encode())


def _changed(manifest: Path, name: str, parts: Mapping[str, Any]) -> list[str]:
    """The parts that differ from another manifest of the same teacher; [] for other teachers."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found["name"] != name:
            return []
        return [key for key in parts if found["parts"].get(key) != parts[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


class FieldStore:
    """All shards of one field, with one index from row identity to value.

    Shards hold `ids` uint64 [n, 2] and `value`: vectors [n, …], or for fields per token [tokens, H] with `offsets` int64 [n + 1].

    Every shard is verified before it is used: those of a small field when it is opened. A large one is opened in constant time,
    through an index on disk, and its shards are verified when they are first read; memory stays bounded.
    """

    def __init__(self, folder: Path, warnings: list[str]) -> None:
        self.folder, self.warnings = folder, warnings
        self.ragged = per_token(folder.name)
        self._listing: dict[str, Stamp] = {}  # the shards behind the index, in its order
        self._names: list[str] = []
        self._index = RowIndex.of(np.empty((0, 2), np.uint64))
        self._small = True
        self._values: NDArray[Any] | None = None  # of a small field of vectors, in the order of the index
        self._verified: dict[str, Stamp] = {}
        self._mapped: dict[str, Tensors] = {}  # the most recently used last

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """Take in what has changed on disk: shards that are new or gone, and those whose file is another one now."""
        self._remove_abandoned()
        listing = self._list()
        if listing == self._listing:
            return
        self._verified = {name: stamp for name, stamp in self._verified.items() if listing.get(name) == stamp}
        self._mapped = {name: tensors for name, tensors in self._mapped.items() if name in self._verified}
        self._small = _is_small(listing)
        index = None if self._small else open_index(self.folder, _hash(listing))
        if index is None:
            listing = {name: stamp for name, stamp in listing.items() if name in self._verified or self._read(name)}
            self._names = list(listing)
            self._small = _is_small(listing)
            index = self._sort() if self._small else self._write_index(listing)
        self._listing, self._names, self._index, self._values = listing, list(listing), index, None

    def lacks(self, ids: Ids) -> NDArray[np.bool_]:
        """bool [n]: the rows that are not stored; `ids` uint64 [n, 2]."""
        return self._index.ranks(ids) < 0

    def get(self, ids: Ids) -> NDArray[Any] | list[NDArray[Any]]:
        """A copy of the values of rows: an array [n, …], or for fields per token a list of [tokens, H].

        Raises:
            SignalError: some rows are not stored, or their shard was damaged since.
        """
        ranks = self._index.ranks(ids)
        missing = int((ranks < 0).sum())
        if missing or not len(self):
            raise SignalError(
                f"{self.folder} lacks {missing} of {len(ids)} rows: they were not scored, or their shard was removed since; "
                "run distilect score again"
            )
        if self.ragged or not self._small:
            return self._collect(ranks)
        if self._values is None:
            shards = [self._shard(name) for name in self._names]
            starts = np.cumsum([0, *(len(tensors["ids"]) for tensors in shards)])
            order = starts[self._index.places >> _ROW] + (self._index.places & _ROWS)
            self._values = np.concatenate([tensors["value"] for tensors in shards])[order]
        return self._values[ranks]

    def add(self, ids: Ids, value: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> None:
        """Write one more shard; `refresh` takes it in.

        Raises:
            SignalError: the disk is full or cannot be written; earlier shards are kept.
        """
        tensors = {"ids": np.ascontiguousarray(ids), "value": np.ascontiguousarray(value)}
        if offsets is not None:
            tensors["offsets"] = np.ascontiguousarray(offsets)
        content = save(tensors)
        _write(self.folder / f"shard-{hashlib.sha256(content).hexdigest()[:32]}.safetensors", content)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _collect(self, ranks: NDArray[np.int64]) -> NDArray[Any] | list[NDArray[Any]]:
        """The values at positions of the index, read shard by shard."""
        if not len(ranks):
            return self._collect(np.zeros(1, np.int64))[:0]
        places = self._index.places[ranks]
        shards, rows = places >> _ROW, places & _ROWS
        order = np.argsort(shards, kind="stable")
        found: list[Any] = []
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            here, high, low = rows[part], self._index.high[ranks[part]], self._index.low[ranks[part]]
            try:
                tensors = self._shard(self._names[shards[part[0]]])
                wrong = (tensors["ids"][here] != np.column_stack([high, low])).any()
            except IndexError:
                wrong = True
            if wrong:
                remove_indexes(self.folder)
                raise SignalError(f"the index of {self.folder} was damaged and is removed: run again, it is made anew")
            value = tensors["value"]
            if self.ragged:
                starts, ends = tensors["offsets"][here], tensors["offsets"][here + 1]
                found += [np.array(value[start:end]) for start, end in zip(starts, ends, strict=True)]
            else:
                found.append(value[here])
        back = np.argsort(order)
        return [found[i] for i in back] if self.ragged else np.concatenate(found)[back]

    def _shard(self, name: str) -> Tensors:
        """A shard's tensors.

        Raises:
            SignalError: it is damaged.
        """
        tensors = self._mapped.pop(name, None) or self._read(name)
        if tensors is None:
            raise SignalError(
                f"{self.folder / name} was damaged on disk and is put aside: run again, its rows are computed anew"
            )
        self._mapped[name] = tensors
        return tensors

    def _read(self, name: str) -> Tensors | None:
        """Map a shard, verified where this process has not verified it yet; a damaged one is put aside under another name.

        Raises:
            SignalError: it cannot be read or put aside.
        """
        path = self.folder / name
        try:
            stamp = _stamp(path.stat())
            try:
                if self._verified.get(name) != stamp and path.stem != f"shard-{file_digest(path)[:32]}":
                    raise ValueError("checksum")
                tensors = {key: value.numpy() for key, value in load_file(path).items()}
            except (ValueError, SafetensorError):
                path.rename(path.with_name(name + ".damaged"))
                self.warnings.append(
                    f"{path} is damaged (its bytes do not match its checksum): put aside, its rows are computed anew"
                )
                logger.warning(self.warnings[-1])
                return None
        except OSError as error:
            raise SignalError(f"cannot read teacher signals in {path}: {error.strerror or error}") from None
        self._verified[name] = stamp
        if len(self._mapped) >= _MAPPED:
            del self._mapped[next(iter(self._mapped))]
        self._mapped[name] = tensors
        return tensors

    # ---- the index -------------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, Stamp]:
        """All shards on disk, by name; {} where there is no folder yet."""
        try:
            with os.scandir(self.folder) as entries:
                found = {e.name: _stamp(e.stat()) for e in entries if _SHARD.fullmatch(e.name)}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return dict(sorted(found.items()))

    def _shard_ids(self) -> Iterator[tuple[Ids, int]]:
        """The ids of each shard and the place of its first row."""
        for number, name in enumerate(self._names):
            yield self._shard(name)["ids"], number << _ROW

    def _sort(self) -> RowIndex:
        found = list(self._shard_ids())
        ids = [np.empty((0, 2), np.uint64), *(ids for ids, _ in found)]
        places = [np.empty(0, np.int64), *(np.arange(first, first + len(ids)) for ids, first in found)]
        return RowIndex.of(np.concatenate(ids), np.concatenate(places))

    def _write_index(self, listing: Mapping[str, Stamp]) -> RowIndex:
        try:
            remove_indexes(self.folder)
            return write_index(self.folder, _hash(listing), self._shard_ids)
        except OSError as error:
            raise SignalError(f"cannot write the index of {self.folder}: {why_unwritable(error)}") from None

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _hash(listing: Mapping[str, Stamp]) -> str:
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:32]


def _is_small(listing: Mapping[str, Stamp]) -> bool:
    return sum(size for size, _ in listing.values()) <= _SMALL


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_size, stat.st_mtime_ns


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; on the disk before it has its name, as otherwise a power cut would leave a damaged shard."""
    try:
        atomic_write(path, content, sync=True)
    except OSError as error:
        raise SignalError(
            f"cannot write teacher signals to {path.parent}: {why_unwritable(error)}; what was stored before is kept: make room "
            "and run again"
        ) from None
