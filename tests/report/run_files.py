"""A run's folder as the pipeline leaves it, for tests of what shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def model(accuracy: float, megabytes: float, milliseconds: float) -> dict[str, Any]:
    return {
        "scores": {"accuracy": accuracy, "f1": accuracy + 0.05},
        "parameters": int(megabytes * 250_000),
        "bytes": int(megabytes * 1e6),
        "latency_ms": {"p50": milliseconds, "p95": 1.5 * milliseconds},
        "rows_per_second": 2000 / milliseconds,
    }


def metrics(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "a-run",
        "task": {
            "name": "polarity",
            "kind": "classification",
            "labels": ["no", "yes"],
            "metrics": ["accuracy", "f1"],
            "num_texts": 1,
        },
        "method": "rlkd",
        "seed": 0,
        "primary": "accuracy",
        "student": {
            **model(0.72, 40, 4.0),
            "validation": {"accuracy": 0.75},
            "source": {"path": "t", "layers": [1, 3]},
        },
        "teachers": [
            {"name": "weak", **model(0.70, 80, 8.0), "path": "a"},
            {"name": "strong", **model(0.80, 100, 10.0), "path": "b"},
            {"name": "table", "scores": {"accuracy": 0.6}},
        ],
        "cost": {"train_seconds": 61.0, "scoring_seconds": 5.0, "teacher_forwards": 1200, "steps": 40, "tokens": 9000},
        "rows": {"train": 600, "validation": 60, "dev": 100, "extra": 0, "truncated": 3},
        "versions": {"distilect": "0.1.0", "torch": "2.13.0"},
        "signals": {"reused_rows": 0, "scored_rows": 1200, "live": False},
    }
    return values | changes


def write_run(folder: Path, values: dict[str, Any] | None = None, *, name: str = "weak", group: str = "yes") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(values or metrics()))
    (folder / "config.yaml").write_text(f"name: {group}\n")
    history = [
        {"step": step, "epoch": step / 20, "train/loss": 2.0 / step, f"teacher/w_{name}": 0.5, "policy/entropy": 0.6}
        for step in range(10, 50, 10)
    ]
    history.append({"step": 40, "epoch": 2.0, "eval/accuracy": 0.7, "eval/loss": 0.9})
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    rows = [
        {
            "epoch": e,
            "group": g,
            "rows": 300,
            "asked": 0.8,
            "trained": 1.0,
            f"teacher/{name}": 0.25,
            "knowledge/labels": 0.5,
        }
        for e in (0, 1)
        for g in ("all", group)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "selection.parquet")
    return folder


def write_rows(
    folder: Path,
    count: int = 40,
    *,
    teachers: Sequence[str] = ("weak", "strong"),
    text: str = "row {row} of train",
    epochs: int = 2,
    asked: float = 1.0,
) -> None:
    """`rows.parquet`: weights that differ from row to row, the first teacher right on even rows; `asked` of the rows ask."""
    lines = []
    for epoch in range(epochs):
        for row in range(count):
            line: dict[str, Any] = {"epoch": epoch, "row": 3 * row, "text": text.format(row=row)}
            line |= {"label": ("no", "yes")[row % 2], "asked": row < asked * count, "trained": True}
            line["uncertainty"] = row / count
            line |= {f"teacher/{name}": (row + k) % 3 / 2 for k, name in enumerate(teachers)}
            line |= {f"right/{name}": float(row % 2 == k % 2) for k, name in enumerate(teachers)}
            lines.append(line | {"knowledge/labels": 0.5, "knowledge/response": 0.5})
    pq.write_table(pa.Table.from_pylist(lines), folder / "rows.parquet")


def write_answers(
    folder: Path,
    count: int = 60,
    *,
    labels: Sequence[str] = ("no", "yes"),
    teachers: Sequence[str] = ("weak", "strong"),
    text: str = "row {row} of dev",
    split: str = "dev",
    seed: int = 0,
) -> None:
    """`predictions.parquet` with random answers; no labels: a regression."""
    random, width = np.random.default_rng(seed), max(1, len(labels))
    gold = random.integers(0, width, count) if labels else random.normal(size=count).astype(np.float32)
    columns: dict[str, Any] = {"row": np.arange(count), "text": [text.format(row=i) for i in range(count)]}
    columns["label"] = pa.array(gold, mask=np.arange(count) == 0)  # the first row has none
    for name in ("student", *(f"teacher/{name}" for name in teachers)):
        logits = random.normal(size=count * width).astype(np.float32)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(logits), width)
    metadata = {"split": split, "labels": json.dumps(list(labels))}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "predictions.parquet")
