"""What is kept of finished cells: a line each, and the student's predictions on dev, as small as tests between methods allow."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilect.errors import RunError
from distilect.tasks import Task

Line = dict[str, Any]

RESULTS = "results.jsonl"
PREDICTIONS = "predictions.parquet"


# ---- locks -----------------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process holds the lock `path`; the system gives it back when the process ends, however it ends.

    Args:
        wait: until it is free; otherwise False at once where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# ---- lines -----------------------------------------------------------------------------------------------------------


class Results:
    """`results.jsonl`: whole lines only, on disk before the cell counts as done; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        """All readable lines in order; a last one that a kill cut short is left out."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_bytes().split(b"\n"):
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "cell" in line:
                found.append(line)
        return found

    def done(self) -> dict[tuple[str, str], Line]:
        """(cell, settings) → line; the last one where there are several."""
        return {(line["cell"], str(line.get("settings"))): line for line in self.lines()}

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one line, in one piece.

        Raises:
            RunError: it cannot be written.
        """
        content = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            with lock(self.path.with_suffix(".lock"), wait=True), self.path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":  # a line that a kill cut short: ours must not be glued to it
                        content = b"\n" + content
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


# ---- predictions -----------------------------------------------------------------------------------------------------


def essence(task: Task, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N]: all that the metrics look at: the predicted class (-1 where an output is NaN), or the score."""
    if task.kind == "regression":
        return logits[:, 0]
    broken = np.isnan(logits).any(axis=1)
    return np.where(broken, -1, np.nan_to_num(logits).argmax(axis=1)).astype(np.float32)


def outputs_of(task: Task, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, C]: outputs with the same scores as those that `essence` was taken of."""
    if task.kind == "regression":
        return values[:, None]
    found = np.eye(len(task.labels) + 1, dtype=np.float32)[values.astype(np.int64)][:, :-1]
    found[values < 0] = np.nan
    return found


def write_predictions(path: Path, predictions: Mapping[str, NDArray[Any]]) -> None:
    """Name → values, a row each, in one compressed file; whole or not at all."""
    columns = {
        "name": pa.array(list(predictions), pa.string()),
        "values": pa.array([np.asarray(v).tolist() for v in predictions.values()], pa.list_(pa.float64())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    os.replace(temporary, path)


def read_predictions(paths: Sequence[Path]) -> dict[str, NDArray[np.float64]]:
    """Name → values of one file or several.

    Raises:
        RunError: a file is damaged.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for path in paths:
        try:
            table = pq.read_table(path)
            names, values = table["name"].to_pylist(), table["values"].to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise RunError(
                f"cannot read {path}: {' '.join(str(error).split())[:120]}; remove it, and its cell's line, to run it again"
            ) from None
        found |= {name: np.asarray(v, dtype=np.float64) for name, v in zip(names, values, strict=True)}
    return found
