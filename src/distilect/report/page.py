"""The page of one run, made from its files alone; self-contained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distilect.report import words
from distilect.report.curves import curves_of, knowledge_by_phase
from distilect.report.decisions import decision_figures, decision_table
from distilect.report.entities import by_type, entity_counts_text, entity_table, type_table
from distilect.report.figures import Figure, score_against_cost
from distilect.report.files import RunFiles, mapping, number, part, read_run, records
from distilect.report.generations import generations
from distilect.report.label_sets import label_table
from distilect.report.models import COST, SIZES, Outcome, facts, models_table, outcome, sampling_error
from distilect.report.predictions import agreement, calibration_table, differences, prediction_figures
from distilect.report.selection import selection_by_epoch, selection_by_label
from distilect.report.shell import Cell, DataTable, number_cell, write_page
from distilect.report.teaching import read_teaching
from distilect.report.tokens import read_completions
from distilect.tasks import Scheme, scheme_of

# Title, place in metrics.json, how it is shown.
_COST = (
    *((title, f"cost.{key}", show) for title, key, show in COST),
    ("rows read from the signal store", "signals.reused_rows", words.whole),
    ("rows scored", "signals.scored_rows", words.whole),
    ("student, operations per token", "student.flops_per_token", words.count),
)
_ROWS = (
    ("train", "rows.train", words.whole),
    ("validation", "rows.validation", words.whole),
    ("dev (reported)", "rows.dev", words.whole),
    ("unlabelled", "rows.extra", words.whole),
    ("truncated", "rows.truncated", words.whole),
)
# Title, key in export.json, how it is shown.
SPEEDS = (
    ("threads", "threads", words.whole),
    ("batch", "batch", words.whole),
    ("ms p50", "p50_ms", words.digits),
    ("ms p95", "p95_ms", words.digits),
    ("rows/s", "rows_per_second", words.digits),
    ("× student", "faster", words.digits),
)


def build_report(run_folder: str | Path) -> Path:
    """Write `report.html` into the run's folder; all files but `metrics.json` may be missing.

    Raises:
        RunError: there is no readable `metrics.json`.
    """
    run = read_run(run_folder)
    metrics, result = run.metrics, outcome(run.metrics)
    curves, phases = curves_of(run.history), knowledge_by_phase(run.history)
    scheme, labels = _tags(metrics)
    unit = _unit(metrics)
    groups = by_type(run.selection, scheme, labels)
    what = "type" if scheme else "label"
    selected = [*selection_by_epoch(groups, what), phases, *decision_figures(run.rows), *curves["selection"]]
    live = part(metrics, "signals", "live")
    teachers_ran = [("teachers ran", "live, in every step" if live else "once, before training")]
    return write_page(
        run.folder / "report.html",
        "run.html.j2",
        title=str(metrics.get("name") or run.folder.name),
        facts=facts(metrics),
        verdict=_verdict(metrics, result),
        notes=run.notes,
        table=models_table(result.rows, result.primary),
        scatter=score_against_cost(result.rows, result.primary),
        curves=curves,
        selection=[_worded(figure, unit) for figure in selected if figure is not None],
        labels=selection_by_label(groups, what, f"{unit}s"),
        by=what,
        unit=unit,
        last_epoch=max((row["epoch"] for row in run.selection), default=0),
        decisions=decision_table(run.rows),
        teaching=read_teaching(run.folder),
        predictions=_predictions(run, result.best),
        completions=read_completions(run.folder),
        generations=generations(run),
        export=_export(run.export),
        circumstances={
            "Cost": _listed(metrics, _COST) + (teachers_ran if isinstance(live, bool) else []),
            "Rows": _listed(metrics, _ROWS),
            "Stages": [_stage(stage, result.primary) for stage in records(metrics.get("stages"))],
            _validation_heading(metrics): [
                (name, words.score(number(score)))
                for name, score in mapping(part(metrics, "student", "validation")).items()
            ],
            "Class weights": _known(metrics.get("class_weights")),
            "Versions": _known(metrics.get("versions")),
            "Machine": _known(metrics.get("machine")),
        },
        config=run.config,
    )


def _worded(figure: Figure, unit: str) -> Figure:
    """What is called a row in other tasks is a word or a token where these have labels."""
    title = re.sub(r"^Rows\b", f"{unit.capitalize()}s", re.sub(r" by row$", f" by {unit}", figure.title))
    return replace(figure, title=title, note=re.sub(r"\brow(s?)\b", rf"{unit}\1", figure.note))


def _unit(metrics: Mapping[str, Any]) -> str:
    """What has a label."""
    return {"tokens": "word", "causal-lm": "token"}.get(str(part(metrics, "task", "kind")), "row")


def _tags(metrics: Mapping[str, Any]) -> tuple[Scheme | None, list[str]]:
    """The scheme of the tags of words, and the labels."""
    names = part(metrics, "task", "labels")
    labels = [str(name) for name in names] if isinstance(names, list) else []
    return scheme_of(labels) if _unit(metrics) == "word" else None, labels


def _stage(stage: Mapping[str, Any], primary: str | None) -> tuple[str, str]:
    """One stage of a run: its name, and what it did."""
    score = words.score(number(part(stage, "validation", primary or "")))
    length = f"{number(stage.get('epochs')) or 0:g} epochs, {words.whole(number(stage.get('steps')))} steps"
    seconds = words.duration(number(stage.get("seconds")))
    return str(stage.get("name")), f"{stage.get('method')}, {length}, {seconds}; {score} on the validation split"


def _validation_heading(metrics: Mapping[str, Any]) -> str:
    by_teachers = metrics.get("validation_labels") == "teachers"
    return "Student on the validation split" + (", agreement with the teachers" if by_teachers else "")


def _verdict(metrics: Mapping[str, Any], result: Outcome) -> dict[str, Any]:
    """What the run came to: a headline, sentences below it, and numbers, each with the teacher's beside it."""
    primary, _, student, best, kept = result
    if student is None:
        return {"headline": "This run has no student.", "details": [], "tiles": []}
    validation = number(part(metrics, "student", "validation", primary))
    if kept is not None:
        headline = f"{words.share(kept)} of the best teacher's {primary}"
    elif not student.scores and validation is not None:
        headline = f"{primary} {words.score(validation)} on the validation split (no dev rows)"
    else:
        headline = f"{primary or 'score'} {words.score(student.score)}"

    details = ["There is no teacher's score to compare with."]
    if best is not None and best.score is not None and student.score is not None:
        dev = number(part(metrics, "rows", "dev"))
        on = f" on {words.whole(dev)} dev rows" if dev else ""
        difference = f"{student.score - best.score:+.3f}".replace("-", "−")
        teacher = f"best teacher ({best.name}) {words.score(best.score)} {primary}"
        details = [f"Student {words.score(student.score)}, {teacher}{on}: a difference of {difference}."]
        details += filter(None, [sampling_error(metrics, student.score)])

    tiles = [(primary or "score", words.score(student.score), words.score(best.score if best else None))]
    tiles += [(title, student.cells[title], best.cells[title] if best else words.NONE) for title in SIZES]
    return {"headline": headline + student.gains, "details": details, "tiles": tiles}


def _predictions(run: RunFiles, best: Any) -> dict[str, Any] | None:
    """Outputs of the models row by row: plots, calibration, and where student and teacher differ most."""
    found = run.predictions
    if found is None:
        return None
    teacher = best.name if best is not None and best.name in found.teachers else next(iter(found.teachers), None)
    split = "dev rows" if found.split == "dev" else "rows of the validation split, which chose the checkpoint"
    rows = words.whole(len(found.gold) if found.offsets is None else len(found.offsets) - 1)
    of = f"{words.whole(len(found.gold))} words of " if found.offsets is not None else ""
    return {
        "split": f"{of}{rows} {split}",
        "types": type_table(found),
        "entities": entity_table(found),
        "found": entity_counts_text(found),
        "figures": prediction_figures(found, teacher),
        "per_label": label_table(found, teacher),
        "calibration": calibration_table(found),
        "agreement": agreement(found, teacher),
        "differences": differences(found, teacher),
        "teacher": teacher,
    }


def _export(export: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `distilect export` checked and timed; None before it ran."""
    body = []
    for line in records(export.get("speed")):
        numbers = [number_cell(number(line.get(key)), show) for _, key, show in SPEEDS]
        body.append([Cell(str(line.get("model"))), *numbers])
    table = DataTable("speed", ["model", *(title for title, _, _ in SPEEDS)], body)
    if not body:
        return None
    gate = mapping(export.get("gate"))
    tried = [str(each.get("text")) for each in records(gate.get("tried"))] + [*map(str, gate.get("refusals") or ())]
    return {"files": records(export.get("files")), "rule": gate.get("text"), "tried": tried, "table": table}


def _listed(metrics: Mapping[str, Any], wanted: Sequence[tuple[str, str, Any]]) -> list[tuple[str, str]]:
    """Those of the wanted numbers that are known, by title."""
    shown = [(title, show(number(part(metrics, *place.split("."))))) for title, place, show in wanted]
    return [(title, text) for title, text in shown if text != words.NONE]


def _known(values: Any) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in mapping(values).items() if value is not None]
