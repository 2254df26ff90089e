"""Models side by side: one row per teacher, student or baseline, as every table and the verdict show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distilect.report.files import mapping, number, part, records

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ModelRow:
    """One model. None stands for "not known", e.g. the bytes of a teacher that is a table of outputs.

    `smaller` and `faster` compare bytes and latency with the best teacher's: 2.0 is half of it.
    """

    name: str
    role: Role
    scores: dict[str, float]
    score: float | None
    parameters: float | None
    bytes: float | None
    latency_ms: float | None
    latency_p95_ms: float | None
    rows_per_second: float | None
    smaller: float | None = None
    faster: float | None = None


def primary_metric(metrics: Mapping[str, Any]) -> str:
    """Name of the metric that decides; "" when the run names none."""
    names = [
        metrics.get("primary"),
        *(part(metrics, "task", "metrics") or []),
        *mapping(part(metrics, "student", "scores")),
    ]
    return next((name for name in names if isinstance(name, str) and name), "")


def method_name(metrics: Mapping[str, Any]) -> str:
    """The run's method as one word."""
    method = metrics.get("method")
    return str(method.get("name", "")) if isinstance(method, dict) else str(method or "")


def model_rows(metrics: Mapping[str, Any]) -> list[ModelRow]:
    """Teachers (in their order), the student, then baselines; each compared with the best teacher."""
    return _compared(_teachers(metrics) + _students(metrics))


def side_by_side(runs: Sequence[Mapping[str, Any]]) -> list[ModelRow]:
    """All teachers of several runs, each once, then all students.

    A student stays compared with the best teacher as its own run measured it: times of two runs do not.
    """
    teachers: dict[Any, ModelRow] = {}
    students: list[ModelRow] = []
    for metrics in runs:
        paths = [str(raw.get("path")) for raw in records(metrics.get("teachers"))]
        rows = model_rows(metrics)
        for row, path in zip(rows, paths, strict=False):  # teachers come first
            teachers.setdefault((row.name, path, row.score), row)
        students += [row for row in rows if row.role == "student"]
    return [*teachers.values(), *students]


def best_teacher(rows: Sequence[ModelRow]) -> ModelRow | None:
    """The teacher with the highest score, or None without any."""
    teachers = [row for row in rows if row.role == "teacher"]
    return max(teachers, key=lambda row: -math.inf if row.score is None else row.score, default=None)


def share_kept(student: ModelRow, teacher: ModelRow | None) -> float | None:
    """Student's score over the teacher's; None unless both are known and not negative."""
    if teacher is None or teacher.score is None or student.score is None or teacher.score <= 0 or student.score < 0:
        return None
    return student.score / teacher.score


def _teachers(metrics: Mapping[str, Any]) -> list[ModelRow]:
    primary = primary_metric(metrics)
    found = records(metrics.get("teachers"))
    return [_row(raw, "teacher", str(raw.get("name") or f"teacher {i}"), primary) for i, raw in enumerate(found)]


def _students(metrics: Mapping[str, Any]) -> list[ModelRow]:
    primary = primary_metric(metrics)
    own = (
        [_row(metrics["student"], "student", _student_name(metrics), primary)]
        if mapping(metrics.get("student"))
        else []
    )
    others = [
        _row(raw["student"] if mapping(raw.get("student")) else raw, "student", _student_name(raw), primary)
        for raw in records(metrics.get("baselines"))
    ]
    return own + others


def _student_name(metrics: Mapping[str, Any]) -> str:
    return method_name(metrics) or str(metrics.get("name") or "student")


def _row(raw: Mapping[str, Any], role: Role, name: str, primary: str) -> ModelRow:
    values = {key: number(value) for key, value in mapping(raw.get("scores")).items()}
    scores = {str(key): value for key, value in values.items() if value is not None}
    return ModelRow(
        name=name,
        role=role,
        scores=scores,
        score=scores.get(primary),
        parameters=number(raw.get("parameters")),
        bytes=number(raw.get("bytes")) or None,  # 0: its files are not here
        latency_ms=number(part(raw, "latency_ms", "p50")),
        latency_p95_ms=number(part(raw, "latency_ms", "p95")),
        rows_per_second=number(raw.get("rows_per_second")),
    )


def _compared(rows: list[ModelRow]) -> list[ModelRow]:
    best = best_teacher(rows)
    if best is None:
        return rows
    return [
        replace(row, smaller=_ratio(best.bytes, row.bytes), faster=_ratio(best.latency_ms, row.latency_ms))
        for row in rows
    ]


def _ratio(reference: float | None, value: float | None) -> float | None:
    return reference / value if reference and value else None
