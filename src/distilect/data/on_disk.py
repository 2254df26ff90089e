"""Tables larger than memory: written to disk once, block by block, then memory-mapped.

FOLDER/text-0.bin, text-0-offsets.bin   the texts one after the other (UTF-8), int64 [N + 1] where each begins
FOLDER/labels.bin, ids.bin              int64 or float32 [N], or int8 [N, C]; uint64 [N, 2]
FOLDER/units-offsets.bin, keys.bin      of words: int64 [N + 1] where each row's begin; int64 [U] their identities. labels.bin is int64 [U]
FOLDER/columns.json                     types and sizes; written last, so that it marks the folder as complete
FOLDER/validation/                      the rows held out of train, as another table (see `streaming`)
FOLDER/tokens-<hash>/                   the same rows as one model's tokens (see `encoding.encode`)

Arrow files store a column in chunks. Before random rows can be taken from a chunked column, some versions of pyarrow copy the
whole column into memory; from one flat array they never do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilect import ranks
from distilect.data.table import Table
from distilect.data.units import Units
from distilect.errors import DataError
from distilect.files import atomic_write, locked

DONE = "columns.json"


class ColumnFiles:
    """Flat columns written block by block, each to a file `NAME.bin`. They are complete once `finish` has returned.

    Args:
        folder: created; its former content is removed.
        kinds: name → type. A column whose name ends in "offsets" holds where each row begins in another one.
    """

    def __init__(self, folder: Path, kinds: Mapping[str, Any]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self._kinds = {name: np.dtype(kind) for name, kind in kinds.items()}
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in kinds}
        self._sizes = dict.fromkeys(kinds, 0)
        self._ends = {name: 0 for name in kinds if name.endswith("offsets")}
        for name in self._ends:
            self.add(name, np.zeros(1))

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Append values to a column."""
        self._files[name].write(np.ascontiguousarray(values, self._kinds[name]).data)
        self._sizes[name] += values.size

    def add_offsets(self, name: str, sizes: NDArray[np.integer]) -> None:
        """Append rows by their numbers of values."""
        offsets = self._ends[name] + np.cumsum(sizes, dtype=np.int64)
        self.add(name, offsets)
        self._ends[name] = int(offsets[-1]) if len(offsets) else self._ends[name]

    def finish(self, **about: int) -> None:
        """Close the files and store `about` with them."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        columns = {name: [self._kinds[name].str, size] for name, size in self._sizes.items()}
        atomic_write(self.folder / DONE, json.dumps({"columns": columns, **about}), sync=True)


def is_complete(folder: Path) -> bool:
    """Whether `finish` was called for this folder."""
    return (folder / DONE).is_file()


def write_once(folder: Path, write: Callable[[], None], what: str) -> None:
    """Have `write` fill a folder with `ColumnFiles`, unless that is complete already; on rank 0 of one process at a time.

    All ranks return once the folder is complete. A failed write leaves nothing, so that it does not keep a disk full.
    """
    if ranks.is_main():
        busy = f"another process is {what} into {folder}"
        with locked(folder.with_name(f"{folder.name}.lock"), DataError, busy, wait=True):
            if not is_complete(folder):
                try:
                    write()
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
    ranks.barrier()


def open_columns(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns in a folder, memory-mapped, and the `about` stored with them.

    Raises:
        DataError: a file is missing or has another size.
    """
    try:
        about = json.loads((folder / DONE).read_text(encoding="utf-8"))
        columns = {
            name: _mapped(folder / f"{name}.bin", np.dtype(kind), n) for name, (kind, n) in about["columns"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} does not hold a complete table ({error}): delete it; the next run writes it again"
        ) from None
    return columns, about


def _mapped(path: Path, kind: np.dtype[Any], size: int) -> NDArray[Any]:
    """A file as an array whose pages are loaded when they are read. Copy on write, as torch refuses read-only arrays."""
    if path.stat().st_size != kind.itemsize * size:
        raise ValueError(f"{path.name} has another size")
    return np.memmap(path, kind, "c", shape=(size,)) if size else np.empty(0, kind)


class TableWriter:
    """Writes a table block by block.

    Args:
        num_texts: 1 or 2.
        labels: their type: int64 classes, float32 scores, or int8 for several per row.
        words: the rows are lists of words.
    """

    def __init__(self, folder: Path, num_texts: int, labels: Any, words: bool = False) -> None:
        texts = {f"text-{n}": np.uint8 for n in range(num_texts)}
        offsets = {f"{name}-offsets": np.int64 for name in texts}
        units = {"units-offsets": np.int64, "keys": np.int64} if words else {}
        kinds = {**texts, **offsets, **units, "labels": labels, "ids": np.uint64}
        self._files = ColumnFiles(folder, kinds)
        self._width: dict[str, int] = {}  # of a matrix of labels

    def add(self, block: Table) -> None:
        """Append rows."""
        for number, column in enumerate(block.texts):
            if len(column):
                _, offsets, text = column.buffers()
                begins = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
                self._files.add_offsets(f"text-{number}-offsets", np.diff(begins))
                if begins[-1] > begins[0]:
                    self._files.add(f"text-{number}", np.frombuffer(text, np.uint8)[begins[0] : begins[-1]])
        if block.units is not None:
            self._files.add_offsets("units-offsets", block.units.sizes)
            self._files.add("keys", block.unit_keys())
        if block.labels.ndim == 2:
            self._width = {"labels_per_row": block.labels.shape[1]}
        self._files.add("labels", block.labels)
        self._files.add("ids", block.ids)

    def finish(self) -> Table:
        """Close the files and map them."""
        self._files.finish(**self._width)
        return open_table(self._files.folder)


def open_table(folder: Path) -> Table:
    """The table in a folder, mapped.

    Raises:
        DataError: it is not complete.
    """
    columns, about = open_columns(folder)
    ids, labels = columns["ids"].reshape(-1, 2), columns["labels"]
    rows = len(ids)
    if "labels_per_row" in about:
        labels = labels.reshape(rows, about["labels_per_row"])
    texts = tuple(
        pa.LargeStringArray.from_buffers(rows, pa.py_buffer(columns[f"{name}-offsets"]), pa.py_buffer(columns[name]))
        for name in ("text-0", "text-1")
        if name in columns
    )
    units = Units(columns["units-offsets"]) if "units-offsets" in columns else None
    return Table(texts, labels, ids, folder, units, keys=columns.get("keys"))
