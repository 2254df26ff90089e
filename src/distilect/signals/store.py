"""The store on disk: signals by teacher and field, keyed by what a row says, in files that carry their own checksum.

    ROOT/<teacher fingerprint>/manifest.json                  what the fingerprint is made of
    ROOT/<teacher fingerprint>/<field>/shard-<n>-<sha256>.safetensors

A shard appears whole or not at all (temporary name, then rename), and its name holds the hash of its bytes: a kill at any
moment leaves only finished shards, and a flipped byte is found when the shard is opened.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from distilect.errors import SignalError

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"shard-(\d+)-([0-9a-f]{16})\.safetensors")
_IN_MEMORY = 1 << 31  # fields of up to 2 GiB are gathered from memory, larger ones from mapped files
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U64": np.uint64}

Ids = NDArray[np.uint64]


class SignalStore:
    """Signals of any number of teachers below one folder.

    Args:
        root: created when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warnings: list[str] = []  # what was found damaged or changed since the store was opened

    def field(self, fingerprint: str, name: str) -> FieldStore:
        """One field of one teacher, opened and verified."""
        return FieldStore(self.root / fingerprint[:16] / name, self.warnings)

    def register(self, name: str, fingerprint: str, parts: Mapping[str, Any]) -> None:
        """Write the teacher's manifest, and note what has changed since a teacher of that name was stored before."""
        path = self.root / fingerprint[:16] / "manifest.json"
        if path.exists():
            return
        for other in sorted(self.root.glob("*/manifest.json")):
            changed = _changed(other, name, parts)
            if changed:
                self.warnings.append(
                    f"teacher {name}: {', '.join(changed)} changed since its signals were stored; they are computed anew"
                )
        _write(path, json.dumps({"name": name, "parts": dict(parts), "format": 1}, indent=1).encode())


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
    """

    def __init__(self, folder: Path, warnings: list[str]) -> None:
        self.folder, self.warnings = folder, warnings
        self.shards: list[dict[str, NDArray[Any]]] = []
        self.next_index = 0
        for path in sorted(folder.glob("shard-*.safetensors")):
            self._open(path)
        self._index()

    def _open(self, path: Path) -> None:
        """Verify one shard and map it; a damaged one is put aside under another name, never used."""
        match = _SHARD.fullmatch(path.name)
        try:
            if match is None or _digest(path) != match.group(2):
                raise SignalError("checksum")
            shard = _mapped(path)
        except (SignalError, ValueError, KeyError, OSError):
            path.rename(path.with_name(path.name + ".damaged"))
            self.warnings.append(f"{path} is damaged (its bytes do not match its checksum): put aside, its rows are computed anew")
            logger.warning(self.warnings[-1])
            return
        self.shards.append(shard)
        self.next_index = max(self.next_index, int(match.group(1)) + 1)

    def _index(self) -> None:
        """Sort all identities; values of dense fields are gathered into one array while they are small."""
        ids = [shard["ids"] for shard in self.shards]
        self.ids: Ids = np.concatenate(ids) if ids else np.empty((0, 2), dtype=np.uint64)
        self.order = np.argsort(self.ids[:, 0], kind="stable")
        self.sorted_hi, self.sorted_lo = self.ids[self.order, 0], self.ids[self.order, 1]
        self.starts = np.cumsum([0, *(len(part) for part in ids)])
        self.ragged = any("offsets" in shard for shard in self.shards)
        size = sum(shard["value"].nbytes for shard in self.shards)
        self.dense: NDArray[Any] | None = None
        if self.shards and not self.ragged and size <= _IN_MEMORY:
            self.dense = np.concatenate([shard["value"] for shard in self.shards])

    def __len__(self) -> int:
        return len(self.ids)

    def locate(self, ids: Ids) -> NDArray[np.int64]:
        """Places of rows, int64 [n]; -1 where a row is not stored. `ids` uint64 [n, 2]."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.searchsorted(self.sorted_hi, ids[:, 0])
        at = np.minimum(at, len(self.sorted_hi) - 1)
        same_hi = self.sorted_hi[at] == ids[:, 0]
        found = same_hi & (self.sorted_lo[at] == ids[:, 1])
        places: NDArray[np.int64] = np.where(found, self.order[at], -1)
        for row in np.flatnonzero(same_hi & ~found):  # two texts share 64 bits of their hash: look behind the first
            place = at[row] + 1
            while place < len(self.sorted_hi) and self.sorted_hi[place] == ids[row, 0]:
                if self.sorted_lo[place] == ids[row, 1]:
                    places[row] = self.order[place]
                place += 1
        return places

    def get(self, ids: Ids) -> NDArray[Any] | list[NDArray[Any]]:
        """Values of rows: an array [n, …], or for ragged fields a list of [tokens, H].

        Raises:
            SignalError: some rows are not stored.
        """
        places = self.locate(ids)
        missing = int((places < 0).sum())
        if missing:
            raise SignalError(
                f"{self.folder} lacks {missing} of {len(ids)} rows: they were not scored, or their shard was removed since; "
                "run distilect score again"
            )
        if self.dense is not None:
            return self.dense[places]
        shard_of = np.searchsorted(self.starts, places, side="right") - 1
        rows = [self._row(int(s), int(p - self.starts[s])) for s, p in zip(shard_of, places, strict=True)]
        return rows if self.ragged else np.stack(rows)

    def _row(self, shard: int, row: int) -> NDArray[Any]:
        values = self.shards[shard]
        if not self.ragged:
            return np.asarray(values["value"][row])
        start, stop = values["offsets"][row], values["offsets"][row + 1]
        return np.asarray(values["value"][start:stop])

    def add(self, ids: Ids, value: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> None:
        """Write one more shard; call `reopen` before reading it.

        Raises:
            SignalError: the disk is full or cannot be written; earlier shards are kept.
        """
        tensors = {"ids": np.ascontiguousarray(ids), "value": np.ascontiguousarray(value)}
        if offsets is not None:
            tensors["offsets"] = np.ascontiguousarray(offsets)
        content = save(tensors)
        digest = hashlib.sha256(content).hexdigest()[:16]
        _write(self.folder / f"shard-{self.next_index:06d}-{digest}.safetensors", content)
        self.next_index += 1


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
        temporary.unlink(missing_ok=True)
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise SignalError(
            f"cannot write teacher signals to {path.parent}: {what}; what was stored before is kept: make room and run again"
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
