"""The page of one run, made from its files alone; self-contained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distilect.report import words
from distilect.report.answers import agreement, answer_figures, calibration_table, differences
from distilect.report.decisions import decision_figures, decision_table
from distilect.report.figures import Figure, curves_of, knowledge_by_phase, score_against_cost, selection_over_time
from distilect.report.files import RunFiles, mapping, number, part, read_run, records
from distilect.report.rows import ModelRow, best_teacher, model_rows, primary_metric, share_kept
from distilect.report.shared import facts, models_table
from distilect.report.shell import Cell, DataTable, render, write_page

_MAX_GROUPS = 30


def build_report(run_folder: str | Path) -> Path:
    """Write `report.html` into the run's folder; all files but `metrics.json` may be missing.

    Raises:
        RunError: there is no readable `metrics.json`.
    """
    run = read_run(run_folder)
    return write_page(run.folder / "report.html", render("run.html.j2", _context(run)))


def _context(run: RunFiles) -> dict[str, Any]:
    metrics, rows = run.metrics, model_rows(run.metrics)
    primary, best = primary_metric(metrics), best_teacher(rows)
    scatter, phases = score_against_cost(rows, primary), knowledge_by_phase(run.history)
    curves = curves_of(run.history)
    selected = [
        *selection_over_time(run.selection),
        *([phases] if phases else []),
        *decision_figures(run.rows),
        *curves.selection,
    ]
    found = {
        "title": str(metrics.get("name") or run.folder.name),
        "facts": facts(metrics),
        "verdict": _verdict(metrics, rows, primary),
        "primary": primary or "score",
        "table": models_table(rows, primary),
        "figures": _dicts([scatter] if scatter else []),
        "curves": _dicts(curves.learning),
        "folded": _dicts(curves.optimiser),
        "selection": _dicts(selected),
        "health": _dicts(curves.health),
        "groups": _groups(run.selection),
        "decisions": decision_table(run.rows),
        "answers": _answers(run, best),
        "export": _export(run.export),
        "cost": _cost(metrics),
        "rows": _counts(metrics),
        "validation": _scores(part(metrics, "student", "validation")),
        "versions": _plain(metrics.get("versions")),
        "machine": _plain(metrics.get("machine")),
        "config": run.config,
        "notes": run.notes,
    }
    return found | {"contents": _contents(found)}


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Ids and titles of the sections that the page has."""
    answers = context["answers"] or {}
    sections = (
        ("models", "Models", True),
        ("learning", "Learning", context["curves"]),
        ("selection", "What was selected", context["selection"] or context["groups"] or context["decisions"]),
        ("health", "Selectors' health", context["health"]),
        ("answers", "Right and wrong", answers),
        ("differences", "Student against teacher", answers.get("differences")),
        ("export", "Exported", context["export"]),
        ("cost", "Cost and circumstances", True),
    )
    return [(place, title) for place, title, there in sections if there]


def _dicts(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]


def _answers(run: RunFiles, best: ModelRow | None) -> dict[str, Any] | None:
    """What the models said row by row: plots, calibration, and where student and teacher differ most."""
    answers = run.answers
    if answers is None:
        return None
    teacher = best.name if best is not None and best.name in answers.teachers else next(iter(answers.teachers), None)
    where = "on the dev rows" if answers.split == "dev" else "on rows held out of train, which chose the checkpoint"
    return {
        "where": f"{words.whole(len(answers.gold))} {where.removeprefix('on the ').removeprefix('on ')}",
        "figures": _dicts(answer_figures(answers, teacher)),
        "calibration": calibration_table(answers),
        "agreement": agreement(answers, teacher),
        "differences": differences(answers, teacher),
        "teacher": teacher,
    }


def _export(export: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `distilect export` checked and timed; None before it ran."""
    times = records(export.get("speed"))
    if not times:
        return None
    titles = ["model", "threads", "batch", "ms p50", "ms p95", "rows/s"]
    body = [
        [
            Cell(str(line.get("model"))),
            *(_number(line.get(key), words.whole) for key in ("threads", "batch")),
            *(_number(line.get(key), words.milliseconds) for key in ("p50_ms", "p95_ms")),
            _number(line.get("rows_per_second"), words.rate),
        ]
        for line in times
    ]
    checks = [(str(check.get("file")), str(check.get("text"))) for check in records(export.get("files"))]
    return {"checks": checks, "table": DataTable("speed", titles, body)}


def _number(value: Any, shown: Any) -> Cell:
    known = number(value)
    return Cell(shown(known), known)


def _verdict(metrics: Mapping[str, Any], rows: Sequence[ModelRow], primary: str) -> dict[str, Any]:
    """What the run came to: a headline, and the numbers below it."""
    student = next((row for row in rows if row.role == "student"), None)
    best = best_teacher(rows)
    if student is None:
        return {"headline": "This run has no student.", "details": [], "tiles": []}
    kept = share_kept(student, best)
    gains = [
        words.comparison(student.smaller, "smaller", "larger"),
        words.comparison(student.faster, "faster", "slower"),
    ]
    gains = [gain for gain in gains if gain]
    if kept is not None and best is not None:
        # Cut, never rounded up: 99.96 % is not "100 % of the teacher".
        headline = f"{math.floor(1000 * kept + 1e-9) / 10:.1f} % of the best teacher's {primary}"
    else:
        headline = _own_score(metrics, student, primary)
    return {
        "headline": ", ".join([headline, *gains]),
        "details": _verdict_details(metrics, student, best, primary),
        "tiles": _tiles(student, best, kept, primary),
    }


def _own_score(metrics: Mapping[str, Any], student: ModelRow, primary: str) -> str:
    """The student's score where no teacher's stands beside it; on the held-out split in runs without dev."""
    validation = number(part(metrics, "student", "validation", primary))
    if not student.scores and validation is not None:
        return f"{primary} {words.score(validation)} on the held-out split (no dev rows)"
    return f"{primary or 'score'} {words.score(student.score)}"


def _verdict_details(metrics: Mapping[str, Any], student: ModelRow, best: ModelRow | None, primary: str) -> list[str]:
    dev = number(part(metrics, "rows", "dev"))
    on = f" on {words.whole(dev)} dev rows" if dev else ""
    if best is None or best.score is None or student.score is None:
        return ["There is no teacher's score to compare with."]
    teacher = f"best teacher ({best.name}) {words.score(best.score)} {primary}"
    difference = "a difference of " + f"{student.score - best.score:+.3f}".replace("-", "−")
    lines = [f"Student {words.score(student.score)}, {teacher}{on}: {difference}."]
    if primary == "accuracy" and dev and 0.0 <= student.score <= 1.0:
        spread = 1.96 * math.sqrt(student.score * (1.0 - student.score) / dev)
        drawn = f"which {words.whole(dev)} rows dev happens to hold"
        lines.append(f"Chance, that is {drawn}, moves such an accuracy by about ±{spread:.3f} (95 %).")
    return lines


def _tiles(student: ModelRow, best: ModelRow | None, kept: float | None, primary: str) -> list[dict[str, str]]:
    """Four numbers, each with the teacher's beside it."""

    def tile(title: str, own: str, other: str) -> dict[str, str]:
        return {
            "title": title,
            "value": own,
            "note": f"teacher {other}" if best is not None and other != words.NONE else "",
        }

    other = best or student
    return [
        tile(primary or "score", words.score(student.score), words.score(other.score)),
        tile("parameters", words.count(student.parameters), words.count(other.parameters)),
        tile("MB on disk", words.megabytes(student.bytes), words.megabytes(other.bytes)),
        tile("ms per row", words.milliseconds(student.latency_ms), words.milliseconds(other.latency_ms)),
        tile("rows per second", words.rate(student.rows_per_second), words.rate(other.rows_per_second)),
    ]


def _groups(selection: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What was selected in the last epoch, per group of rows; None when there is one group only."""
    rows = [row for row in selection if row.get("group") != "all"]
    if not rows:
        return None
    last = max(number(row.get("epoch")) or 0.0 for row in rows)
    chosen = [row for row in rows if (number(row.get("epoch")) or 0.0) == last]
    chosen.sort(key=lambda row: -(number(row.get("rows")) or 0.0))
    columns = [key for key in chosen[0] if key.startswith(("teacher/", "knowledge/")) or key in ("asked", "trained")]
    columns = [key for key in columns if any(number(row.get(key)) is not None for row in chosen)]
    # Shares that are 1 everywhere say nothing: no rows were selected.
    columns = [
        key
        for key in columns
        if key not in ("asked", "trained") or any((number(row.get(key)) or 0.0) < 0.9995 for row in chosen)
    ]
    body = [
        {
            "name": str(row.get("group")),
            "rows": words.whole(number(row.get("rows"))),
            "cells": [_share(number(row.get(key))) for key in columns],
        }
        for row in chosen[:_MAX_GROUPS]
    ]
    titles = [key.partition("/")[2] or key for key in columns]
    return {"epoch": words.whole(last), "titles": titles, "rows": body, "left_out": max(0, len(chosen) - _MAX_GROUPS)}


def _share(value: float | None) -> dict[str, Any]:
    """A weight as text, and as the percentage of its cell that is filled."""
    filled = 0 if value is None else round(100 * min(max(value, 0.0), 1.0))
    return {"text": words.NONE if value is None else f"{value:.2f}", "filled": filled}


def _cost(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    cost, signals = mapping(metrics.get("cost")), mapping(metrics.get("signals"))
    lines = [
        ("training the student", words.duration(number(cost.get("train_seconds")))),
        ("training the selection module", words.duration(number(cost.get("selection_seconds")))),
        ("scoring with the teachers", words.duration(number(cost.get("scoring_seconds")))),
        ("fine-tuning teachers", words.duration(number(cost.get("finetune_seconds")) or None)),
        ("teacher forward passes (rows × teachers)", words.whole(number(cost.get("teacher_forwards")))),
        ("rows read from the signal store", words.whole(number(signals.get("reused_rows")))),
        ("rows scored", words.whole(number(signals.get("scored_rows")))),
        ("optimiser steps", words.whole(number(cost.get("steps")))),
        ("tokens trained on", words.count(number(cost.get("tokens")))),
        ("student, operations per token", words.count(number(part(metrics, "student", "flops_per_token")))),
    ]
    if isinstance(signals.get("live"), bool):
        lines.append(("teachers ran", "live, in every step" if signals["live"] else "once, before training"))
    return [(title, value) for title, value in lines if value != words.NONE]


def _counts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "train": "train",
        "validation": "held out of train",
        "dev": "dev (reported)",
        "extra": "unlabelled",
        "truncated": "cut",
    }
    counts = mapping(metrics.get("rows"))
    known = [(title, number(counts.get(key))) for key, title in names.items()]
    return [(title, words.whole(value)) for title, value in known if value is not None]


def _scores(values: Any) -> list[tuple[str, str]]:
    return [(str(name), words.score(number(value))) for name, value in mapping(values).items()]


def _plain(values: Any) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in mapping(values).items() if value is not None]


__all__ = ["build_report"]
