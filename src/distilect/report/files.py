"""A run's files, read for showing. What is missing or damaged is left out and noted; it never stops a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilect.errors import RunError
from distilect.tasks import Scheme, scheme_of

T = TypeVar("T")
Row = dict[str, Any]  # one line of a table; a number that is not known is None


@dataclass(frozen=True)
class Predictions:
    """Outputs of the models on the dev rows, or on the validation rows of a run without dev.

    Attributes:
        split: `dev` or `validation`.
        labels: names in the order of the outputs; () in regression.
        gold: int64 [N], -1 without a label; float64 [N] with NaN; or in a multi-label task int64 [N, C] of 0 and 1, -1 without. Of a
            word table each word is one of the N.
        student: float64 [N, C], logits; one score in regression.
        teachers: name → the same.
        texts: N rows with `text` and perhaps `text_2`.
        multi_label: outputs are a sigmoid for each label.
        thresholds: of a multi-label task, float64 [C] each: `student` and `teacher/NAME`, where they are known.
        offsets: of a word table, int64 [rows + 1], where the words of each row begin.
    """

    split: str
    labels: tuple[str, ...]
    gold: NDArray[Any]
    student: NDArray[np.float64]
    teachers: dict[str, NDArray[np.float64]]
    texts: pa.Table
    multi_label: bool = False
    thresholds: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    offsets: NDArray[np.int64] | None = None

    @property
    def scheme(self) -> Scheme | None:
        """Of a word table's tags; None of other tables, and where the tags are none of entities."""
        return None if self.offsets is None else scheme_of(self.labels)

    @property
    def known(self) -> NDArray[np.bool_]:
        """bool [N]: rows with a label of a classification or multi-label task."""
        return (self.gold[:, 0] if self.multi_label else self.gold) >= 0


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind.

    Attributes:
        history: the numbers of each logging step (`history.jsonl`).
        selection: a row per epoch and group of rows (`selection.parquet`).
        rows: a row per epoch and sampled row of train (`rows.parquet`).
        predictions: outputs on the reported rows (`predictions.parquet`).
        export: what `distilect export` measured (`export.json`).
        notes: what could not be read.
    """

    folder: Path
    metrics: dict[str, Any]
    config: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    selection: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    predictions: Predictions | None = None
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


def read_export(folder: Path) -> dict[str, Any]:
    """The content of `export.json`; empty where nothing was exported, or the file is damaged."""
    try:
        return mapping(json.loads((folder / "export.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def read_predictions(folder: Path) -> Predictions | None:
    """The content of `predictions.parquet`; None where there is none, or it is damaged."""
    try:
        return _predictions(pq.read_table(folder / "predictions.parquet"))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def read_run(folder: str | Path) -> RunFiles:
    """All files of the run in `folder`; only `metrics.json` must be there."""
    root, notes = Path(folder), list[str]()

    def table(name: str, read: Callable[[pa.Table], T], otherwise: T) -> T:
        try:
            return read(pq.read_table(root / name))
        except FileNotFoundError:
            return otherwise
        except (OSError, ValueError, LookupError, TypeError) as error:  # pyarrow's own errors derive from these
            notes.append(f"{name} could not be read: {' '.join(str(error).split())[:200]}")
            return otherwise

    metrics = read_metrics(root)
    predictions = table("predictions.parquet", _predictions, None)
    if predictions is not None and predictions.multi_label:
        predictions = replace(predictions, thresholds=_thresholds(metrics, predictions.labels))
    return RunFiles(
        folder=root,
        metrics=metrics,
        config=_text(root / "config.yaml"),
        history=_history(_text(root / "history.jsonl"), notes),
        selection=table("selection.parquet", lambda found: _rows(found, "epoch", "group", "rows"), []),
        rows=table("rows.parquet", lambda found: _rows(found, "epoch", "row", "text", "label", "asked"), []),
        predictions=predictions,
        export=read_export(root),
        notes=notes,
    )


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


def _history(text: str, notes: list[str]) -> list[dict[str, float]]:
    """The numbers of each line; a killed run may have left half a line."""
    entries, damaged = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            values = {key: number(value) for key, value in json.loads(line).items()}
        except (ValueError, AttributeError):  # no JSON, or no object
            damaged += 1
        else:
            entries.append({key: value for key, value in values.items() if value is not None})
    if damaged:
        notes.append(f"unreadable lines of history.jsonl that were left out: {damaged}")
    return entries


def _rows(table: pa.Table, *needed: str) -> list[Row]:
    table.select(needed)  # raises KeyError where a column is missing
    return [{key: None if value != value else value for key, value in row.items()} for row in table.to_pylist()]


def _predictions(table: pa.Table) -> Predictions | None:
    metadata = table.schema.metadata or {}
    if not table.num_rows or metadata.get(b"kind") == b"causal-lm":  # see `tokens`
        return None
    labels = tuple(str(name) for name in json.loads(metadata[b"labels"]))
    multi_label = metadata.get(b"kind") == b"multi-label"
    if multi_label:
        gold = np.array([row or [-1] * len(labels) for row in table["label"].to_pylist()], np.int64)
    else:
        gold = table["label"].to_numpy().astype(np.float64)  # null → NaN
    if labels and not multi_label:
        gold = np.where(np.isnan(gold), -1, gold).astype(np.int64)

    def outputs(name: str) -> NDArray[np.float64]:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float64).reshape(table.num_rows, max(1, len(labels)))

    offsets = None
    if metadata.get(b"kind") == b"tokens":
        starts = np.flatnonzero(np.diff(table["row"].to_numpy(), prepend=-1))
        offsets = np.append(starts, table.num_rows).astype(np.int64)
    teachers = [name for name in table.column_names if name.startswith("teacher/")]
    return Predictions(
        metadata[b"split"].decode(),
        labels,
        gold,
        outputs("student"),
        {name.removeprefix("teacher/"): outputs(name) for name in teachers},
        table.select([name for name in ("text", "text_2") if name in table.column_names]),
        multi_label,
        offsets=offsets,
    )


def _thresholds(metrics: dict[str, Any], labels: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Those that `metrics.json` holds for all labels, by model."""
    models = {"student": part(metrics, "student")}
    models |= {f"teacher/{raw.get('name')}": raw for raw in records(metrics.get("teachers"))}
    found: dict[str, NDArray[np.float64]] = {}
    for name, model in models.items():
        values = [number(part(model, "thresholds", label)) for label in labels]
        if all(value is not None and 0 < value < 1 for value in values):
            found[name] = np.array(values, np.float64)
    return found
