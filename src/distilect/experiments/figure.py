"""The figure of a comparison: quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distilect.experiments.statistics import Cost, Group, pareto
from distilect.report import words
from distilect.report.figures import Figure, label

SYMBOLS = {"static": "circle", "adaptive": "diamond", "oracle": "x"}  # by family of methods
FEW = 8  # methods that are all named in the figure; of more, those on the front


def quality_against_cost(group: Group, costs: Mapping[str, Cost], families: Mapping[str, str]) -> Figure | None:
    """Student tokens, searches included, against the average score. A line joins the Pareto front, the oracle left out."""
    points = {
        method: (cost.all_tokens, 100 * average)
        for method, cost in costs.items()
        if (average := group.average(method)) is not None and cost.all_tokens > 0
    }
    if len(points) < 2:
        return None
    front = pareto({method: point for method, point in points.items() if families[method] != "oracle"})
    named = list(points) if len(points) <= FEW else front
    drawn = side_by_side(points)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [points[m][0] for m in front],
            "y": [points[m][1] for m in front],
            "line": {"dash": "dot", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for family, symbol in SYMBOLS.items():
        methods = [m for m in points if families[m] == family]
        if methods:
            texts = [f"{label(m)}<br>{points[m][1]:.1f} for {words.count(points[m][0])} tokens" for m in methods]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": family,
                    "x": [drawn[m] for m in methods],
                    "y": [points[m][1] for m in methods],
                    "text": [label(m) if m in named else "" for m in methods],
                    "hovertext": texts,
                    "hoverinfo": "text",
                    "textposition": "top right",
                    "marker": {"size": 9, "symbol": symbol},
                    "error_y": {"type": "data", "array": _deviations(group, methods), "thickness": 1, "width": 2},
                }
            )
    limits = [float(np.log10(x)) for x in (min(drawn.values()) / 1.3, max(drawn.values()) * 1.3)]
    layout = {
        "xaxis": {"title": {"text": "student tokens per trial"}, "type": "log", "range": limits},
        "yaxis": {"title": {"text": "average score × 100"}},
    }
    note = (
        "average over tasks against student tokens, stages, looks and searches included; bars: ± standard deviation over seeds. "
        "Methods of one cost stand side by side, the best on the right: hover for the number"
    )
    return Figure("Quality against cost", note, data, layout)


def side_by_side(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where to draw each method's cost: those within 2 % of each other are spread over at most a quarter, by quality."""
    drawn: dict[str, float] = {}
    waiting = sorted(points, key=lambda m: points[m][0])
    while waiting:
        least = points[waiting[0]][0]
        alike = sorted((m for m in waiting if points[m][0] <= 1.02 * least), key=lambda m: (points[m][1], m))
        step = min(0.05, 0.25 / len(alike))
        for number, method in enumerate(alike):
            drawn[method] = points[method][0] * (1 + step * (number - (len(alike) - 1) / 2))
        waiting = [m for m in waiting if m not in alike]
    return drawn


def _deviations(group: Group, methods: Sequence[str]) -> list[float]:
    averages = [group.average_by_seed(method) for method in methods]
    return [100 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in averages]
