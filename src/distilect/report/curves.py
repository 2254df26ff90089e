"""What a run logged, over its steps (`history.jsonl`): how it learned, its weights, its selectors' health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distilect.report.figures import Figure, Trace, axis, curve, label

History = Sequence[dict[str, float]]

# Namespace → section, title and note of its figure, in the order of the page. Any other namespace is a selector's.
_FIGURES = {
    "eval": ("learning", "Scores while training", "on the validation split, which chooses the checkpoint; not on dev"),
    "loss": ("learning", "Loss", "training loss with its parts, and loss on the validation split"),
    "teacher": ("selection", "Teacher weights while training", "mean over the rows of a step"),
    "knowledge": ("selection", "Loss weights while training", "mean over the rows of a step"),
    "rows": ("selection", "Rows while training", "share of rows that asked the teachers"),
    "actor": ("health", "Actor", "mean action per kind of knowledge, and the loss"),
    "critic": ("health", "Critic", "the loss should fall; the values should approach the rewards"),
    "policy": (
        "health",
        "Policy",
        "entropy: 1 is a coin flip, 0 is deterministic (early: it collapsed); p: selection probability",
    ),
    "reward": ("health", "Rewards", "mean, spread, and the baseline that is subtracted"),
    "uncertainty": ("health", "Uncertainty while training", "of the student, and the thresholds of the selection"),
    "optimiser": ("optimiser", "Learning rate and gradients", ""),
}
_SPEED = ("runtime", "per_second", "seconds")


def curves_of(history: History) -> dict[str, list[Figure]]:
    """Section (`learning`, `selection`, `health`, `optimiser`) → figures, one per namespace of the history."""
    groups: dict[str, list[str]] = {}
    for name in _names(history):
        groups.setdefault(_group(name), []).append(name)
    curves: dict[str, list[Figure]] = {section: [] for section, _, _ in _FIGURES.values()}
    for group in [*_FIGURES, *sorted(groups.keys() - _FIGURES)]:
        section, title, note = _FIGURES.get(group, ("health", group.replace("_", " ").capitalize(), ""))
        parts = [groups.get(group, [])]
        if section == "health":
            parts = _by_magnitude(history, parts[0])
        for names in parts:
            shown = [_short(name, group) for name in names]
            traces = [curve(history, "step", name, short) for name, short in zip(names, shown, strict=True)]
            if len(parts) > 1:
                title = f"{title.partition(':')[0]}: {', '.join(shown[:3])}{', …' if len(shown) > 3 else ''}"
            traces = [trace for trace in traces if trace["y"]]
            if traces and not (section == "selection" and all(max(t["y"]) - min(t["y"]) < 0.002 for t in traces)):
                layout = {"xaxis": axis("step"), "yaxis": _yaxis(section, traces)}
                curves[section].append(Figure(title, note, traces, layout))
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


def _yaxis(section: str, traces: Sequence[Trace]) -> dict[str, Any]:
    if section == "optimiser" and len(traces) > 1:  # they differ by orders of magnitude
        return {"type": "log", "exponentformat": "power", "dtick": 1}
    if section == "selection":  # from 0: equal weights are a flat line, not the rounding of their last digit
        return {"rangemode": "tozero", "range": [0, 1.05 * max(1.0, *(max(trace["y"]) for trace in traces))]}
    return {}


def _short(name: str, group: str) -> str:
    """The curve's name without what the title already says."""
    if group == "loss":
        names = {"train/loss": "training", "eval/loss": "validation"}
        return names.get(name, name.removeprefix("train/loss_").replace("eval/loss_", "validation, "))
    rest = name.partition("/")[2] or name
    return rest.removeprefix({"teacher": "w_", "knowledge": "v_"}.get(group, ""))
