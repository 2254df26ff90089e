"""The page that sets several runs side by side, made from their files alone; self-contained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from distilect.errors import RunError
from distilect.report import words
from distilect.report.figures import Figure, axis, curve, label, score_against_cost
from distilect.report.files import RunFiles, mapping, number, part, read_run
from distilect.report.models import (
    COST,
    facts,
    method_name,
    models_table,
    outcome,
    primary_metric,
    sampling_error,
    side_by_side,
)
from distilect.report.shell import Cell, DataTable, link, number_cell, one_line, write_page

_MAX_SETTINGS = 60
_OWN = ("name", "output", "baselines")  # differ from run to run without changing what is trained


def build_summary(folders: Iterable[str | Path], target: str | Path) -> Path:
    """Write a page that shows the runs in `folders` side by side; returns `target`.

    Raises:
        RunError: no folders were given, or one of them has no readable `metrics.json`.
    """
    found = [read_run(folder) for folder in folders]
    if not found:
        raise RunError("no runs to compare: give at least one run folder")
    names = [str(run.metrics.get("name") or run.folder.name) for run in found]
    runs = {  # the folder tells apart two runs of one name
        name if names.count(name) == 1 else f"{name} ({run.folder})": run
        for name, run in zip(names, found, strict=True)
    }
    primary = primary_metric(found[0].metrics)
    rows = side_by_side([run.metrics for run in found])
    same_task = len({str(part(run.metrics, "task", "name")) for run in found}) == 1
    notes = [f"{name}: {note}" for name, run in runs.items() for note in run.notes]
    if not same_task:
        notes.insert(0, "these runs are of different tasks, so their scores cannot be compared with each other")
    score_note = "on the validation split, not on dev"
    loss_note = "methods sum different parts: compare shapes, not heights"
    figures = [
        score_against_cost(rows, primary),
        _curves(runs, f"eval/{primary}", "Scores while training", score_note, primary),
        _curves(runs, "train/loss", "Training loss", loss_note, "training loss"),
    ]
    return write_page(
        target,
        "summary.html.j2",
        title=f"{len(runs)} runs side by side" if len(runs) > 1 else names[0],
        verdict=_verdict(runs, primary) if same_task else None,
        table=models_table(rows, primary),
        figures=[figure for figure in figures if figure],
        cost=_cost(runs),
        settings=_settings(runs),
        runs=[(name, link(run.folder / "report.html", Path(target)), facts(run.metrics)) for name, run in runs.items()],
        notes=notes,
    )


def _verdict(runs: Mapping[str, RunFiles], primary: str) -> dict[str, Any] | None:
    """Which student scored highest, and by how much; None with fewer than two scores."""
    scored = []
    for name, run in runs.items():
        result = outcome(run.metrics)
        if result.student is not None and result.student.score is not None:
            scored.append((result.student.score, name, result.kept))
    if len(scored) < 2:
        return None
    scored.sort(key=lambda entry: -entry[0])
    (score, name, kept), (second, runner_up, _) = scored[:2]
    share = f", {words.share(kept)} of its best teacher's" if kept is not None else ""
    metrics = runs[name].metrics
    details = [f"Method {method_name(metrics)}; {runner_up} follows {score - second:.3f} behind."]
    if error := sampling_error(metrics, score):
        details.append(f"One run each. {error}")
    return {"headline": f"{name} scores highest: {primary} {words.score(score)}{share}.", "details": details}


def _curves(runs: Mapping[str, RunFiles], key: str, title: str, note: str, unit: str) -> Figure | None:
    data = [trace for name, run in runs.items() if (trace := curve(run.history, "step", key, name))["y"]]
    return Figure(title, note, data, {"xaxis": axis("step"), "yaxis": axis(label(unit))}) if data else None


def _cost(runs: Mapping[str, RunFiles]) -> DataTable:
    """What each run cost."""
    costs = {name: mapping(run.metrics.get("cost")) for name, run in runs.items()}
    used = [line for line in COST if any(number(cost.get(line[1])) is not None for cost in costs.values())]
    body = []
    for name, cost in costs.items():
        method = method_name(runs[name].metrics) or words.NONE
        numbers = [number_cell(number(cost.get(key)), show) for _, key, show in used]
        body.append([Cell(name), Cell(method), *numbers])
    return DataTable("cost", ["run", "method", *(title for title, _, _ in used)], body, words=[1])


def _settings(runs: Mapping[str, RunFiles]) -> DataTable | None:
    """The settings that are not the same in all runs; None where there are none."""
    flat = [_flat(_config(run.config)) for run in runs.values()]
    keys = dict.fromkeys(key for each in flat for key in each)
    differing = [key for key in keys if len({each.get(key, "") for each in flat}) > 1]
    body = [
        [Cell(key), *(Cell(one_line(each.get(key, words.NONE), 80)) for each in flat)]
        for key in differing[:_MAX_SETTINGS]
    ]
    return DataTable("settings", ["setting", *runs], body, words=range(1, len(runs) + 1)) if body else None


def _config(text: str) -> dict[str, Any]:
    try:
        config = mapping(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in config.items() if key not in _OWN}


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` → `{"a.b": "1"}`; lists of plain values stay whole."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return {path: words.NONE if value is None else str(value)} if path else {}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found
