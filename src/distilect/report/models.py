"""Models side by side: one row per teacher or student, as every table and the verdict show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from distilect.evaluation import ratio_to, share_kept
from distilect.report import words
from distilect.report.files import mapping, number, part, records

# What a run cost: title, key in `cost` of metrics.json, how it is shown.
COST = (
    ("training the student", "train_seconds", words.duration),
    ("training the selection module", "selection_seconds", words.duration),
    ("scoring with the teachers", "scoring_seconds", words.duration),
    ("fine-tuning teachers", "finetune_seconds", words.duration),
    ("optimiser steps", "steps", words.whole),
    ("tokens trained on", "tokens", words.count),
    ("teacher forward passes (rows × teachers)", "teacher_forwards", words.whole),
    ("rows that asked teachers", "teacher_rows", words.whole),
)
SIZES = ("parameters", "MB on disk", "ms/row p50", "rows/s")  # the columns that short tables have
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
    calibration: str = ""
    smaller: float | None = None
    faster: float | None = None

    @property
    def cells(self) -> dict[str, str]:
        """Size and speed as text, by the title of their column."""
        return {
            "parameters": words.count(self.parameters),
            "MB on disk": words.megabytes(self.bytes),
            "ms/row p50": words.digits(self.latency_ms),
            "ms/row p95": words.digits(self.latency_p95_ms),
            "rows/s": words.digits(self.rows_per_second),
            "smaller": words.times(self.smaller),
            "faster": words.times(self.faster),
        }

    @property
    def gains(self) -> str:
        """`, 2.50× smaller, 1.20× slower` than the best teacher; "" where nothing is known."""
        found = (words.comparison(self.smaller, "smaller", "larger"), words.comparison(self.faster, "faster", "slower"))
        return "".join(f", {gain}" for gain in found if gain)


class Outcome(NamedTuple):
    """What a run came to: its models, the student and the best teacher among them, and the share of its score that is kept."""

    primary: str
    rows: list[ModelRow]
    student: ModelRow | None
    best: ModelRow | None
    kept: float | None


def outcome(metrics: Mapping[str, Any]) -> Outcome:
    """The outcome of a run, from its `metrics.json`; `kept` is None unless both scores are known and not negative."""
    rows = model_rows(metrics)
    best, student = best_teacher(rows), next((row for row in rows if row.role == "student"), None)
    own, other = (row.score if row else None for row in (student, best))
    kept = share_kept(own, other) if own is not None and own >= 0 else None
    return Outcome(primary_metric(metrics), rows, student, best, kept)


def primary_metric(metrics: Mapping[str, Any]) -> str:
    """Name of the metric that decides; "" when the run names none."""
    scores = mapping(part(metrics, "student", "scores"))
    names = [metrics.get("primary"), *(part(metrics, "task", "metrics") or []), *scores]
    return next((name for name in names if isinstance(name, str) and name), "")


def method_name(metrics: Mapping[str, Any]) -> str:
    """The run's method as one word."""
    method = metrics.get("method")
    return str(method.get("name", "")) if isinstance(method, dict) else str(method or "")


def model_rows(metrics: Mapping[str, Any]) -> list[ModelRow]:
    """Teachers (in their order), then the student; each compared with the best teacher."""
    primary, student = primary_metric(metrics), mapping(metrics.get("student"))
    teachers = enumerate(records(metrics.get("teachers")))
    rows = [_row(raw, "teacher", str(raw.get("name") or f"teacher {i}"), primary) for i, raw in teachers]
    if student:
        rows.append(_row(student, "student", method_name(metrics) or str(metrics.get("name") or "student"), primary))
    best = best_teacher(rows)
    if best is None:
        return rows
    return [
        replace(row, smaller=ratio_to(best.bytes, row.bytes), faster=ratio_to(best.latency_ms, row.latency_ms))
        for row in rows
    ]


def side_by_side(runs: Sequence[Mapping[str, Any]]) -> list[ModelRow]:
    """All teachers of several runs, each once, then all students.

    A student stays compared with the best teacher as its own run measured it: times of two runs do not compare.
    """
    teachers: dict[Any, ModelRow] = {}
    students: list[ModelRow] = []
    for metrics in runs:
        rows = model_rows(metrics)
        paths = [str(raw.get("path")) for raw in records(metrics.get("teachers"))]
        for row, path in zip(rows, paths, strict=False):  # teachers come first
            teachers.setdefault((row.name, path, row.score), row)
        students += rows[len(paths) :]
    return [*teachers.values(), *students]


def best_teacher(rows: Sequence[ModelRow]) -> ModelRow | None:
    """The teacher with the highest score, or None without any."""
    teachers = [row for row in rows if row.role == "teacher"]
    return max(teachers, key=lambda row: -math.inf if row.score is None else row.score, default=None)


def sampling_error(metrics: Mapping[str, Any], score: float | None) -> str:
    """A sentence on how far chance moves an accuracy; "" for other metrics and for words, which are not independent, or where the number of
    dev rows is unknown."""
    dev = number(part(metrics, "rows", "dev"))
    if (
        primary_metric(metrics) != "accuracy"
        or part(metrics, "task", "kind") == "tokens"
        or not dev
        or score is None
        or not 0 < score < 1
    ):
        return ""
    error = 1.96 * math.sqrt(score * (1 - score) / dev)
    return f"On {words.whole(dev)} rows, the 95 % confidence interval of this accuracy is about ±{error:.3f}."


def models_table(rows: Sequence[ModelRow], primary: str) -> dict[str, Any]:
    """Column titles and cells; further metrics of the task follow the primary one."""
    others = list(dict.fromkeys(name for row in rows for name in row.scores if name != primary))
    best = best_teacher(rows)
    calibrated = ["calibrated"] if any(row.calibration for row in rows) else []
    body = []
    for row in rows:
        scores = [words.score(row.score), *(words.score(row.scores.get(name)) for name in others)]
        cells = [*scores, *(row.calibration or words.NONE for _ in calibrated), *row.cells.values()]
        body.append({"name": row.name, "role": row.role, "best": row is best, "cells": cells})
    sizes = rows[0].cells if rows else ()
    return {"titles": [primary or "score", *others, *calibrated, *sizes], "rows": body}


def calibration_text(calibration: Mapping[str, Any]) -> str:
    """`T 1.73, ECE 0.121 → 0.034`, of what `metrics.json` holds of a teacher; "" where its outputs are as it gave them."""
    temperature, slope, shift = (number(calibration.get(key)) for key in ("temperature", "slope", "shift"))
    if temperature is None and slope is None:
        return ""
    if slope is not None:
        parts = [f"{slope:.2f} · score {number(calibration.get('intercept')) or 0.0:+.2f}"]
    else:
        parts = [f"T {temperature:.2f}"]
    if shift is not None:
        classes = calibration.get("shifted")
        parts.append(f"{shift:+.2f}" + (f" on {len(classes)} classes" if isinstance(classes, list) else ""))
    for name in ("ece", "rmse"):
        before, after = (number(part(calibration, name, when)) for when in ("before", "after"))
        if before is not None and after is not None:
            parts.append(f"{name.upper()} {before:.3f} → {after:.3f}")
    return ", ".join(parts).replace("-", "−")


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run: task, method, student, seed, date."""
    labels, source = part(metrics, "task", "labels"), part(metrics, "student", "source")
    task = " ".join(str(value) for key in ("name", "kind") if (value := part(metrics, "task", key)))
    if isinstance(labels, list) and labels:
        task += f", {len(labels)} labels"
    if isinstance(source, dict):
        layers = source.get("layers")
        taken = f", layers {', '.join(map(str, layers))}" if isinstance(layers, list) else ""
        source = f"{source.get('path', '')}{taken}{kept_tokens(source)}"
    found = {
        "task": task,
        "method": method_name(metrics),
        "student from": source,
        "seed": metrics.get("seed"),
        "finished": metrics.get("finished"),
    }
    return [(title, str(value)) for title, value in found.items() if value not in (None, "")]


def kept_tokens(source: Mapping[str, Any]) -> str:
    """`, 8,000 of 30,522 tokens` of a student with a trimmed vocabulary."""
    kept, whole = (number(part(source, "vocabulary", key)) for key in ("tokens", "of"))
    return f", {words.whole(kept)} of {words.whole(whole)} tokens" if kept and whole else ""


def _row(raw: Mapping[str, Any], role: Role, name: str, primary: str) -> ModelRow:
    values = {str(key): number(value) for key, value in mapping(raw.get("scores")).items()}
    scores = {key: value for key, value in values.items() if value is not None}
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
        calibration=calibration_text(mapping(raw.get("calibration"))),
    )
