"""What was selected, by epoch and label (`selection.parquet`): weights of teachers and of kinds of knowledge, rows that asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilect.report import words
from distilect.report.figures import Figure, axis, curve, heatmap, label
from distilect.report.files import Row
from distilect.report.shell import Cell, DataTable, number_cell

_MAX_MAPS = 8  # teachers, or kinds of knowledge, that get a map of their weights by label
_MAX_LABELS = 25  # lines of such a map
_ALL = 0.9995  # shares from here on mean that no row was left out


def selection_by_epoch(selection: Sequence[Row], by: str = "label") -> list[Figure]:
    """Mean weights over all rows, teachers' weights where they are right, weights by label (or `by` what groups are), shares of rows."""
    rows = [row for row in selection if row["group"] == "all"]
    xaxis = _epoch_axis(len(rows))
    yaxis = axis("mean weight", rangemode="tozero")
    figures = []
    for prefix, title in (("teacher/", "Teacher weights by epoch"), ("knowledge/", "Loss weights by epoch")):
        traces = [curve(rows, "epoch", key, key.removeprefix(prefix)) for key in _keys(rows, prefix)]
        bars = [dict(type="bar", name=t["name"], x=t["x"], y=t["y"]) for t in traces]
        if any(trace["y"] for trace in bars):
            layout = dict(barmode="stack", xaxis=xaxis, yaxis=yaxis)
            figures.append(Figure(title, "mean over all rows of the epoch", bars, layout))

    data, differ = [], False
    for index, key in enumerate(_keys(rows, "right/")):
        name = key.removeprefix("right/")
        for word, dash in (("right", "solid"), ("wrong", "dot")):
            trace = curve(rows, "epoch", f"{word}/{name}", f"{name}, {word}")
            data.append(trace | {"mode": "lines+markers", "line": {"dash": dash, "color": f"--c{index % 8}"}})
        pairs = [(row[f"right/{name}"], row.get(f"wrong/{name}")) for row in rows]
        differ |= any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs)
    if differ:
        note = "mean weight on labelled rows where the teacher's prediction is right, and where it is wrong"
        figures.append(Figure("Teacher weights where right and wrong", note, data, {"xaxis": xaxis, "yaxis": yaxis}))

    figures += _maps_by_label(selection, "teacher/", "Weight of teacher", by)
    figures += _maps_by_label(selection, "knowledge/", "Loss weight of", by)

    shares = [curve(rows, "epoch", *names) for names in (("asked", "asked teachers"), ("trained", "trained on"))]
    if any(value < _ALL for trace in shares for value in trace["y"]):
        yaxis = axis("share of rows", range=[0, 1.03], tickformat=".0%")
        note = "share of the rows that asked teachers, and that were trained on"
        figures.append(Figure("Rows by epoch", note, [t for t in shares if t["y"]], {"xaxis": xaxis, "yaxis": yaxis}))
    return figures


def selection_by_label(selection: Sequence[Row], by: str = "label", unit: str = "rows") -> DataTable | None:
    """What was selected in the last epoch, a line per label; None where rows have no labels.

    Args:
        by, unit: what the groups are called, and what is counted in them.
    """
    last = max((row["epoch"] for row in selection), default=None)
    rows = [row for row in selection if row["group"] != "all" and row["epoch"] == last]
    rows.sort(key=lambda row: -row["rows"])
    weights = [key for prefix in ("teacher/", "knowledge/") for key in _keys(rows, prefix)]
    shares = [key for key in ("asked", "trained") if any((row.get(key) or 0.0) < _ALL for row in rows)]
    keys = [key for key in shares + weights if any(row.get(key) is not None for row in rows)]
    body = [
        [Cell(row["group"]), number_cell(row["rows"], words.whole), *(_bar(row.get(key)) for key in keys)]
        for row in rows
    ]
    return DataTable("labels", [by, unit, *(key.partition("/")[2] or key for key in keys)], body) if body else None


def _bar(weight: float | None) -> Cell:
    """A weight as text, over a bar as long."""
    return Cell(
        words.weight(weight), weight, filled=None if weight is None else round(100 * min(max(weight, 0.0), 1.0))
    )


def _maps_by_label(selection: Sequence[Row], prefix: str, title: str, by: str) -> list[Figure]:
    """A map of epochs × labels for each weight; nothing where it is the same everywhere."""
    rows = [row for row in selection if row["group"] != "all"]
    epochs = sorted({row["epoch"] for row in rows})
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row["group"]] = max(sizes.get(row["group"], 0), row["rows"])
    groups = sorted(sizes, key=lambda group: -sizes[group])[:_MAX_LABELS]
    keys = _keys(rows, prefix)
    highest = max((row[key] for row in rows for key in keys if row.get(key) is not None), default=0.0)
    layout = {
        "xaxis": _epoch_axis(len(epochs)) | {"showgrid": False},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        "height": max(300, 110 + 22 * len(groups)),
        "showlegend": False,
    }
    figures = []
    for key in keys[:_MAX_MAPS]:
        found = {(row["group"], row["epoch"]): round(row[key], 4) for row in rows if row.get(key) is not None}
        lines = [[found.get((group, epoch)) for epoch in epochs] for group in groups]
        known = [value for line in lines for value in line if value is not None]
        if len(groups) < 2 or not known or max(known) - min(known) < 0.02:
            continue
        names = [label(group, 24) for group in groups]
        hover = "%{y}, epoch %{x}: %{z:.2f}<extra></extra>"
        bar = {"thickness": 10, "outlinewidth": 0}
        data = [heatmap(epochs, names, lines, highest, colorbar=bar, hovertemplate=hover)]  # one scale for all maps
        name = f"{title} {key.removeprefix(prefix)} by {by} and epoch"
        figures.append(Figure(name, f"mean over the rows of a {by}", data, layout))
    return figures


def _keys(rows: Sequence[Row], prefix: str) -> list[str]:
    """Columns that begin with `prefix`."""
    return [key for key in (rows[0] if rows else ()) if key.startswith(prefix)]


def _epoch_axis(epochs: int) -> dict[str, Any]:
    """One tick per epoch, or plotly's own choice when there are many."""
    return axis("epoch", **({"dtick": 1} if epochs <= 15 else {}))
