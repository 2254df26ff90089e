"""The page that sets several runs side by side, made from their files alone; self-contained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from distilect.errors import RunError
from distilect.report import words
from distilect.report.figures import Figure, curve, label, score_against_cost
from distilect.report.files import RunFiles, mapping, number, part, read_run
from distilect.report.rows import best_teacher, method_name, model_rows, primary_metric, share_kept, side_by_side
from distilect.report.shared import facts, models_table
from distilect.report.shell import Cell, DataTable, link, render, shorten, write_page

_MAX_SETTINGS = 60
_OWN = ("name", "output", "baselines")  # differ from run to run without changing what is trained


def build_summary(folders: Iterable[str | Path], target: str | Path) -> Path:
    """Write a page that shows the runs in `folders` side by side; returns `target`.

    Raises:
        RunError: no folders were given, or one of them has no readable `metrics.json`.
    """
    runs = [read_run(folder) for folder in folders]
    if not runs:
        raise RunError("no runs to compare: give at least one run folder")
    page, primary = Path(target), primary_metric(runs[0].metrics)
    names = _names(runs)
    metrics = [run.metrics for run in runs]
    rows = side_by_side(metrics)
    scatter = score_against_cost(rows, primary)
    figures = [scatter, _learning(runs, names, primary), *_losses(runs, names)]
    context = {
        "title": f"{len(runs)} runs side by side" if len(runs) > 1 else names[0],
        "verdict": _verdict(metrics, names, primary),
        "primary": primary or "score",
        "table": models_table(rows, primary),
        "figures": [asdict(figure) for figure in figures if figure],
        "cost": _cost(metrics, names),
        "settings": _settings(runs, names),
        "runs": [
            {"name": name, "link": link(run.folder / "report.html", page), "facts": facts(run.metrics)}
            for run, name in zip(runs, names, strict=True)
        ],
        "notes": _notes(runs, names),
    }
    return write_page(page, render("summary.html.j2", context))


def _notes(runs: Sequence[RunFiles], names: Sequence[str]) -> list[str]:
    notes = [f"{name}: {note}" for run, name in zip(runs, names, strict=True) for note in run.notes]
    if len({str(part(run.metrics, "task", "name")) for run in runs}) > 1:
        notes.insert(0, "these runs are of different tasks, so their scores cannot be compared with each other")
    return notes


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """What a run is called beside the others; the folder tells apart two of one name."""
    names = [str(run.metrics.get("name") or run.folder.name) for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({run.folder})" for name, run in zip(names, runs, strict=True)]


def _verdict(metrics: Sequence[Mapping[str, Any]], names: Sequence[str], primary: str) -> dict[str, Any] | None:
    """Which student scored highest, and by how much; None where the runs are not of one task."""
    tasks = {str(part(each, "task", "name")) for each in metrics}
    scored = []
    for each, name in zip(metrics, names, strict=True):
        rows = model_rows(each)
        student = next((row for row in rows if row.role == "student"), None)
        if student is not None and student.score is not None:
            scored.append((student.score, name, method_name(each), share_kept(student, best_teacher(rows))))
    if len(tasks) > 1 or len(scored) < 2:
        return None
    scored.sort(key=lambda entry: -entry[0])
    (best, name, method, kept), (second, runner_up, _, _) = scored[:2]
    share = f", {int(1000 * kept + 1e-9) / 10:.1f} % of its best teacher's" if kept is not None else ""
    headline = f"{name} scores highest: {primary} {words.score(best)}{share}."
    lines = [f"Method {method}; {runner_up} follows {best - second:.3f} behind."] if method else []
    rows_of_dev = number(part(metrics[0], "rows", "dev"))
    if primary == "accuracy" and rows_of_dev and 0 < best < 1:
        spread = 1.96 * (best * (1 - best) / rows_of_dev) ** 0.5
        lines.append(
            f"One run each: chance alone moves such an accuracy by about ±{spread:.3f} (95 %, {words.whole(rows_of_dev)} rows)."
        )
    return {"headline": headline, "details": lines}


def _learning(runs: Sequence[RunFiles], names: Sequence[str], primary: str) -> Figure | None:
    data = [curve(run.history, "step", f"eval/{primary}", name) for run, name in zip(runs, names, strict=True)]
    data = [trace for trace in data if trace["y"]]
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": label(primary)}}}
    note = "on the split held out of train, not on dev"
    return Figure("Scores while training", note, data, layout) if data else None


def _losses(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Figure]:
    """Losses of methods differ in what they sum up, so only their shape says something."""
    data = [curve(run.history, "step", "train/loss", name) for run, name in zip(runs, names, strict=True)]
    data = [trace for trace in data if trace["y"]]
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "training loss"}}}
    note = "each method sums up other parts: compare shapes, not heights"
    return [Figure("Training loss", note, data, layout)] if data else []


def _cost(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> DataTable:
    """What each run cost."""
    keys = (
        ("train_seconds", "training", words.duration),
        ("scoring_seconds", "scoring", words.duration),
        ("finetune_seconds", "fine-tuning teachers", words.duration),
        ("steps", "steps", words.whole),
        ("tokens", "tokens", words.count),
        ("teacher_forwards", "rows that teachers were run on", words.whole),
        ("teacher_rows", "rows that teachers were asked on", words.whole),
    )
    used = [key for key in keys if any(number(part(each, "cost", key[0])) is not None for each in metrics)]
    body = []
    for each, name in zip(metrics, names, strict=True):
        values = [number(part(each, "cost", key)) for key, _, _ in used]
        cells = [Cell(shown(value), value) for value, (_, _, shown) in zip(values, used, strict=True)]
        body.append([Cell(name), Cell(method_name(each) or words.NONE), *cells])
    return DataTable("cost", ["run", "method", *(title for _, title, _ in used)], body, words=frozenset({1}))


def _settings(runs: Sequence[RunFiles], names: Sequence[str]) -> DataTable | None:
    """The settings that are not the same in all runs; None where there are none."""
    flat = [_flat(_yaml(run.config)) for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differing = [key for key in keys if len({each.get(key, "") for each in flat}) > 1]
    if not differing:
        return None
    body = [
        [Cell(key), *(Cell(shorten(each.get(key, words.NONE), 80)) for each in flat)]
        for key in differing[:_MAX_SETTINGS]
    ]
    return DataTable("settings", ["setting", *names], body, words=frozenset(range(1, len(names) + 1)))


def _yaml(text: str) -> dict[str, Any]:
    try:
        return mapping(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` → `{"a.b": "1"}`; lists of plain values stay whole."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if not prefix and key in _OWN:
            continue
        inner = dict(enumerate(value)) if isinstance(value, list) and any(isinstance(v, dict) for v in value) else value
        if isinstance(inner, dict) and inner:
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = words.NONE if value is None else str(value)
    return found


__all__ = ["build_summary"]
