"""Self-contained HTML pages of one run, or of several side by side, made from their files alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distilect.errors import RunError
from distilect.report import words
from distilect.report.figures import Figure, learning_curves, score_against_cost, selection_over_time
from distilect.report.files import RunFiles, mapping, number, part, read_metrics, read_run
from distilect.report.rows import (
    ModelRow,
    best_teacher,
    method_name,
    model_rows,
    primary_metric,
    share_kept,
    side_by_side,
)

_MAX_GROUPS = 30


def build_report(run_folder: str | Path) -> Path:
    """Write `report.html` into the run's folder; all files but `metrics.json` may be missing.

    Raises:
        RunError: there is no readable `metrics.json`.
    """
    run = read_run(run_folder)
    target = run.folder / "report.html"
    write_page(target, render("run.html.j2", _run_context(run)))
    return target


def build_summary(folders: Iterable[str | Path], target: str | Path) -> Path:
    """Write a page that shows the runs in `folders` side by side; returns `target`.

    Raises:
        RunError: no folders were given, or one of them has no readable `metrics.json`.
    """
    paths = [Path(folder) for folder in folders]
    runs = [read_metrics(path) for path in paths]
    if not runs:
        raise RunError("no runs to compare: give at least one run folder")
    page, primary = Path(target), primary_metric(runs[0])
    rows = side_by_side(runs)
    figure = score_against_cost(rows, primary)
    context = {
        "title": f"{len(runs)} runs side by side" if len(runs) > 1 else str(runs[0].get("name", "run")),
        "primary": primary or "score",
        "table": _table(rows, primary),
        "figures": [asdict(figure)] if figure else [],
        "runs": [
            {
                "name": str(metrics.get("name") or path.name),
                "link": _link(path, page),
                "facts": _facts(metrics),
            }
            for metrics, path in zip(runs, paths, strict=True)
        ],
    }
    write_page(page, render("summary.html.j2", context))
    return page


def _link(folder: Path, page: Path) -> str:
    """Relative address of a run's own page, "" when it has none."""
    report = folder / "report.html"
    if not report.is_file():
        return ""
    return "./" + quote(Path(os.path.relpath(report.resolve(), page.parent.resolve())).as_posix())


def _run_context(run: RunFiles) -> dict[str, Any]:
    metrics, rows = run.metrics, model_rows(run.metrics)
    primary = primary_metric(metrics)
    scatter = score_against_cost(rows, primary)
    curves = learning_curves(run.history)
    return {
        "title": str(metrics.get("name") or run.folder.name),
        "facts": _facts(metrics),
        "verdict": _verdict(metrics, rows, primary),
        "primary": primary or "score",
        "table": _table(rows, primary),
        "figures": [asdict(figure) for figure in ([scatter] if scatter else [])],
        "curves": [asdict(figure) for figure in curves if not figure.folded],
        "folded": [asdict(figure) for figure in curves if figure.folded],
        "selection": [asdict(figure) for figure in selection_over_time(run.selection)],
        "groups": _groups(run.selection),
        "cost": _cost(metrics),
        "rows": _counts(metrics),
        "held_out": _scores(part(metrics, "student", "held_out")),
        "versions": _plain(metrics.get("versions")),
        "machine": _plain(metrics.get("machine")),
        "config": run.config,
        "notes": run.notes,
    }


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
    held_out = number(part(metrics, "student", "held_out", primary))
    if not student.scores and held_out is not None:
        return f"{primary} {words.score(held_out)} on the held-out split (no dev rows)"
    return f"{primary or 'score'} {words.score(student.score)}"


def _verdict_details(
    metrics: Mapping[str, Any], student: ModelRow, best: ModelRow | None, primary: str
) -> list[str]:
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


def _tiles(
    student: ModelRow, best: ModelRow | None, kept: float | None, primary: str
) -> list[dict[str, str]]:
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


def _table(rows: Sequence[ModelRow], primary: str) -> dict[str, Any]:
    """Column titles and cells; further metrics of the task follow the primary one."""
    others = list(dict.fromkeys(name for row in rows for name in row.scores if name != primary))
    titles = [
        primary or "score",
        *others,
        "parameters",
        "MB on disk",
        "ms/row p50",
        "ms/row p95",
        "rows/s",
    ]
    best = best_teacher(rows)
    body = [
        {"name": row.name, "role": row.role, "best": row is best, "cells": _cells(row, others)}
        for row in rows
    ]
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


def _groups(selection: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What was selected in the last epoch, per group of rows; None when there is one group only."""
    rows = [row for row in selection if row.get("group") != "all"]
    if not rows:
        return None
    last = max(number(row.get("epoch")) or 0.0 for row in rows)
    chosen = [row for row in rows if (number(row.get("epoch")) or 0.0) == last]
    chosen.sort(key=lambda row: -(number(row.get("rows")) or 0.0))
    columns = [
        key for key in chosen[0] if key.startswith(("teacher/", "knowledge/")) or key in ("asked", "trained")
    ]
    columns = [key for key in columns if any(number(row.get(key)) is not None for row in chosen)]
    body = [
        {
            "name": str(row.get("group")),
            "rows": words.whole(number(row.get("rows"))),
            "cells": [_share(number(row.get(key))) for key in columns],
        }
        for row in chosen[:_MAX_GROUPS]
    ]
    titles = [key.partition("/")[2] or key for key in columns]
    return {
        "epoch": words.whole(last),
        "titles": titles,
        "rows": body,
        "left_out": max(0, len(chosen) - _MAX_GROUPS),
    }


def _share(value: float | None) -> dict[str, Any]:
    """A weight as text, and as the percentage of its cell that is filled."""
    filled = 0 if value is None else round(100 * min(max(value, 0.0), 1.0))
    return {"text": words.NONE if value is None else f"{value:.2f}", "filled": filled}


def _facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line under the title: what was run."""
    kind, labels = part(metrics, "task", "kind"), part(metrics, "task", "labels")
    task = " ".join(str(value) for value in (part(metrics, "task", "name"), kind) if value)
    if isinstance(labels, (list, tuple)) and labels:
        task += f", {len(labels)} labels"
    facts = [
        ("task", task),
        ("method", method_name(metrics)),
        ("student from", _source(part(metrics, "student", "source"))),
        ("seed", metrics.get("seed")),
        ("finished", metrics.get("finished")),
    ]
    return [(title, str(value)) for title, value in facts if value not in (None, "")]


def _source(source: Any) -> str:
    if not isinstance(source, dict):
        return str(source or "")
    layers = source.get("layers")
    chosen = f", layers {', '.join(map(str, layers))}" if isinstance(layers, (list, tuple)) else ""
    return f"{source.get('path', '')}{chosen}"


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
        "reward": "held out of train",
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


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from one of our templates, with plotly inside."""
    page: str = _environment().get_template(template).render(**context, plotly=_plotly())
    return page


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Everything is escaped unless the template says otherwise, and it does so for plotly's source only."""
    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # here: it reads 5 MB

    return str(get_plotlyjs())


def write_page(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # "replace": a lone surrogate from a JSON file must not lose the whole page.
    temporary.write_bytes(text.encode("utf-8", "replace"))
    os.replace(temporary, path)


__all__ = ["Figure", "build_report", "build_summary"]
