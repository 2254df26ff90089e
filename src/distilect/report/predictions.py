"""Outputs of student and teachers on the reported rows (`predictions.parquet`): calibration, confusion, differences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit as sigmoid

from distilect.evaluation import brier_score, expected_calibration_error, negative_log_likelihood, softmax
from distilect.report import words
from distilect.report.decisions import hover, row_text
from distilect.report.entities import in_context, type_confusion
from distilect.report.figures import Figure, Trace, axis, confusion, dotted, label
from distilect.report.files import Predictions
from distilect.report.label_sets import above, set_cell
from distilect.report.shell import Cell, DataTable, one_line

Logits = NDArray[np.float64]

_MAX_DIFFERENCES = 150
_MAX_POINTS = 1200  # of a scatter plot
_MAX_MODELS = 7  # curves of calibration
_BINS = 10
_SHOWN = 400  # characters of a text


def prediction_figures(predictions: Predictions, best: str | None) -> list[Figure]:
    """Confusion and calibration, or predictions against labels in regression; `best` is the best teacher's name.

    A multi-label task has no confusion of one label with another: `label_sets.label_table` is in its place. Tags of entities are
    compared by type.
    """
    if predictions.multi_label:
        figure = _calibration(predictions)
        return [figure] if figure is not None else []
    models = {"the student": predictions.student}
    if best in predictions.teachers:
        models[f"teacher {best}"] = predictions.teachers[best]
    show = type_confusion if predictions.scheme else _confusion if predictions.labels else _against_labels
    figures = [show(predictions, name, logits) for name, logits in models.items()]
    if predictions.labels:
        figures.append(_calibration(predictions))
    return [figure for figure in figures if figure is not None]


def calibration_table(predictions: Predictions) -> DataTable | None:
    """ECE, Brier score and negative log-likelihood of each model; None in regression and without labels."""
    if not predictions.labels or not predictions.known.any():
        return None
    body = []
    for name, logits in _models(predictions):
        probabilities, gold = _choices(predictions, logits)
        measures = (expected_calibration_error, brier_score, negative_log_likelihood)
        values = [measure(probabilities, gold) for measure in measures]
        body.append([Cell(name), *(Cell(f"{value:.3f}", value) for value in values)])
    return DataTable("calibration", ["model", "ECE", "Brier", "NLL"], body)


def agreement(predictions: Predictions, best: str | None) -> str:
    """One sentence: how often student and teacher are right on the same rows; "" in regression and without labels."""
    if not predictions.labels or best not in predictions.teachers or not predictions.known.any():
        return ""
    known = predictions.known
    student = _right(predictions, "student", predictions.student)[known]
    teacher = _right(predictions, f"teacher/{best}", predictions.teachers[best])[known]
    rows, both, own, other, neither = (
        words.whole(int(part.sum()))
        for part in (known, student & teacher, student & ~teacher, ~student & teacher, ~student & ~teacher)
    )
    return f"Of {rows} {_unit(predictions)} both are right on {both}, only the student on {own}, only {best} on {other}, neither on {neither}."


def differences(predictions: Predictions, best: str | None) -> DataTable | None:
    """The rows on which student and teacher are furthest apart; None without a teacher."""
    if best not in predictions.teachers or not len(predictions.gold):
        return None
    student, teacher = predictions.student, predictions.teachers[best]
    if predictions.multi_label:
        apart = np.abs(sigmoid(student) - sigmoid(teacher)).mean(axis=1)
    elif predictions.labels:
        student, teacher = softmax(student), softmax(teacher)
        apart = 0.5 * np.abs(student - teacher).sum(axis=1)  # total variation: 0 the same, 1 nothing in common
    else:
        apart = np.abs(student - teacher)[:, 0]
    furthest = np.argsort(-np.nan_to_num(apart, nan=-1.0), kind="stable")[:_MAX_DIFFERENCES]
    body = []
    texts = predictions.texts.take(furthest).to_pylist()
    if predictions.offsets is not None:
        texts = [{"text": in_context(predictions, row)} for row in furthest.tolist()]
    for row, text in zip(furthest, texts, strict=True):
        gold, outputs = predictions.gold[row], (student[row], teacher[row])
        if predictions.multi_label:
            sets = [
                above(predictions, *model)[0] > 0
                for model in (("student", student[[row]]), (f"teacher/{best}", teacher[[row]]))
            ]
            cells = [set_cell(predictions, gold == 1) if gold[0] >= 0 else Cell(words.NONE)]
            cells += [set_cell(predictions, has, gold) for has in sets]
        elif predictions.labels:
            cells = [Cell(_label(predictions, gold)), *(_predicted(predictions, gold, output) for output in outputs)]
        else:
            cells = [_number(gold, 3), *(_number(output[0], 3) for output in outputs)]
        difference = _number(apart[row], 2 if predictions.labels else 3)
        body.append([Cell(row_text(text, _SHOWN)), *cells, difference])
    titles = ["text", "label", "student", f"teacher {best}", "difference"]
    return DataTable("differences", titles, body, wide=[0], words=[1, 2, 3] if predictions.labels else [])


def _unit(predictions: Predictions) -> str:
    """What has a label."""
    return "rows" if predictions.offsets is None else "words"


def _models(predictions: Predictions) -> list[tuple[str, Logits]]:
    """Names and outputs [N, C]: the student, then teachers, one of which may have its name."""
    return [("student", predictions.student), *predictions.teachers.items()]


def _choices(predictions: Predictions, logits: Logits) -> tuple[Logits, NDArray[np.int64]]:
    """Probabilities [M, classes] and gold classes [M], -1 without one; in a multi-label task each pair of row and label is a choice
    between two classes."""
    if not predictions.multi_label:
        return softmax(logits), predictions.gold
    having = sigmoid(logits).reshape(-1)
    return np.stack([1 - having, having], axis=1), predictions.gold.reshape(-1)


def _right(predictions: Predictions, name: str, logits: Logits) -> NDArray[np.bool_]:
    """bool [N]: rows whose predicted label, or set of labels, is the gold one."""
    if predictions.multi_label:
        return np.asarray(((above(predictions, name, logits) > 0) == (predictions.gold == 1)).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == predictions.gold)


def _confusion(predictions: Predictions, name: str, logits: Logits) -> Figure | None:
    """Rows of each label by predicted label, coloured by their share."""
    known = predictions.gold >= 0
    if not known.any():
        return None
    gold, count = predictions.gold[known], len(predictions.labels)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (gold, logits.argmax(axis=1)[known]), 1)
    unit = _unit(predictions)
    note = f"{unit} of each label by predicted label"
    return confusion(f"Confusion of {name}", predictions.labels, counts, unit, note)


def _calibration(predictions: Predictions) -> Figure | None:
    """Confidence against accuracy, in bins of equally many rows."""
    if predictions.known.sum() < 2 * _BINS:
        return None
    data = [dotted(0, 1, "perfectly calibrated")]
    for index, (name, logits) in enumerate(_models(predictions)[:_MAX_MODELS]):
        probabilities, gold = _choices(predictions, logits)
        confidence = probabilities.max(axis=1)[gold >= 0]
        right = (probabilities.argmax(axis=1) == gold)[gold >= 0]
        bins = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
        shown = label(name)
        data.append(
            dict(
                type="scatter",
                mode="lines+markers",
                name=shown,
                x=[round(float(confidence[rows].mean()), 4) for rows in bins],
                y=[round(float(right[rows].mean()), 4) for rows in bins],
                text=[words.whole(len(rows)) for rows in bins],
                hovertemplate=f"confidence %{{x:.2f}}, accuracy %{{y:.2f}} (%{{text}})<extra>{shown}</extra>",
                line={"width": 1.5 if index else 3},
            )
        )
    low = min(min(trace["x"]) for trace in data[1:])
    layout = dict(xaxis=axis("confidence", range=[max(0.0, low - 0.05), 1.01]), yaxis=axis("accuracy", range=[0, 1.03]))
    what = "pairs of row and label" if predictions.multi_label else _unit(predictions)
    note = f"below the dotted line a model is overconfident; bins of equally many {what}"
    return Figure("Calibration", note, data, layout)


def _against_labels(predictions: Predictions, name: str, logits: Logits) -> Figure | None:
    known = np.flatnonzero(~np.isnan(predictions.gold) & ~np.isnan(logits[:, 0]))
    if not len(known):
        return None
    rows = known[np.linspace(0, len(known) - 1, min(len(known), _MAX_POINTS)).astype(int)]
    gold, output = predictions.gold[rows], logits[rows, 0]
    ends = np.concatenate([gold, output])
    points: Trace = dict(
        type="scatter",
        mode="markers",
        name=label(name),
        x=gold.round(4).tolist(),
        y=output.round(4).tolist(),
        text=[hover(text) for text in predictions.texts.take(rows).to_pylist()],
        hovertemplate="%{text}<br>label %{x:.2f}, predicted %{y:.2f}<extra></extra>",
        marker={"size": 6, "opacity": 0.6, "color": "--c0"},
    )
    data = [dotted(float(ends.min()), float(ends.max()), "label"), points]
    layout = dict(xaxis=axis("label"), yaxis=axis("predicted"), showlegend=False)
    more = f"; {len(rows):,} of {len(known):,} rows" if len(rows) < len(known) else ""
    title = f"{name[0].upper()}{name[1:]} against the labels"
    return Figure(title, f"on the dotted line the prediction is exact{more}", data, layout)


def _predicted(predictions: Predictions, gold: int, probabilities: Logits) -> Cell:
    """The predicted label with its probability; green where it is the row's."""
    chosen = int(probabilities.argmax())
    mark = "" if gold < 0 else "good" if chosen == gold else "bad"
    return Cell(f"{_label(predictions, chosen)} {probabilities[chosen]:.2f}", mark=mark)


def _label(predictions: Predictions, index: int) -> str:
    return one_line(predictions.labels[index], 40) if 0 <= index < len(predictions.labels) else words.NONE


def _number(value: float, digits: int) -> Cell:
    return Cell(words.NONE) if np.isnan(value) else Cell(f"{value:.{digits}f}", float(value))
