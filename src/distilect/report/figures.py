"""Plots as plain plotly figures (data and layout); the page, which knows light from dark, colours them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distilect.report.files import number
from distilect.report.rows import ModelRow

_MAX_POINTS = 1500  # per curve; more cannot be seen, and would make pages of long runs heavy
_MAX_MAPS = 8  # teachers, or kinds of knowledge, that get a map of their weights by class
_MAX_CLASSES = 25  # lines of such a map


@dataclass(frozen=True)
class Figure:
    """One plot: `title` and `note` stand above it as text of the page, `data` and `layout` go to plotly."""

    title: str
    note: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Curves:
    """What a run logged, over its steps: how it learned, what was selected, the selectors' health, and the optimiser."""

    learning: list[Figure] = field(default_factory=list)
    selection: list[Figure] = field(default_factory=list)
    health: list[Figure] = field(default_factory=list)
    optimiser: list[Figure] = field(default_factory=list)


def curves_of(history: Sequence[dict[str, Any]]) -> Curves:
    """One figure per namespace of the history; a namespace that is not known is a selector's health.

    Values of one selector that differ by orders of magnitude (a loss beside an entropy) get figures of their own.
    """
    groups: dict[str, list[str]] = {}
    for name in _names(history):
        groups.setdefault(_group(name), []).append(name)
    curves = Curves()
    for group in sorted(groups, key=lambda group: (_RANK.get(group, 50), group)):
        section = {"eval": curves.learning, "loss": curves.learning, "optimiser": curves.optimiser}.get(
            group, curves.selection if group in _WEIGHTS else curves.health
        )
        parts = _by_magnitude(history, groups[group]) if section is curves.health else [groups[group]]
        for names in parts:
            figure = _curves(history, group, names, alone=len(parts) > 1)
            if figure is not None:
                section.append(figure)
    return curves


def _by_magnitude(history: Sequence[dict[str, Any]], names: list[str]) -> list[list[str]]:
    """Names in groups that share an axis well: sizes within about 20 ×."""
    parts: list[tuple[float, list[str]]] = []
    sizes = {
        name: max((abs(v) for e in history if (v := number(e.get(name))) is not None), default=0.0) for name in names
    }
    for name in sorted(names, key=lambda name: -sizes[name]):
        place = next((part for size, part in parts if sizes[name] == 0 or size <= 20 * sizes[name]), None)
        if place is None:
            parts.append((sizes[name], [name]))
        else:
            place.append(name)
    return [sorted(part, key=names.index) for _, part in parts]


def selection_over_time(selection: Sequence[dict[str, Any]]) -> list[Figure]:
    """Per epoch, over all rows: weights of teachers and kinds of knowledge, share of rows that asked."""
    rows = sorted(
        (row for row in selection if row.get("group") == "all"), key=lambda row: number(row.get("epoch")) or 0.0
    )
    figures = []
    for prefix, title in (("teacher/", "Teacher weights by epoch"), ("knowledge/", "Kinds of knowledge by epoch")):
        columns = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
        data = [curve(rows, "epoch", column, column.removeprefix(prefix), kind="bar") for column in columns]
        if any(_filled(trace) for trace in data):
            layout = {
                "barmode": "stack",
                "xaxis": _epochs(rows),
                "yaxis": {"title": {"text": "mean weight"}, "rangemode": "tozero"},
            }
            figures.append(Figure(title, "mean over all rows of the epoch", data, layout))
    figures += _right_and_wrong(rows)
    figures += _by_class(selection, "teacher/", "Weight of teacher")
    figures += _by_class(selection, "knowledge/", "Weight of")
    shares = [
        curve(rows, "epoch", key, label) for key, label in (("asked", "asked teachers"), ("trained", "trained on"))
    ]
    shares = [trace for trace in shares if _filled(trace)]
    # Shares that are 1 all along say nothing: no rows were selected.
    if any(value is not None and value < 0.9995 for trace in shares for value in trace["y"]):
        layout = {
            "xaxis": _epochs(rows),
            "yaxis": {"title": {"text": "share of rows"}, "range": [0, 1.03], "tickformat": ".0%"},
        }
        figures.append(
            Figure("Rows by epoch", "share of the rows that asked teachers, and that were trained on", shares, layout)
        )
    return figures


def _by_class(selection: Sequence[dict[str, Any]], prefix: str, title: str) -> list[Figure]:
    """A map of epochs × groups of rows for each weight; nothing where it is the same everywhere."""
    rows = [row for row in selection if row.get("group") != "all" and number(row.get("epoch")) is not None]
    groups = _largest_groups(rows)
    epochs = sorted({number(row.get("epoch")) or 0.0 for row in rows})
    columns = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
    largest = max((value for row in rows for c in columns if (value := number(row.get(c))) is not None), default=0.0)
    figures = []
    for column in columns[:_MAX_MAPS]:
        found = {(row.get("group"), number(row.get("epoch"))): number(row.get(column)) for row in rows}
        values = [[found.get((group, epoch)) for epoch in epochs] for group in groups]
        known = [value for line in values for value in line if value is not None]
        if len(groups) < 2 or not known or max(known) - min(known) < 0.02:
            continue
        data = [
            {
                "type": "heatmap",
                "x": epochs,
                "y": [label(str(group), 24) for group in groups],
                "z": [[None if value is None else round(value, 4) for value in line] for line in values],
                "zmin": 0,
                "zmax": largest,  # one scale for all maps
                "colorscale": [[0, "--card"], [1, "--accent"]],
                "colorbar": {"thickness": 10, "outlinewidth": 0},
                "xgap": 1,
                "ygap": 1,
                "hovertemplate": "%{y}, epoch %{x}: %{z:.2f}<extra></extra>",
            }
        ]
        layout = {
            "xaxis": {**_epochs(epochs), "showgrid": False},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
            "height": max(300, 110 + 22 * len(groups)),
            "showlegend": False,
        }
        name = column.removeprefix(prefix)
        figures.append(Figure(f"{title} {name} by label and epoch", "mean over the rows of a label", data, layout))
    return figures


def _largest_groups(rows: Sequence[dict[str, Any]]) -> list[Any]:
    sizes: dict[Any, float] = {}
    for row in rows:
        sizes[row.get("group")] = max(sizes.get(row.get("group"), 0.0), number(row.get("rows")) or 0.0)
    return sorted(sizes, key=lambda group: -sizes[group])[:_MAX_CLASSES]


def knowledge_by_phase(history: Sequence[dict[str, Any]]) -> Figure | None:
    """Mean weight of each kind of knowledge in the first, middle and last third of training; None where none changes."""
    names = [name for name in _names(history) if name.startswith("knowledge/v_")]
    lines = [entry for entry in history if any(number(entry.get(name)) is not None for name in names)]
    last = max((number(entry.get("step")) or 0.0 for entry in lines), default=0.0)
    if len(lines) < 3 or not last:
        return None
    phases: list[list[dict[str, Any]]] = [[], [], []]
    for entry in lines:
        phases[min(2, int(3 * (number(entry.get("step")) or 0.0) / (last + 1e-9)))].append(entry)
    data, changes = [], False
    for name in names:
        means = [_mean([number(entry.get(name)) for entry in phase]) for phase in phases]
        known = [mean for mean in means if mean is not None]
        changes |= bool(known) and max(known) - min(known) > 0.01
        data.append(
            {
                "type": "bar",
                "name": label(name.removeprefix("knowledge/v_")),
                "x": ["first third", "middle", "last third"],
                "y": means,
            }
        )
    if not changes:
        return None
    layout = {
        "barmode": "group",
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": "mean weight"}, "rangemode": "tozero"},
    }
    return Figure("Kinds of knowledge by phase of training", "mean weights in thirds of the steps", data, layout)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _right_and_wrong(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """Each teacher's weight on rows where it is right, beside that where it is wrong; nothing where the two never differ."""
    data, differ = [], False
    for index, name in enumerate(_teachers(rows)):
        for word, dash in (("right", "solid"), ("wrong", "dot")):
            trace = curve(rows, "epoch", f"{word}/{name}", f"{name}, {word}")
            data.append(trace | {"mode": "lines+markers", "line": {"dash": dash, "color": f"--c{index % 8}"}})
        pairs = [(number(row.get(f"right/{name}")), number(row.get(f"wrong/{name}"))) for row in rows]
        differ |= any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs)
    if not differ:
        return []
    layout = {"xaxis": _epochs(rows), "yaxis": {"title": {"text": "mean weight"}, "rangemode": "tozero"}}
    note = "a teacher's mean weight on labelled rows where its answer is right, and where it is wrong"
    return [Figure("Are teachers believed where they are right?", note, data, layout)]


def _teachers(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(key.removeprefix("right/") for row in rows for key in row if key.startswith("right/"))
    return list(names)


def score_against_cost(rows: Sequence[ModelRow], primary: str) -> Figure | None:
    """Each model as a point: milliseconds per row against score; None with fewer than two known points."""
    known = [(row, row.latency_ms, row.score) for row in rows if row.score is not None and row.latency_ms]
    if len(known) < 2:
        return None
    times = [math.log10(milliseconds) for _, milliseconds, _ in known]
    middle = 10 ** ((min(times) + max(times)) / 2)
    scores = [score for _, _, score in known]
    wide, high = max(max(times) - min(times), 0.2), max(max(scores) - min(scores), 0.02)
    places = _label_places([(math.log10(x) / wide, y / high) for _, x, y in known], math.log10(middle) / wide)
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
                "textposition": [place for place, (row, _, _) in zip(places, known, strict=True) if row.role == role],
                "marker": {"size": 11, "symbol": symbol},
            }
        )
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


def _label_places(points: Sequence[tuple[float, float]], middle: float) -> list[str]:
    """Where each name stands beside its point (in units of the plot): towards the middle, where there is room; of two points that
    are close to each other one has its name above, the other below."""
    places: list[str] = []
    for index, (x, y) in enumerate(points):
        near = [places[i] for i in range(index) if abs(points[i][0] - x) < 0.25 and abs(points[i][1] - y) < 0.12]
        level = next(
            (level for level in ("middle", "top", "bottom") if not any(p.startswith(level) for p in near)), "top"
        )
        places.append(f"{level} {'right' if x < middle else 'left'}")
    return places


def label(text: str, limit: int = 40) -> str:
    """`text` for plotly, which reads a little HTML in its labels: escaped, and cut to `limit` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(short)


_OPTIMISER = ("train/learning_rate", "train/grad_norm", "train/samples_per_second", "train/tokens_per_second")
_TITLES = {
    "loss": ("Loss", "of training, with its parts, and on the held-out split"),
    "eval": ("Scores while training", "on the split held out of train that chooses the checkpoint, not on dev"),
    "teacher": ("Teachers while training", "mean weights of the teachers"),
    "knowledge": ("Knowledge while training", "mean weights of the kinds of knowledge"),
    "rows": ("Rows while training", "share that asked the teachers"),
    "uncertainty": ("Uncertainty while training", "of the student, and where its choices are cut"),
    "policy": (
        "Policy",
        "entropy: 1 is a coin's throw, 0 is decided (early zeros: the policy collapsed); p: chance to be chosen",
    ),
    "reward": ("Rewards", "their mean, the baseline that they are compared with, and their spread"),
    "critic": ("Critic", "its loss should fall; its values should come near the rewards"),
    "actor": ("Actor", "mean actions per kind of knowledge, and its loss"),
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


def _curves(history: Sequence[dict[str, Any]], group: str, names: list[str], alone: bool = False) -> Figure | None:
    """One figure; `alone`: it shows a part of its group, and says which."""
    title, note = _TITLES.get(group, (group.replace("_", " ").capitalize(), ""))
    if alone:
        title = f"{title}: {', '.join(_short(name, group) for name in names[:3])}{', …' if len(names) > 3 else ''}"
    data = [curve(history, "step", name, _short(name, group)) for name in names]
    data = [trace for trace in data if _filled(trace)]
    if not data or (group in _WEIGHTS and all(_constant(trace["y"]) for trace in data)):
        return None  # weights that never change are in the figures by epoch
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "step"}}, "yaxis": {}}
    if group == "optimiser" and len(data) > 1:  # they differ by orders of magnitude
        layout["yaxis"] = {"type": "log", "exponentformat": "power", "dtick": 1}
    if group in _WEIGHTS:  # equal weights are a flat line, not the rounding of their last digit
        layout["yaxis"] = {"rangemode": "tozero", "range": [0, 1.05 * max(1.0, *(max(t["y"]) for t in data))]}
    return Figure(title, note, data, layout)


def _constant(values: Sequence[float]) -> bool:
    return max(values) - min(values) < 0.002


def _short(name: str, group: str) -> str:
    """The curve's name without what the title already says."""
    if group == "loss":
        names = {"train/loss": "training", "eval/loss": "held out"}
        return names.get(name, name.removeprefix("train/loss_").replace("eval/loss_", "held out, "))
    rest = name.partition("/")[2] or name
    return rest.removeprefix({"teacher": "w_", "knowledge": "v_"}.get(group, ""))


def curve(rows: Sequence[dict[str, Any]], x: str, y: str, name: str, kind: str = "scatter") -> dict[str, Any]:
    """A plotly trace of the entries that hold both numbers, thinned to what can be seen; `name` is escaped."""
    points = [(number(row.get(x)), number(row.get(y))) for row in rows if row.get(y) is not None]
    pairs = [(a, b) for a, b in points if a is not None and b is not None]
    pairs = pairs[:: max(1, -(-len(pairs) // _MAX_POINTS))]
    trace: dict[str, Any] = {"type": kind, "name": label(name), "x": [a for a, _ in pairs], "y": [b for _, b in pairs]}
    if kind == "scatter":
        trace["mode"] = "lines" if len(pairs) > 40 else "lines+markers"
    return trace


def _filled(trace: dict[str, Any]) -> bool:
    return bool(trace["y"])


def _epochs(rows: Sequence[Any]) -> dict[str, Any]:
    """An x axis with one tick per epoch, or plotly's own choice when there are many."""
    axis: dict[str, Any] = {"title": {"text": "epoch"}}
    return axis | ({"dtick": 1} if len(rows) <= 15 else {})
