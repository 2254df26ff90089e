"""Plots as plain plotly figures (data and layout); the page, which knows light from dark, colours them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distilect.report.files import number
from distilect.report.rows import ModelRow

_MAX_POINTS = 1500  # per curve; more cannot be seen, and would make pages of long runs heavy


@dataclass(frozen=True)
class Figure:
    """One plot: `title` and `note` stand above it as text of the page, `data` and `layout` go to plotly."""

    title: str
    note: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    folded: bool = False


def learning_curves(history: Sequence[dict[str, Any]]) -> list[Figure]:
    """Curves over the steps, one figure per namespace of the history; the optimiser's come last, folded."""
    groups: dict[str, list[str]] = {}
    for name in _names(history):
        groups.setdefault(_group(name), []).append(name)
    order = sorted(groups, key=lambda group: (_RANK.get(group, 50), group))
    return [figure for group in order if (figure := _curves(history, group, groups[group])) is not None]


def selection_over_time(selection: Sequence[dict[str, Any]]) -> list[Figure]:
    """Per epoch, over all rows: weights of teachers and kinds of knowledge, share of rows that asked."""
    rows = sorted(
        (row for row in selection if row.get("group") == "all"),
        key=lambda row: number(row.get("epoch")) or 0.0,
    )
    figures = []
    for prefix, title in (
        ("teacher/", "Teacher weights by epoch"),
        ("knowledge/", "Kinds of knowledge by epoch"),
    ):
        columns = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
        data = [_trace(rows, "epoch", column, column.removeprefix(prefix), kind="bar") for column in columns]
        if any(_filled(trace) for trace in data):
            layout = {
                "barmode": "stack",
                "xaxis": _epochs(rows),
                "yaxis": {"title": {"text": "mean weight"}, "rangemode": "tozero"},
            }
            figures.append(Figure(title, "mean over all rows of the epoch", data, layout))
    figures += _right_and_wrong(rows)
    shares = [
        _trace(rows, "epoch", key, label)
        for key, label in (("asked", "asked teachers"), ("trained", "trained on"))
    ]
    shares = [trace for trace in shares if _filled(trace)]
    # Shares that are 1 all along say nothing: no rows were selected.
    if any(value is not None and value < 0.9995 for trace in shares for value in trace["y"]):
        layout = {
            "xaxis": _epochs(rows),
            "yaxis": {"title": {"text": "share of rows"}, "range": [0, 1.03], "tickformat": ".0%"},
        }
        figures.append(
            Figure(
                "Rows by epoch",
                "share of the rows that asked teachers, and that were trained on",
                shares,
                layout,
            )
        )
    return figures


def _right_and_wrong(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """Each teacher's weight on rows where it is right, beside that where it is wrong; nothing where the two never differ."""
    data, differ = [], False
    for name in _teachers(rows):
        for word, dash in (("right", "solid"), ("wrong", "dot")):
            trace = _trace(rows, "epoch", f"{word}/{name}", f"{name}, {word}")
            data.append(trace | {"mode": "lines+markers", "line": {"dash": dash}})
        pairs = [(number(row.get(f"right/{name}")), number(row.get(f"wrong/{name}"))) for row in rows]
        differ |= any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs)
    if not differ:
        return []
    layout = {"xaxis": _epochs(rows), "yaxis": {"title": {"text": "mean weight"}, "rangemode": "tozero"}}
    note = "a teacher's mean weight on labelled rows where its answer is right, and where it is wrong"
    return [Figure("Are teachers believed where they are right?", note, data, layout)]


def _teachers(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(
        key.removeprefix("right/") for row in rows for key in row if key.startswith("right/")
    )
    return list(names)


def score_against_cost(rows: Sequence[ModelRow], primary: str) -> Figure | None:
    """Each model as a point: milliseconds per row against score; None with fewer than two known points."""
    known = [(row, row.latency_ms, row.score) for row in rows if row.score is not None and row.latency_ms]
    if len(known) < 2:
        return None
    times = [math.log10(milliseconds) for _, milliseconds, _ in known]
    middle = 10 ** ((min(times) + max(times)) / 2)
    data = []
    for role, symbol in (("teacher", "diamond"), ("student", "circle")):
        chosen = [point for point in known if point[0].role == role]
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": f"{role}s",
                "x": [milliseconds for _, milliseconds, _ in chosen],
                "y": [score for _, _, score in chosen],
                "text": [label(row.name) for row, _, _ in chosen],
                # Towards the middle of the plot, where there is room for names.
                "textposition": [
                    f"middle {'right' if milliseconds < middle else 'left'}" for _, milliseconds, _ in chosen
                ],
                "marker": {"size": 11, "symbol": symbol},
            }
        )
    scores = [score for _, _, score in known]
    wide, high = max(max(times) - min(times), 0.2), max(max(scores) - min(scores), 0.02)
    layout = {
        "xaxis": {
            "title": {"text": "ms per row, batch 1"},
            "type": "log",
            "range": [min(times) - 0.15 * wide, max(times) + 0.15 * wide],
            "nticks": 6,
        },
        "yaxis": {
            "title": {"text": label(primary or "score")},
            "range": [min(scores) - 0.2 * high, max(scores) + 0.25 * high],
        },
    }
    return Figure("Score against time", "further up is better, further left is faster", data, layout)


def label(text: str, limit: int = 40) -> str:
    """`text` for plotly, which reads a little HTML in its labels: escaped, and cut to `limit` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(short)


_OPTIMISER = ("train/learning_rate", "train/grad_norm", "train/samples_per_second", "train/tokens_per_second")
_TITLES = {
    "loss": ("Loss", "of training, with its parts, and on the held-out split"),
    "eval": (
        "Scores while training",
        "on the split held out of train that chooses the checkpoint, not on dev",
    ),
    "teacher": ("Teachers while training", "mean weights of the teachers"),
    "knowledge": ("Knowledge while training", "mean weights of the kinds of knowledge"),
    "rows": ("Rows while training", "share that asked the teachers"),
    "uncertainty": ("Uncertainty while training", "of the student, and where its choices are cut"),
    "optimiser": ("Learning rate and gradients", ""),
}
_RANK = {"eval": 0, "loss": 1, "teacher": 2, "knowledge": 3, "optimiser": 90}
_WEIGHTS = ("teacher", "knowledge", "rows")
_FOLDED_SPEED = ("runtime", "per_second", "seconds")


def _names(history: Sequence[dict[str, Any]]) -> list[str]:
    """Names of all logged numbers, in order of first appearance."""
    names = dict.fromkeys(key for entry in history for key in entry if "/" in key)
    return [name for name in names if not name.endswith(_FOLDED_SPEED)]


def _group(name: str) -> str:
    space, _, rest = name.partition("/")
    if space in ("train", "eval") and rest.startswith("loss"):
        return "loss"
    return "optimiser" if name in _OPTIMISER or space == "train" else space


def _curves(history: Sequence[dict[str, Any]], group: str, names: list[str]) -> Figure | None:
    title, note = _TITLES.get(group, (group.replace("_", " ").capitalize(), ""))
    data = [_trace(history, "step", name, _short(name, group)) for name in names]
    data = [trace for trace in data if _filled(trace)]
    if not data:
        return None
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "step"}}, "yaxis": {}}
    if group == "optimiser" and len(data) > 1:  # they differ by orders of magnitude
        layout["yaxis"] = {"type": "log", "exponentformat": "power", "dtick": 1}
    if group in _WEIGHTS:  # equal weights are a flat line, not the rounding of their last digit
        layout["yaxis"] = {"rangemode": "tozero", "range": [0, 1.05 * max(1.0, *(max(t["y"]) for t in data))]}
    return Figure(title, note, data, layout, folded=group == "optimiser")


def _short(name: str, group: str) -> str:
    """The curve's name without what the title already says."""
    if group == "loss":
        names = {"train/loss": "training", "eval/loss": "held out"}
        return names.get(name, name.removeprefix("train/loss_").replace("eval/loss_", "held out, "))
    rest = name.partition("/")[2] or name
    return rest.removeprefix({"teacher": "w_", "knowledge": "v_"}.get(group, ""))


def _trace(
    rows: Sequence[dict[str, Any]], x: str, y: str, name: str, kind: str = "scatter"
) -> dict[str, Any]:
    points = [(number(row.get(x)), number(row.get(y))) for row in rows if row.get(y) is not None]
    pairs = [(a, b) for a, b in points if a is not None and b is not None]
    pairs = pairs[:: max(1, -(-len(pairs) // _MAX_POINTS))]
    trace: dict[str, Any] = {
        "type": kind,
        "name": label(name),
        "x": [a for a, _ in pairs],
        "y": [b for _, b in pairs],
    }
    if kind == "scatter":
        trace["mode"] = "lines" if len(pairs) > 40 else "lines+markers"
    return trace


def _filled(trace: dict[str, Any]) -> bool:
    return bool(trace["y"])


def _epochs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An x axis with one tick per epoch, or plotly's own choice when there are many."""
    axis: dict[str, Any] = {"title": {"text": "epoch"}}
    return axis | ({"dtick": 1} if len(rows) <= 15 else {})
