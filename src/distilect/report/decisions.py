"""What was decided row by row, from `rows.parquet`: figures with rows to hover over, and a table of them."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distilect.report import words
from distilect.report.figures import Figure
from distilect.report.files import number
from distilect.report.shell import Cell, DataTable, shorten

Rows = Sequence[dict[str, Any]]

_MAX_FIGURES = 6  # teachers, or kinds of knowledge, that get a plot each
_MAX_EXAMPLES = 200  # rows of the table
_HOVER, _SHOWN = 160, 300  # characters of a text
_VARIES = 0.005  # weights that differ by less were not chosen by anything
_DECILES = 10


def decision_figures(rows: Rows) -> list[Figure]:
    """Which rows each teacher taught, what was copied on which rows, and which rows asked; only what differs from row to row."""
    last = last_epoch(rows)
    figures = []
    for prefix, title in (("teacher/", "Rows taught by"), ("knowledge/", "Rows that copied")):
        names = [name for name in _names(rows, prefix) if _varies(last, prefix + name)]
        figures += [_cloud(last, prefix, name, f"{title} {name}") for name in names[:_MAX_FIGURES]]
    asked = _asked_by_uncertainty(rows)
    return figures + ([asked] if asked else [])


def decision_table(rows: Rows) -> DataTable | None:
    """Sampled rows with what was decided on each in the last epoch; None where nothing was decided row by row."""
    last = last_epoch(rows)
    teachers = [name for name in _names(rows, "teacher/") if _varies(last, f"teacher/{name}")]
    kinds = [name for name in _names(rows, "knowledge/") if _varies(last, f"knowledge/{name}")]
    shares = _shares(rows, "asked")
    chosen = any(share < 1 for share in shares.values()) and any(share > 0 for share in shares.values())
    if not (teachers or kinds or chosen):
        return None
    latest: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: number(row.get("epoch")) or 0.0):
        latest[row.get("row")] = row
    columns = [(f"teacher/{name}", name) for name in teachers] + [(f"knowledge/{name}", name) for name in kinds]
    unsure = any(number(row.get("uncertainty")) is not None for row in rows)  # never in regression
    titles = ["text", "label", *(["asked in"] if chosen else []), *(["uncertainty"] if unsure else [])]
    body = [
        [
            Cell(row_text(row, _SHOWN)),
            Cell(shorten(str(row.get("label") or words.NONE), 40)),
            *([_percent(shares.get(row.get("row")))] if chosen else []),
            *([_weight(number(row.get("uncertainty")))] if unsure else []),
            *(_weight(number(row.get(key)), _mark(row, key)) for key, _ in columns),
        ]
        for row in list(latest.values())[:_MAX_EXAMPLES]
    ]
    return DataTable("decisions", [*titles, *(name for _, name in columns)], body, frozenset({0}), frozenset({1}))


def row_text(row: Mapping[str, Any], limit: int) -> str:
    """The texts of a row, pairs parted by a bar."""
    texts = [str(row[key]) for key in ("text", "text_2") if row.get(key) is not None]
    return " ‖ ".join(shorten(text, limit // len(texts)) for text in texts)


def hover(row: Mapping[str, Any], *more: str) -> str:
    """A row for plotly's hover box, which reads a little HTML: escaped, and broken into lines."""
    lines, line = [], ""
    for word in row_text(row, _HOVER).split(" "):
        if line and len(line) + len(word) > 48:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()[:80]
    return "<br>".join(html.escape(text) for text in (*lines, line, *more))


def last_epoch(rows: Rows) -> list[dict[str, Any]]:
    """The rows of the last epoch."""
    last = max((number(row.get("epoch")) or 0.0 for row in rows), default=0.0)
    return [row for row in rows if (number(row.get("epoch")) or 0.0) == last]


def _cloud(rows: Rows, prefix: str, name: str, title: str) -> Figure:
    """A dot per row: the student's uncertainty (or the label, in regression) against the row's weight."""
    unsure = any(number(row.get("uncertainty")) is not None for row in rows)
    axis = "uncertainty" if unsure else "label"
    groups: tuple[tuple[str, float | None, str, str], ...] = (
        ("right", 1.0, "--good", "circle"),
        ("wrong", 0.0, "--bad", "x"),
        ("no label", None, "--c7", "circle-open"),
    )
    if prefix != "teacher/" or not any(number(row.get(f"right/{name}")) is not None for row in rows):
        groups = (("row", None, "--c0", "circle"),)
    data = []
    for group, right, colour, symbol in groups:
        chosen = [
            (row, x, y)
            for row in rows
            if row.get("asked", True) or prefix != "teacher/"
            if len(groups) == 1 or number(row.get(f"right/{name}")) == right
            if (x := _float(row.get(axis))) is not None and (y := number(row.get(prefix + name))) is not None
        ]
        if chosen:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": {"right": "right there", "wrong": "wrong there"}.get(group, group),
                    "x": [round(x, 4) for _, x, _ in chosen],
                    "y": [round(y, 4) for _, _, y in chosen],
                    "text": [hover(row, f"label: {row.get('label')}") for row, _, _ in chosen],
                    "hovertemplate": "%{text}<br>weight %{y:.2f}<extra></extra>",
                    "marker": {"size": 7, "color": colour, "symbol": symbol, "opacity": 0.75},
                }
            )
    what = "the student's uncertainty" if unsure else "the row's label"
    note = "a sample of the rows in the last epoch; hover to read them"
    layout = {
        "xaxis": {"title": {"text": what}},
        "yaxis": {"title": {"text": "weight"}, "rangemode": "tozero"},
        "showlegend": len(groups) > 1,
    }
    return Figure(title, note + ("; uncertainty: 0 sure, 1 no idea" if unsure else ""), data, layout)


def _asked_by_uncertainty(rows: Rows) -> Figure | None:
    """Share of the sampled rows that asked teachers, by tenth of the student's uncertainty; None where all or none asked."""
    known = [(u, bool(row.get("asked"))) for row in rows if (u := number(row.get("uncertainty"))) is not None]
    if len(known) < 2 * _DECILES or len({asked for _, asked in known}) < 2:
        return None
    known.sort(key=lambda pair: pair[0])
    edges = [round(i * len(known) / _DECILES) for i in range(_DECILES + 1)]
    parts = [known[a:b] for a, b in itertools.pairwise(edges)]
    data = [
        {
            "type": "bar",
            "name": "asked",
            "x": [f"{part[0][0]:.2f}–{part[-1][0]:.2f}" for part in parts],
            "y": [sum(asked for _, asked in part) / len(part) for part in parts],
            "marker": {"color": "--c0"},
        }
    ]
    layout = {
        "xaxis": {
            "title": {"text": "the student's uncertainty, in tenths of the rows"},
            "type": "category",
            "tickangle": -35,
        },
        "yaxis": {"title": {"text": "share that asked"}, "range": [0, 1.03], "tickformat": ".0%"},
        "showlegend": False,
    }
    return Figure("Which rows asked the teachers", "a sample of the rows, over all epochs", data, layout)


def _names(rows: Rows, prefix: str) -> list[str]:
    return list(dict.fromkeys(key.removeprefix(prefix) for row in rows[:1] for key in row if key.startswith(prefix)))


def _varies(rows: Rows, key: str) -> bool:
    """Whether a weight differs from row to row, among those that asked."""
    values = [value for row in rows if row.get("asked", True) and (value := number(row.get(key))) is not None]
    if not values:
        return False
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) > _VARIES


def _shares(rows: Rows, key: str) -> dict[Any, float]:
    """Row → share of all epochs in which it did; a row that did not come in an epoch did not."""
    epochs = {row.get("epoch") for row in rows}
    counts: dict[Any, int] = {}
    for row in rows:
        counts[row.get("row")] = counts.get(row.get("row"), 0) + bool(row.get(key))
    return {row: count / len(epochs) for row, count in counts.items()}


def _percent(share: float | None) -> Cell:
    return Cell(words.NONE) if share is None else Cell(f"{share:.0%} of epochs", share)


def _weight(value: float | None, mark: str = "") -> Cell:
    return Cell(words.NONE) if value is None else Cell(f"{value:.2f}", round(value, 4), mark)


def _mark(row: dict[str, Any], key: str) -> str:
    right = number(row.get(f"right/{key.removeprefix('teacher/')}")) if key.startswith("teacher/") else None
    return {1.0: "good", 0.0: "bad"}.get(right, "") if right is not None else ""


def _float(value: Any) -> float | None:
    """A number, or the text of one: labels of regression come as texts."""
    try:
        return number(float(value))
    except (TypeError, ValueError):
        return None


__all__ = ["decision_figures", "decision_table", "hover", "last_epoch", "row_text"]
