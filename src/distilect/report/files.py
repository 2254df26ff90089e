"""A run's files, read for showing: what is missing or damaged is left out and told, it never stops a page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilect.errors import RunError


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind. `selection`: a dict per epoch and group; `notes`: what could not be read."""

    folder: Path
    metrics: dict[str, Any]
    config: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
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
    selection, fault = _selection(root / "selection.parquet")
    if fault:
        notes.append(fault)
    return RunFiles(root, metrics, config, history, selection, notes)


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


def _selection(path: Path) -> tuple[list[dict[str, Any]], str]:
    if not path.is_file():
        return [], ""
    try:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # here: few pages need it

        return pq.read_table(path).to_pylist(), ""
    except (OSError, ValueError, ImportError) as error:  # pyarrow's own errors derive from these
        return [], f"selection.parquet could not be read: {' '.join(str(error).split())[:200]}"
