"""Tables larger than memory: written once, block by block, then mapped; every row is there, none of them takes memory.

FOLDER/text-0.bin, text-0.offsets    the texts one after the other (UTF-8), int64 [N + 1] where each begins
FOLDER/labels.bin, ids.bin           int64 or float32 [N]; uint64 [N, 2]
FOLDER/table.json                    rows and types; written last
FOLDER/tokens-<hash>/                the same rows as one model's tokens (see `encoding.encode`)
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
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.data.table import Table
from distilect.errors import DataError

DONE = "table.json"


class TableWriter:
    """Takes in blocks of a table; the folder is whole once `finish` has returned.

    Args:
        folder: made anew; what was in it is removed.
        num_texts: 1 or 2.
        scores: labels are float32 scores instead of int64 classes.
    """

    def __init__(self, folder: Path, num_texts: int, scores: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.rows = folder, 0
        self.kind = "float32" if scores else "int64"
        names = [f"text-{i}{end}" for i in range(num_texts) for end in (".bin", ".offsets")]
        self._files = {name: (folder / name).open("wb") for name in [*names, "labels.bin", "ids.bin"]}
        self._ends = [0] * num_texts
        for number in range(num_texts):
            self._files[f"text-{number}.offsets"].write(np.zeros(1, np.int64).tobytes())

    def add(self, block: Table) -> None:
        """Append rows."""
        for number, column in enumerate(block.texts):
            sizes = np.asarray(pc.binary_length(column).to_numpy(zero_copy_only=False), np.int64)
            ends = self._ends[number] + np.cumsum(sizes)
            self._files[f"text-{number}.offsets"].write(ends.tobytes())
            offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
            if len(column):
                text = column.buffers()[2]
                self._files[f"text-{number}.bin"].write(memoryview(text)[offsets[0] : offsets[-1]] if text else b"")
                self._ends[number] = int(ends[-1])
        self._files["labels.bin"].write(np.asarray(block.labels, self.kind).tobytes())
        self._files["ids.bin"].write(np.ascontiguousarray(block.ids, np.uint64).tobytes())
        self.rows += len(block)

    def finish(self, about: Mapping[str, Any] | None = None) -> Table:
        """Close the files and map them; `about` is kept in `table.json`."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        content = {"rows": self.rows, "texts": len(self._ends), "labels": self.kind, "about": dict(about or {})}
        temporary = self.folder / (DONE + ".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, self.folder / DONE)
        return open_table(self.folder)


def open_table(folder: Path) -> Table:
    """The table in a folder, mapped.

    Raises:
        DataError: it is not whole.
    """
    try:
        content = json.loads((folder / DONE).read_text(encoding="utf-8"))
        rows = int(content["rows"])
        texts = [
            pa.LargeStringArray.from_buffers(
                rows, _buffer(folder / f"text-{n}.offsets", 8 * (rows + 1)), _buffer(folder / f"text-{n}.bin")
            )
            for n in range(int(content["texts"]))
        ]
        labels = mapped(folder / "labels.bin", np.dtype(content["labels"]), (rows,))
        ids = mapped(folder / "ids.bin", np.dtype(np.uint64), (rows, 2))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no whole table ({error}): delete it, it is made anew") from None
    return Table(tuple(texts), labels, ids, folder)


def is_whole(folder: Path) -> bool:
    """Whether a table was finished there."""
    return (folder / DONE).is_file()


def about(folder: Path) -> dict[str, Any]:
    """What was kept with a table."""
    found: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))["about"]
    return found


def mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A file as an array; pages come in when they are read. Copy on write, so that torch takes it too.

    Raises:
        ValueError: the file has another size.
    """
    if path.stat().st_size != kind.itemsize * int(np.prod(shape)):
        raise ValueError(f"{path.name} has another size")
    return np.memmap(path, kind, "c", shape=shape) if np.prod(shape) else np.empty(shape, kind)


def _buffer(path: Path, size: int | None = None) -> pa.Buffer:
    if size is not None and path.stat().st_size != size:
        raise ValueError(f"{path.name} has another size")
    return pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder under another name, that becomes `folder` when the block ends without an error."""
    work = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Columns:
    """Arrays written block by block into files of a folder: name → type."""

    def __init__(self, folder: Path, kinds: Mapping[str, Any]) -> None:
        self.folder, self.kinds = folder, dict(kinds)
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in kinds}
        self.counts = dict.fromkeys(kinds, 0)

    def add(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].write(np.ascontiguousarray(values, self.kinds[name]).tobytes())
        self.counts[name] += len(values)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
