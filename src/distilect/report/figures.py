"""Plots as plain plotly figures (data and layout); the page, which knows light from dark, colours them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.report.models import ModelRow

Trace = dict[str, Any]
MAX_POINTS = 1500  # per curve; more cannot be seen, and would make pages of long runs heavy
_MAX_LABELS = 25  # of a confusion matrix


@dataclass(frozen=True)
class Figure:
    """One plot: `title` and `note` stand above it as text of the page, `data` and `layout` go to plotly.

    A string such as `--c0` or `--accent` stands for that colour of the page.
    """

    title: str
    note: str
    data: list[Trace]
    layout: dict[str, Any]


def axis(title: str, **options: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **options}


def label(text: str, limit: int = 40) -> str:
    """`text` for plotly, which reads a little HTML in its labels: cut to `limit` characters, and escaped."""
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…")


def curve(rows: Sequence[dict[str, Any]], x: str, y: str, name: str) -> Trace:
    """A line through the rows that have both numbers, thinned to what can be seen."""
    points = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    points = points[:: max(1, -(-len(points) // MAX_POINTS))]
    mode = "lines" if len(points) > 40 else "lines+markers"
    return dict(type="scatter", mode=mode, name=label(name), x=[x for x, _ in points], y=[y for _, y in points])


def dotted(low: float, high: float, name: str) -> Trace:
    """The diagonal from (low, low) to (high, high), to compare with."""
    line = {"color": "--c7", "dash": "dot", "width": 1}
    return dict(type="scatter", mode="lines", name=name, x=[low, high], y=[low, high], hoverinfo="skip", line=line)


def heatmap(x: Sequence[Any], y: Sequence[str], z: list[list[float | None]], highest: float, **options: Any) -> Trace:
    colours = [[0, "--card"], [1, "--accent"]]
    return dict(type="heatmap", x=x, y=y, z=z, zmin=0, zmax=highest, colorscale=colours, xgap=1, ygap=1, **options)


def score_against_cost(rows: Sequence[ModelRow], primary: str) -> Figure | None:
    """Each model as a point: milliseconds per row against score; None with fewer than two known points."""
    known = [(row, row.latency_ms, row.score) for row in rows if row.score is not None and row.latency_ms]
    if len(known) < 2:
        return None
    known.sort(key=lambda point: point[1])
    times, scores = [math.log10(ms) for _, ms, _ in known], [score for _, _, score in known]
    wide, high = max(times[-1] - times[0], 0.2), max(max(scores) - min(scores), 0.02)
    middle = (times[0] + times[-1]) / 2
    # Names stand towards the middle, where there is room, and neighbours on different levels.
    levels = ("middle", "top", "bottom")
    places = [f"{levels[i % 3]} {'right' if time < middle else 'left'}" for i, time in enumerate(times)]
    data = []
    for role, symbol in (("teacher", "diamond"), ("student", "circle")):
        chosen = [(*point, place) for point, place in zip(known, places, strict=True) if point[0].role == role]
        data.append(
            dict(
                type="scatter",
                mode="markers+text",
                name=f"{role}s",
                x=[ms for _, ms, _, _ in chosen],
                y=[score for _, _, score, _ in chosen],
                text=[label(row.name) for row, _, _, _ in chosen],
                textposition=[place for _, _, _, place in chosen],
                marker={"size": 11, "symbol": symbol},
            )
        )
    x_range = [times[0] - 0.15 * wide, times[-1] + 0.15 * wide]
    y_range = [min(scores) - 0.2 * high, max(scores) + 0.25 * high]
    xaxis = axis("ms per row, batch 1", type="log", range=x_range, nticks=6)
    layout = {"xaxis": xaxis, "yaxis": axis(label(primary or "score"), range=y_range)}
    return Figure("Score against time", "higher is better, further left is faster", data, layout)


def confusion(title: str, labels: Sequence[str], counts: NDArray[np.int64], unit: str, note: str) -> Figure:
    """What has each label (lines) by what is predicted (columns), coloured by its share of the line; the most frequent labels.

    Args:
        counts: [C, C], in the order of `labels`.
        unit: what is counted.
    """
    totals = counts.sum(axis=1)
    shown = np.sort(np.argsort(-totals, kind="stable")[:_MAX_LABELS])
    counts = counts[np.ix_(shown, shown)]
    shares = counts / np.maximum(totals[shown], 1)[:, None]
    names = [label(labels[index], 20) for index in shown]
    # plotly would put two equal names in one place
    names = [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names, start=1)]
    hovering = f"label %{{y}}, predicted %{{x}}: %{{customdata}} {unit}, %{{z:.0%}}<extra></extra>"
    matrix = heatmap(names, names, shares.round(4).tolist(), 1, customdata=counts.tolist(), hovertemplate=hovering)
    matrix["showscale"] = False
    if len(shown) <= 13:  # numbers fit into the cells
        matrix |= {"text": counts.tolist(), "texttemplate": "%{text}", "textfont": {"size": 11}}
    layout = {
        "xaxis": axis("predicted", type="category", tickangle=-40 if len(names) > 4 else 0, showgrid=False),
        "yaxis": axis("label", type="category", autorange="reversed", showgrid=False),
        "height": max(300, 150 + 26 * len(shown)),
        "showlegend": False,
    }
    more = f"; the {len(shown)} most frequent of {len(labels)} labels" if len(labels) > len(shown) else ""
    return Figure(title, note + more, [matrix], layout)
