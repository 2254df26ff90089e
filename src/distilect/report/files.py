"""A run's files, read for showing: what is missing or damaged is left out and told, it never stops a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.errors import RunError


class Texts(Sequence[Mapping[str, Any]]):
    """The texts of rows (`text`, perhaps `text_2`), read from an arrow table when they are asked for."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("one row at a time")
        return {name: self.table[name][int(index)].as_py() for name in self.table.column_names}


@dataclass(frozen=True)
class Answers:
    """What the models said on the rows of dev, or of the held-out split.

    Attributes:
        split: `dev` or `validation`.
        labels: names in the order of the outputs; () in regression.
        gold: int64 [N], -1 without a label; or float64 [N] with NaN.
        student: float64 [N, C], logits; one score in regression.
        teachers: name → the same.
        texts: one mapping per row, with `text` and perhaps `text_2`.
    """

    split: str
    labels: tuple[str, ...]
    gold: NDArray[Any]
    student: NDArray[np.float64]
    teachers: dict[str, NDArray[np.float64]]
    texts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind.

    Attributes:
        selection: a dict per epoch and group of rows (`selection.parquet`).
        rows: a dict per epoch and sampled row (`rows.parquet`).
        answers: what the models said on the reported rows (`predictions.parquet`).
        export: what `distilect export` measured (`export.json`).
        notes: what could not be read.
    """

    folder: Path
    metrics: dict[str, Any]
    config: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    answers: Answers | None = None
    export: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json`.

    Raises:
        RunError: the file is missing or is no JSON object; there is nothing to show then.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"no metrics.json in {folder}: expected the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable: {error}") from None
    if not isinstance(metrics, dict):
        raise RunError(f"{path}: expected a JSON object, got {type(metrics).__name__}")
    return metrics


def read_run(folder: str | Path) -> RunFiles:
    """All files of the run in `folder`; only `metrics.json` must be there."""
    root, notes = Path(folder), []
    metrics = read_metrics(root)
    config = _text(root / "config.yaml")
    history, damaged = _history(root / "history.jsonl")
    if damaged:
        notes.append(f"unreadable lines of history.jsonl that were left out: {damaged}")
    selection, rows = (_lines(root / name, notes) for name in ("selection.parquet", "rows.parquet"))
    answers = _answers(root / "predictions.parquet", notes)
    return RunFiles(root, metrics, config, history, selection, rows, answers, _json(root / "export.json"), notes)


def number(value: Any) -> float | None:
    """`value` as a finite float, or None: NaN and infinities are not JSON, and nothing to show."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def part(mapping: Any, *keys: str) -> Any:
    """`mapping[keys[0]][keys[1]]…`, or None as soon as one level is missing."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def mapping(value: Any) -> dict[str, Any]:
    """`value` when it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """The dicts in `value` when it is a list, else nothing."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _history(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Entries, and how many lines were none: a killed run may have left half a line."""
    entries, damaged = [], 0
    for line in _text(path).splitlines():
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            damaged += 1
    return entries, damaged


def _json(path: Path) -> dict[str, Any]:
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _table(path: Path, notes: list[str]) -> Any:
    """The arrow table in `path`; None where there is none, or none that can be read, which is noted."""
    if not path.is_file():
        return None
    try:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # here: few pages need it

        return pq.read_table(path)
    except (OSError, ValueError, ImportError) as error:  # pyarrow's own errors derive from these
        notes.append(f"{path.name} could not be read: {' '.join(str(error).split())[:200]}")
        return None


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    table = _table(path, notes)
    return [] if table is None else table.to_pylist()


def _answers(path: Path, notes: list[str]) -> Answers | None:
    table = _table(path, notes)
    if table is None or not table.num_rows:
        return None
    try:
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        labels = tuple(str(name) for name in json.loads(metadata["labels"]))
        gold = table["label"].to_numpy(zero_copy_only=False).astype(np.float64)
        if labels:
            gold = np.where(np.isnan(gold), -1, gold).astype(np.int64)
        names = [name for name in table.column_names if name.startswith("teacher/")]
        student, *others = (_matrix(table[name], max(1, len(labels))) for name in ("student", *names))
        teachers = {name.removeprefix("teacher/"): said for name, said in zip(names, others, strict=True)}
        texts = Texts(table.select([name for name in ("text", "text_2") if name in table.column_names]))
        return Answers(metadata["split"], labels, gold, student, teachers, texts)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        notes.append(f"{path.name} could not be read: {' '.join(str(error).split())[:200]}")
        return None


def _matrix(column: Any, width: int) -> NDArray[np.float64]:
    """[N, width] of a column of lists.

    Raises:
        ValueError: they are not that long.
    """
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(len(column), width)
