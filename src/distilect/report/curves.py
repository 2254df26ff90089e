"""What a run logged, over its steps (`history.jsonl`): how it learned, its weights, its selectors' health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distilect.report.figures import Figure, axis, curve, label

History = Sequence[dict[str, float]]

# Namespace → title and note of its figure, in the order of the page. Any other is a selector's, and its name is its title.
_TITLES = {
    "eval": ("Scores while training", "on the validation split, which chooses the checkpoint; not on dev"),
    "loss": ("Loss", "training loss with its parts, and loss on the validation split"),
    "teacher": ("Teacher weights while training", "mean over the rows of a step"),
    "knowledge": ("Loss weights while training", "mean over the rows of a step"),
    "rows": ("Rows while training", "share of rows that asked the teachers"),
    "actor": ("Actor", "mean action per kind of knowledge, and the loss"),
    "critic": ("Critic", "the loss should fall; the values should approach the rewards"),
    "policy": (
        "Policy",
        "entropy: 1 is a coin flip, 0 is deterministic (0 early in training: the policy collapsed);"
        " p: probability of being selected",
    ),
    "reward": ("Rewards", "mean, spread, and the baseline that is subtracted"),
    "uncertainty": ("Uncertainty while training", "of the student, and the thresholds of the selection"),
    "optimiser": ("Learning rate and gradients", ""),
}
_WEIGHTS = ("teacher", "knowledge", "rows")
_SPEED = ("runtime", "per_second", "seconds")


@dataclass(frozen=True)
class Curves:
    """Figures by section of the page."""

    learning: list[Figure] = field(default_factory=list)
    selection: list[Figure] = field(default_factory=list)
    health: list[Figure] = field(default_factory=list)
    optimiser: list[Figure] = field(default_factory=list)


def curves_of(history: History) -> Curves:
    """One figure per namespace of the history; a namespace that is not known is a selector's health."""
    groups: dict[str, list[str]] = {}
    for name in _names(history):
        groups.setdefault(_group(name), []).append(name)
    curves = Curves()
    sections = {"eval": curves.learning, "loss": curves.learning, "optimiser": curves.optimiser}
    sections |= dict.fromkeys(_WEIGHTS, curves.selection)
    for group in [*_TITLES, *sorted(groups.keys() - _TITLES)]:
        section = sections.get(group, curves.health)
        names = groups.get(group, [])
        parts = _by_magnitude(history, names) if section is curves.health else [names]
        section += [figure for part in parts if (figure := _figure(history, group, part, len(parts) > 1))]
    return curves


def knowledge_by_phase(history: History) -> Figure | None:
    """Mean weight of each kind of knowledge in the first, middle and last third of training; None where none changes."""
    names = [name for name in _names(history) if name.startswith("knowledge/v_")]
    entries = [entry for entry in history if "step" in entry and any(name in entry for name in names)]
    if len(entries) < 3:
        return None
    steps = np.array([entry["step"] for entry in entries])
    phases = np.minimum(2, 3 * steps // (steps.max() + 1e-9))
    data, changes = [], False
    for name in names:
        values = np.array([entry.get(name, np.nan) for entry in entries])
        found = [values[(phases == phase) & ~np.isnan(values)] for phase in range(3)]
        means = [float(part.mean()) if len(part) else None for part in found]
        known = [mean for mean in means if mean is not None]
        changes |= max(known) - min(known) > 0.01
        title = label(name.removeprefix("knowledge/v_"))
        data.append(dict(type="bar", name=title, x=["first third", "middle", "last third"], y=means))
    layout = dict(barmode="group", xaxis={"type": "category"}, yaxis=axis("mean weight", rangemode="tozero"))
    return (
        Figure("Loss weights by phase of training", "mean weights in thirds of the steps", data, layout)
        if changes
        else None
    )


def _names(history: History) -> list[str]:
    """Names of all logged numbers but speeds, in order of first appearance."""
    names = dict.fromkeys(key for entry in history for key in entry if "/" in key)
    return [name for name in names if not name.endswith(_SPEED)]


def _group(name: str) -> str:
    space, _, rest = name.partition("/")
    if space in ("train", "eval") and rest.startswith("loss"):
        return "loss"
    return "optimiser" if space == "train" else space


def _by_magnitude(history: History, names: list[str]) -> list[list[str]]:
    """Names in groups that share an axis well: a loss beside an entropy would hide it. Sizes in a group are within 20 ×."""
    sizes = {name: max(abs(entry[name]) for entry in history if name in entry) for name in names}
    parts: list[list[str]] = []
    for name in sorted(names, key=lambda name: -sizes[name]):
        place = next((part for part in parts if sizes[name] == 0 or sizes[part[0]] <= 20 * sizes[name]), None)
        if place is None:
            parts.append([name])
        else:
            place.append(name)
    return [sorted(part, key=names.index) for part in parts]


def _figure(history: History, group: str, names: list[str], partial: bool) -> Figure | None:
    """The curves of a group; `partial`: of a part of it, which the title names. None for weights that never change."""
    title, note = _TITLES.get(group, (group.replace("_", " ").capitalize(), ""))
    if partial:
        title += f": {', '.join(_short(name, group) for name in names[:3])}{', …' if len(names) > 3 else ''}"
    data = [trace for name in names if (trace := curve(history, "step", name, _short(name, group)))["y"]]
    if not data:
        return None
    yaxis: dict[str, Any] = {}
    if group == "optimiser" and len(data) > 1:  # they differ by orders of magnitude
        yaxis = {"type": "log", "exponentformat": "power", "dtick": 1}
    if group in _WEIGHTS:
        if all(max(trace["y"]) - min(trace["y"]) < 0.002 for trace in data):
            return None  # the figures by epoch show them
        # From 0: equal weights are a flat line, not the rounding of their last digit.
        yaxis = {"rangemode": "tozero", "range": [0, 1.05 * max(1.0, *(max(trace["y"]) for trace in data))]}
    return Figure(title, note, data, {"xaxis": axis("step"), "yaxis": yaxis})


def _short(name: str, group: str) -> str:
    """The curve's name without what the title already says."""
    if group == "loss":
        names = {"train/loss": "training", "eval/loss": "validation"}
        return names.get(name, name.removeprefix("train/loss_").replace("eval/loss_", "validation, "))
    rest = name.partition("/")[2] or name
    return rest.removeprefix({"teacher": "w_", "knowledge": "v_"}.get(group, ""))
