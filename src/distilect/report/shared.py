"""What the page of one run and the page of several both show of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distilect.report import words
from distilect.report.files import part
from distilect.report.rows import ModelRow, best_teacher, method_name


def models_table(rows: Sequence[ModelRow], primary: str) -> dict[str, Any]:
    """Column titles and cells; further metrics of the task follow the primary one."""
    others = list(dict.fromkeys(name for row in rows for name in row.scores if name != primary))
    titles = [primary or "score", *others, "parameters", "MB on disk", "ms/row p50", "ms/row p95", "rows/s"]
    best = best_teacher(rows)
    body = [{"name": row.name, "role": row.role, "best": row is best, "cells": _cells(row, others)} for row in rows]
    return {"titles": [*titles, "×\u00a0smaller", "×\u00a0faster"], "rows": body}


def _cells(row: ModelRow, others: Sequence[str]) -> list[str]:
    return [
        words.score(row.score),
        *(words.score(row.scores.get(name)) for name in others),
        words.count(row.parameters),
        words.megabytes(row.bytes),
        words.milliseconds(row.latency_ms),
        words.milliseconds(row.latency_p95_ms),
        words.rate(row.rows_per_second),
        words.times(row.smaller),
        words.times(row.faster),
    ]


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line under the title: what was run."""
    kind, labels = part(metrics, "task", "kind"), part(metrics, "task", "labels")
    task = " ".join(str(value) for value in (part(metrics, "task", "name"), kind) if value)
    if isinstance(labels, (list, tuple)) and labels:
        task += f", {len(labels)} labels"
    found = [
        ("task", task),
        ("method", method_name(metrics)),
        ("student from", _source(part(metrics, "student", "source"))),
        ("seed", metrics.get("seed")),
        ("finished", metrics.get("finished")),
    ]
    return [(title, str(value)) for title, value in found if value not in (None, "")]


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return str(source or "")
    layers = source.get("layers")
    chosen = f", layers {', '.join(map(str, layers))}" if isinstance(layers, (list, tuple)) else ""
    return f"{source.get('path', '')}{chosen}"
