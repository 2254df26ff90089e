"""What was decided row by row (`rows.parquet`): figures with rows to hover over, and a table of them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.report import words
from distilect.report.figures import Figure, Trace, axis
from distilect.report.files import Row
from distilect.report.shell import Cell, DataTable, number_cell, one_line

_MAX_FIGURES = 6  # teachers, or kinds of knowledge, that get a plot each
_MAX_EXAMPLES = 200  # rows of the table
_HOVER, _SHOWN = 160, 300  # characters of a text
_VARIES = 0.005  # weights whose standard deviation is below it were not chosen row by row
_DECILES = 10


def decision_figures(rows: Sequence[Row]) -> list[Figure]:
    """Weights against the student's uncertainty, and which rows asked; only what differs from row to row."""
    last = _last_epoch(rows)
    figures = [_weights(last, key) for key in _varying(last, "teacher/")[:_MAX_FIGURES]]
    figures += [_weights(last, key) for key in _varying(last, "knowledge/")[:_MAX_FIGURES]]
    asked = _asked_by_uncertainty(rows)
    return figures + ([asked] if asked else [])


def decision_table(rows: Sequence[Row]) -> DataTable | None:
    """Sampled rows with what was decided on each in its last epoch; None where nothing was decided row by row."""
    last = _last_epoch(rows)
    weights = _varying(last, "teacher/") + _varying(last, "knowledge/")
    epochs = len({row["epoch"] for row in rows})
    times: dict[int, int] = {}  # row → epochs in which it asked; a row that did not come in an epoch did not ask
    for row in rows:
        times[row["row"]] = times.get(row["row"], 0) + row["asked"]
    chosen = any(times.values()) and any(count < epochs for count in times.values())
    if not (weights or chosen):
        return None
    uncertain = _has(rows, "uncertainty")  # never in regression
    titles = ["text", "label", *(["asked in"] if chosen else []), *(["uncertainty"] if uncertain else [])]
    body = []
    for row in list({row["row"]: row for row in rows}.values())[:_MAX_EXAMPLES]:  # epochs ascend: the last one stays
        cells = [Cell(row_text(row, _SHOWN)), Cell(one_line(row["label"] or words.NONE, 40))]
        if chosen:
            share = times[row["row"]] / epochs
            cells.append(Cell(f"{share:.0%} of epochs", share))
        if uncertain:
            cells.append(number_cell(row["uncertainty"], words.weight))
        for key in weights:
            kind, _, name = key.partition("/")
            right = row.get(f"right/{name}") if kind == "teacher" else None
            cells.append(number_cell(row[key], words.weight, mark="" if right is None else "good" if right else "bad"))
        body.append(cells)
    return DataTable("decisions", titles + [key.partition("/")[2] for key in weights], body, wide=[0], words=[1])


def row_text(row: Mapping[str, Any], limit: int) -> str:
    """The texts of a row, pairs parted by a bar."""
    texts = [row[key] for key in ("text", "text_2") if row.get(key) is not None]
    return " ‖ ".join(one_line(text, limit // len(texts)) for text in texts)


def hover(row: Mapping[str, Any], *more: str) -> str:
    """A row for plotly's hover box, which reads a little HTML: escaped, and broken into lines."""
    lines = [""]
    for word in row_text(row, _HOVER).split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > 48:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(html.escape(one_line(part, 60)) for part in (*lines, *more))


def _weights(rows: Sequence[Row], key: str) -> Figure:
    """A dot per row: the student's uncertainty (or the label, in regression) against the row's weight."""
    kind, _, name = key.partition("/")
    correct = f"right/{name}"
    rows = [row for row in rows if row[key] is not None and (row["asked"] or kind != "teacher")]
    groups: list[tuple[str, str, str, list[Row]]] = [("row", "--c0", "circle", list(rows))]
    if kind == "teacher" and _has(rows, correct):
        groups = [
            ("teacher right", "--good", "circle", [row for row in rows if row[correct] == 1]),
            ("teacher wrong", "--bad", "x", [row for row in rows if row[correct] == 0]),
            ("no label", "--c7", "circle-open", [row for row in rows if row[correct] is None]),
        ]
    uncertain = _has(rows, "uncertainty")
    axis_key = "uncertainty" if uncertain else "label"
    data: list[Trace] = []
    for group, colour, symbol, members in groups:
        shown = [row for row in members if row[axis_key] is not None]
        if shown:
            data.append(
                dict(
                    type="scatter",
                    mode="markers",
                    name=group,
                    x=[round(float(row[axis_key]), 4) for row in shown],  # labels of regression come as texts
                    y=[round(row[key], 4) for row in shown],
                    text=[hover(row, f"label: {row['label']}") for row in shown],
                    hovertemplate="%{text}<br>weight %{y:.2f}<extra></extra>",
                    marker={"size": 7, "color": colour, "symbol": symbol, "opacity": 0.75},
                )
            )
    layout = dict(
        xaxis=axis("the student's uncertainty" if uncertain else "the row's label"),
        yaxis=axis("weight", rangemode="tozero"),
        showlegend=len(groups) > 1,
    )
    note = "a sample of the rows in the last epoch; hover to read them"
    title = f"Weight of teacher {name} by row" if kind == "teacher" else f"Loss weight of {name} by row"
    return Figure(title, note + ("; uncertainty: 0 certain, 1 uniform" if uncertain else ""), data, layout)


def _asked_by_uncertainty(rows: Sequence[Row]) -> Figure | None:
    """Share of the sampled rows that asked teachers, by tenth of the student's uncertainty; None where all or none asked."""
    known = [row for row in rows if row["uncertainty"] is not None] if _has(rows, "uncertainty") else []
    if len(known) < 2 * _DECILES or len({row["asked"] for row in known}) < 2:
        return None
    known.sort(key=lambda row: row["uncertainty"])
    uncertainty, asked = _column(known, "uncertainty"), _column(known, "asked")
    tenths = np.array_split(np.arange(len(known)), _DECILES)
    names = [f"{uncertainty[part[0]]:.2f}–{uncertainty[part[-1]]:.2f}" for part in tenths]
    shares = [float(asked[part].mean()) for part in tenths]
    data: list[Trace] = [dict(type="bar", name="asked", x=names, y=shares, marker={"color": "--c0"})]
    layout = dict(
        xaxis=axis("the student's uncertainty, in tenths of the rows", type="category", tickangle=-35),
        yaxis=axis("share that asked", range=[0, 1.03], tickformat=".0%"),
        showlegend=False,
    )
    return Figure("Rows that asked the teachers, by uncertainty", "a sample of the rows, over all epochs", data, layout)


def _last_epoch(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["epoch"] == rows[-1]["epoch"]]


def _varying(rows: Sequence[Row], prefix: str) -> list[str]:
    """The weights that differ from row to row, among the rows that asked."""
    asked = [row for row in rows if row["asked"]]
    keys = [key for key in (asked[0] if asked else ()) if key.startswith(prefix)]
    columns = {key: _column(asked, key) for key in keys if _has(asked, key)}
    return [key for key, values in columns.items() if np.nanstd(values) > _VARIES]


def _column(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    """float64 [N], NaN where it is not known."""
    return np.array([row.get(key) for row in rows], dtype=np.float64)


def _has(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)
