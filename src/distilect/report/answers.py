"""What student and teachers answered on the reported rows, from `predictions.parquet`: calibration, confusion, differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.evaluation import brier_score, expected_calibration_error, negative_log_likelihood, softmax
from distilect.report import words
from distilect.report.decisions import hover, row_text
from distilect.report.figures import Figure, label
from distilect.report.files import Answers
from distilect.report.shell import Cell, DataTable, shorten

_MAX_DIFFERENCES = 150
_MAX_CLASSES = 25  # of a confusion matrix
_MAX_POINTS = 1200  # of a scatter plot
_MAX_MODELS = 7  # curves of calibration
_BINS = 10
_SHOWN = 400  # characters of a text


def answer_figures(answers: Answers, best: str | None) -> list[Figure]:
    """Confusion and calibration, or predictions against labels in regression; `best` is the best teacher's name."""
    models = [(name, logits) for name, logits in _models(answers) if name in (None, best)]
    if not answers.labels:
        figures = [_against_labels(answers, name, logits) for name, logits in models]
        return [figure for figure in figures if figure is not None]
    found = [_confusion(answers, name, logits) for name, logits in models]
    return [figure for figure in [*found, _reliability(answers)] if figure is not None]


def calibration_table(answers: Answers) -> DataTable | None:
    """ECE, Brier score and negative log-likelihood of each model; None in regression and without labels."""
    if not answers.labels or not (answers.gold >= 0).any():
        return None
    body = []
    for name, logits in _models(answers):
        probabilities = softmax(logits)
        values = (
            expected_calibration_error(probabilities, answers.gold),
            brier_score(probabilities, answers.gold),
            negative_log_likelihood(probabilities, answers.gold),
        )
        body.append([Cell(name or "student"), *(Cell(f"{value:.3f}", value) for value in values)])
    return DataTable("calibration", ["model", "ECE", "Brier", "NLL"], body)


def agreement(answers: Answers, best: str | None) -> str:
    """One sentence: how often student and teacher are right together; "" where it cannot be said."""
    known = answers.gold >= 0 if answers.labels else np.zeros(len(answers.gold), bool)
    if best not in answers.teachers or not known.any():
        return ""
    student = (answers.student.argmax(axis=1) == answers.gold)[known]
    teacher = (answers.teachers[best].argmax(axis=1) == answers.gold)[known]
    both, own = int((student & teacher).sum()), int((student & ~teacher).sum())
    theirs, none = int((~student & teacher).sum()), int((~student & ~teacher).sum())
    return (
        f"Of {words.whole(known.sum())} rows both are right on {words.whole(both)}, only the student on {words.whole(own)},"
        f" only {best} on {words.whole(theirs)}, neither on {words.whole(none)}."
    )


def differences(answers: Answers, best: str | None) -> DataTable | None:
    """The rows on which student and teacher are furthest apart; None without a teacher."""
    if best not in answers.teachers or not len(answers.gold):
        return None
    if not answers.labels:
        return _score_differences(answers, best)
    student, teacher = softmax(answers.student), softmax(answers.teachers[best])
    apart = 0.5 * np.abs(student - teacher).sum(axis=1)  # total variation: 0 the same, 1 nothing in common
    body = []
    for row in _furthest(apart):
        gold = int(answers.gold[row])
        cells = [Cell(row_text(answers.texts[row], _SHOWN)), Cell(_name(answers, gold))]
        for probabilities in (student[row], teacher[row]):
            chosen = int(probabilities.argmax())
            mark = "" if gold < 0 else "good" if chosen == gold else "bad"
            cells.append(Cell(f"{_name(answers, chosen)} {probabilities[chosen]:.2f}", None, mark))
        body.append([*cells, Cell(f"{apart[row]:.2f}", float(apart[row]))])
    return DataTable(
        "differences",
        ["text", "label", "student", f"teacher {best}", "difference"],
        body,
        frozenset({0}),
        frozenset({1, 2, 3}),
    )


def _score_differences(answers: Answers, best: str) -> DataTable:
    student, teacher = answers.student[:, 0], answers.teachers[best][:, 0]
    apart = np.abs(student - teacher)
    body = [
        [
            Cell(row_text(answers.texts[row], _SHOWN)),
            *(_score(value) for value in (answers.gold[row], student[row], teacher[row], apart[row])),
        ]
        for row in _furthest(apart)
    ]
    return DataTable(
        "differences", ["text", "label", "student", f"teacher {best}", "difference"], body, frozenset({0}), frozenset()
    )


def _models(answers: Answers) -> Iterator[tuple[str | None, NDArray[np.float64]]]:
    """Names and outputs [N, C]: of the student, whose name is None (a teacher may be called `student`), then of teachers."""
    yield None, answers.student
    yield from answers.teachers.items()


def _furthest(apart: NDArray[np.float64]) -> NDArray[np.int64]:
    known = np.where(np.isnan(apart), -1.0, apart)
    return np.argsort(-known, kind="stable")[:_MAX_DIFFERENCES]


def _confusion(answers: Answers, name: str | None, logits: NDArray[np.float64]) -> Figure | None:
    """Share of each label's rows that were given each label."""
    known = answers.gold >= 0
    if not known.any():
        return None
    gold, said, count = answers.gold[known], logits.argmax(axis=1)[known], len(answers.labels)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (gold, said), 1)
    shown = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:_MAX_CLASSES])
    counts = counts[np.ix_(shown, shown)]
    totals = np.maximum(np.bincount(gold, minlength=count)[shown], 1)
    shares = counts / totals[:, None]
    names = _distinct([answers.labels[index] for index in shown])
    few = len(shown) <= 13
    data = [
        {
            "type": "heatmap",
            "x": names,
            "y": names,
            "z": [[round(float(value), 4) for value in line] for line in shares],
            "customdata": counts.tolist(),
            "zmin": 0,
            "zmax": 1,
            "showscale": False,
            "colorscale": [[0, "--card"], [1, "--accent"]],
            "xgap": 1,
            "ygap": 1,
            **({"text": counts.tolist(), "texttemplate": "%{text}", "textfont": {"size": 11}} if few else {}),
            "hovertemplate": "%{y} taken for %{x}: %{customdata} rows, %{z:.0%}<extra></extra>",
        }
    ]
    layout = {
        "xaxis": {
            "title": {"text": "said"},
            "type": "category",
            "tickangle": -40 if len(names) > 4 else 0,
            "showgrid": False,
        },
        "yaxis": {"title": {"text": "label"}, "type": "category", "autorange": "reversed", "showgrid": False},
        "height": max(300, 150 + 26 * len(shown)),
        "showlegend": False,
    }
    left = f"; the {len(shown)} most frequent of {count} labels" if count > len(shown) else ""
    who = name or "the student"
    return Figure(f"Confusion of {who}", f"rows of each label by what was said{left}", data, layout)


def _reliability(answers: Answers) -> Figure | None:
    """Confidence against accuracy in bins of equally many rows; on the diagonal a model can be taken at its word."""
    known = answers.gold >= 0
    if known.sum() < 2 * _BINS:
        return None
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as it should be",
            "x": [0, 1],
            "y": [0, 1],
            "hoverinfo": "skip",
            "line": {"color": "--c7", "dash": "dot", "width": 1},
        }
    ]
    for name, logits in list(_models(answers))[:_MAX_MODELS]:
        probabilities = softmax(logits[known])
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == answers.gold[known]
        order = np.argsort(confidence, kind="stable")
        bins = np.array_split(order, _BINS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(name or "student"),
                "x": [round(float(confidence[rows].mean()), 4) for rows in bins],
                "y": [round(float(right[rows].mean()), 4) for rows in bins],
                "text": [words.whole(len(rows)) for rows in bins],
                "hovertemplate": "said %{x:.2f}, right %{y:.2f} (%{text} rows)<extra>"
                + label(name or "student")
                + "</extra>",
                "line": {"width": 3 if name is None else 1.5},
            }
        )
    low = min(min(trace["x"]) for trace in data[1:])
    layout = {
        "xaxis": {"title": {"text": "confidence"}, "range": [max(0.0, low - 0.05), 1.01]},
        "yaxis": {"title": {"text": "share that is right"}, "range": [0, 1.03]},
    }
    note = "below the dotted line a model is surer than it should be; bins of equally many rows"
    return Figure("Calibration", note, data, layout)


def _against_labels(answers: Answers, name: str | None, logits: NDArray[np.float64]) -> Figure | None:
    known = np.flatnonzero(~np.isnan(answers.gold) & ~np.isnan(logits[:, 0]))
    if not len(known):
        return None
    rows = known[np.linspace(0, len(known) - 1, min(len(known), _MAX_POINTS)).astype(int)]
    gold, said = answers.gold[rows], logits[rows, 0]
    low, high = float(min(gold.min(), said.min())), float(max(gold.max(), said.max()))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "label",
            "x": [low, high],
            "y": [low, high],
            "hoverinfo": "skip",
            "line": {"color": "--c7", "dash": "dot", "width": 1},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(name or "student"),
            "x": [round(float(value), 4) for value in gold],
            "y": [round(float(value), 4) for value in said],
            "text": [hover(answers.texts[row]) for row in rows],
            "hovertemplate": "%{text}<br>label %{x:.2f}, said %{y:.2f}<extra></extra>",
            "marker": {"size": 6, "opacity": 0.6, "color": "--c0"},
        },
    ]
    layout = {"xaxis": {"title": {"text": "label"}}, "yaxis": {"title": {"text": "said"}}, "showlegend": False}
    who = "The student" if name is None else f"Teacher {name}"
    more = f"; {len(rows):,} of {len(known):,} rows" if len(rows) < len(known) else ""
    return Figure(f"{who} against the labels", f"on the dotted line it is exact{more}", data, layout)


def _name(answers: Answers, index: int) -> str:
    return shorten(answers.labels[index], 40) if 0 <= index < len(answers.labels) else words.NONE


def _distinct(names: list[str]) -> list[str]:
    """Names for an axis, which would put two equal ones in one place."""
    short = [label(name, 20) for name in names]
    return [name if short.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(short, start=1)]


def _score(value: float) -> Cell:
    return Cell(words.NONE) if np.isnan(value) else Cell(f"{value:.3f}", float(value))


__all__ = ["agreement", "answer_figures", "calibration_table", "differences"]
