"""The store on disk: signals by teacher and field, keyed by what a row says, in files that carry their own checksum.

    ROOT/<teacher fingerprint>/manifest.json                  what the fingerprint is made of
    ROOT/<teacher fingerprint>/<field>/shard-<n>-<sha256>.safetensors

A shard appears whole or not at all (temporary name, then rename), and its name holds the hash of its bytes: a kill at any
moment leaves only finished shards, and a flipped byte is found when the shard is read first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from distilect.errors import SignalError, why_unwritable
from distilect.models import per_token
from distilect.models.row_index import Ids, RowIndex
from distilect.signals.disk_index import INDEX, DiskIndex, Stamp

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"shard-(\d+)-([0-9a-f]{16})\.safetensors")
_IN_MEMORY = 1 << 26  # bytes: logits and smaller fields are gathered from memory, larger ones from mapped files
_EAGER = 1 << 28  # bytes of a field that are verified when it is opened, a quarter of a second; beyond, shard by shard
_MAPPED = 8192  # shards of a large field that are mapped at a time
_ABANDONED = 3600.0  # seconds: a temporary file that old belongs to a process that was killed
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U64": np.uint64}


class SignalStore:
    """Signals of any number of teachers below one folder.

    Args:
        root: created when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warnings: list[str] = []  # what was found damaged or changed since the store was opened
        self._open: dict[Path, FieldStore] = {}

    def field(self, fingerprint: str, name: str) -> FieldStore:
        """One field of one teacher, opened and verified; opened before, only files that changed since are verified."""
        folder = self.root / fingerprint[:16] / name
        if folder not in self._open:
            self._open[folder] = FieldStore(folder, self.warnings)
        self._open[folder].refresh()
        return self._open[folder]

    def size(self) -> int:
        """Bytes of all shards on disk, of all teachers that were ever scored into this store."""
        return sum(path.stat().st_size for path in self.root.glob("*/*/shard-*.safetensors"))

    def register(self, name: str, fingerprint: str, parts: Mapping[str, Any]) -> None:
        """Write the teacher's manifest, and note what has changed since a teacher of that name was stored last."""
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
    """All shards of one field, as one index from row identity to value.

    Dense fields hold `value` [n, …] per shard, ragged ones `value` [tokens, H] and `offsets` int64 [n + 1].

    A small field is verified when it is opened, and indexed in memory. One of more than `_EAGER` bytes is opened in constant time,
    through an index on disk, and each of its shards is verified when it is first read; memory stays bounded.
    """

    def __init__(self, folder: Path, warnings: list[str]) -> None:
        self.folder, self.warnings = folder, warnings
        self.ragged = per_token(folder.name)
        # by file name; of a large field those that were read, the latest last
        self._shards: dict[str, _Shard] = {}
        self._verified: dict[str, Stamp] = {}
        self._numbers: set[int] = set()
        self._large: DiskIndex | None = None
        self._rebuild()

    def refresh(self) -> None:
        """Open shards that are new, verify those whose file has changed, forget those that are gone."""
        self._clean()
        if self._large is not None and self._large.is_of_now():
            return
        found = {entry.name: Path(entry.path) for entry in _shard_files(self.folder)}
        stamps = {name: _stamp(path) for name, path in found.items()}
        self._numbers = {number for name in found if (number := _number(name)) is not None}
        self._verified = {name: stamp for name, stamp in self._verified.items() if stamps.get(name) == stamp}
        if sum(size for size, _ in stamps.values()) > _EAGER:
            self._open_large(found, stamps)
            return
        self._large = None
        stale = [name for name, shard in self._shards.items() if stamps.get(name) != shard.stamp]
        for name in stale:
            del self._shards[name]
        fresh = [path for name, path in found.items() if name not in self._shards]
        for path in fresh:
            self._open(path)
        if stale or fresh:
            self._rebuild()

    def _open_large(self, found: Mapping[str, Path], stamps: Mapping[str, Stamp]) -> None:
        """Use the index on disk; made anew, shard by shard and each of them verified, where it is not of these files."""
        self._shards = {}
        self._large = DiskIndex.open(self.folder, stamps)
        if self._large is None:
            try:
                with DiskIndex.writer(self.folder) as writer:
                    for name in sorted(found):
                        tensors = self._read(found[name])
                        if tensors is not None:
                            writer.add(name, stamps[name], np.array(tensors["ids"]))
            except OSError as error:
                raise SignalError(f"cannot write the index of {self.folder}: {error.strerror or error}") from None
            self._large = writer.index

    def _open(self, path: Path) -> None:
        tensors = self._read(path)
        if tensors is not None:
            self._shards[path.name] = _Shard(tensors, _stamp(path))

    def _read(self, path: Path) -> dict[str, NDArray[Any]] | None:
        """Verify one shard and map it; a damaged one is put aside under another name, never used.

        Raises:
            SignalError: it cannot be read or put aside.
        """
        match = _SHARD.fullmatch(path.name)
        try:
            try:
                stamp = _stamp(path)
                if match is None or (self._verified.get(path.name) != stamp and _digest(path) != match.group(2)):
                    raise ValueError("checksum")
                tensors = _mapped(path)
                self._verified[path.name] = stamp
                return tensors
            except (ValueError, KeyError):
                path.rename(path.with_name(path.name + ".damaged"))
                self.warnings.append(
                    f"{path} is damaged (its bytes do not match its checksum): put aside, its rows are computed anew"
                )
                logger.warning(self.warnings[-1])
                return None
        except OSError as error:
            raise SignalError(f"cannot read teacher signals in {path}: {error.strerror or error}") from None

    def _rebuild(self) -> None:
        """Index all identities; values of small dense fields are gathered into one array when they are first read."""
        self._shards = dict(sorted(self._shards.items()))
        self._tensors = [shard.tensors for shard in self._shards.values()]
        ids = [tensors["ids"] for tensors in self._tensors]
        self._index = RowIndex(np.concatenate(ids) if ids else np.empty((0, 2), dtype=np.uint64))
        self._starts = np.cumsum([0, *map(len, ids)])
        self._dense: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self._index if self._large is None else self._large)

    def locate(self, ids: Ids) -> NDArray[np.int64]:
        """Places of rows, int64 [n]; -1 where a row is not stored. `ids` uint64 [n, 2]."""
        return (self._index if self._large is None else self._large).find(ids)

    def get(self, ids: Ids) -> NDArray[Any] | list[NDArray[Any]]:
        """Values of rows: an array [n, …], or for ragged fields a list of [tokens, H]; a copy.

        Raises:
            SignalError: some rows are not stored, or their shard was damaged since.
        """
        places = self._places(ids)
        dense = None if self.ragged or self._large is not None else self._gathered()
        if dense is not None:
            return dense[places]
        starts = self._starts if self._large is None else self._large.starts
        shards = np.searchsorted(starts, places, side="right") - 1
        within = places - starts[shards]
        rows: list[Any] = [None] * len(places)
        for shard in np.unique(shards).tolist():  # one shard after the other, not to and fro
            here = np.flatnonzero(shards == shard)
            found = self._shard(shard) if shard < len(starts) - 1 else None
            if found is None or not (found["ids"][within[here]] == ids[here]).all():
                raise SignalError(
                    f"the index of {self.folder} is damaged: delete {self.folder / INDEX}, it is made anew"
                )
            tensors = found
            for place, row in zip(here.tolist(), within[here].tolist(), strict=True):
                rows[place] = self._row(tensors, row)
        return rows if self.ragged else np.stack(rows)

    def _shard(self, number: int) -> dict[str, NDArray[Any]]:
        """The tensors of one shard; of a large field verified now, where this process has not read it before.

        Raises:
            SignalError: it is damaged.
        """
        if self._large is None:
            return self._tensors[number]
        name = self._large.names[number]
        shard = self._shards.pop(name, None)
        if shard is None:
            if len(self._shards) >= _MAPPED:  # the kernel maps some ten thousand files per process
                del self._shards[next(iter(self._shards))]
            tensors = self._read(self.folder / name)
            if tensors is None:
                raise SignalError(
                    f"{self.folder / name} was damaged on disk and is put aside: run again, its rows are computed anew"
                )
            shard = _Shard(tensors, self._verified[name])
        self._shards[name] = shard
        return shard.tensors

    def _places(self, ids: Ids) -> NDArray[np.int64]:
        places = self.locate(ids)
        missing = int((places < 0).sum())
        if missing or not len(self):
            raise SignalError(
                f"{self.folder} lacks {missing} of {len(ids)} rows: they were not scored, or their shard was removed since; "
                "run distilect score again"
            )
        return places

    def _gathered(self) -> NDArray[Any] | None:
        """All values in one array; None where they are too many to be held in memory."""
        if self._dense is None and sum(tensors["value"].nbytes for tensors in self._tensors) <= _IN_MEMORY:
            self._dense = np.concatenate([tensors["value"] for tensors in self._tensors])
        return self._dense

    def _row(self, tensors: dict[str, NDArray[Any]], row: int) -> NDArray[Any]:
        if not self.ragged:
            return np.array(tensors["value"][row])
        start, stop = tensors["offsets"][row], tensors["offsets"][row + 1]
        return np.array(tensors["value"][start:stop])  # out of the mapped file

    def free_numbers(self, count: int) -> list[int]:
        """The first so many shard numbers that no file has: holes that a killed rank left are filled first."""
        found: list[int] = []
        number = 0
        while len(found) < count:
            if number not in self._numbers:
                found.append(number)
            number += 1
        return found

    def add(
        self, ids: Ids, value: NDArray[Any], offsets: NDArray[np.int64] | None = None, number: int | None = None
    ) -> None:
        """Write one more shard; `SignalStore.field` opens it.

        Args:
            number: of the shard, in its name; default: the first free one.

        Raises:
            SignalError: the disk is full or cannot be written; earlier shards are kept.
        """
        tensors = {"ids": np.ascontiguousarray(ids), "value": np.ascontiguousarray(value)}
        if offsets is not None:
            tensors["offsets"] = np.ascontiguousarray(offsets)
        content = save(tensors)
        digest = hashlib.sha256(content).hexdigest()[:16]
        number = self.free_numbers(1)[0] if number is None else number
        _write(self.folder / f"shard-{number:06d}-{digest}.safetensors", content)
        self._numbers.add(number)

    def _clean(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass
class _Shard:
    """One open shard: its tensors, mapped, and size and time of the file when it was verified."""

    tensors: dict[str, NDArray[Any]]
    stamp: Stamp


def _shard_files(folder: Path) -> list[os.DirEntry[str]]:
    """In the order of their names; [] where there is no folder yet."""
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if e.name.startswith("shard-") and e.name.endswith(".safetensors")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda entry: entry.name)


def _number(name: str) -> int | None:
    match = _SHARD.fullmatch(name)
    return int(match.group(1)) if match else None


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a renamed file without its bytes would be a damaged shard after a power cut
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SignalError(
            f"cannot write teacher signals to {path.parent}: {why_unwritable(error)}; what was stored before is kept: make room and run again"
        ) from None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as views of its mapped bytes: nothing is copied, rows are read when used."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    length = int(content[:8].view(np.uint64)[0])
    header = json.loads(content[8 : 8 + length].tobytes())
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            view = content[8 + length + start : 8 + length + stop].view(_TYPES[entry["dtype"]])
            found[name] = view.reshape(entry["shape"])
    return found
