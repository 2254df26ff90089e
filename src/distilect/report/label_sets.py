"""Predictions of a multi-label task: which labels each model predicts, and how well it finds each of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distilect.report import words
from distilect.report.files import Predictions
from distilect.report.shell import Cell, DataTable, number_cell, one_line
from distilect.tasks import label_f1, margins

_MAX_NAMES = 6  # labels that a cell names


def label_table(predictions: Predictions, best: str | None) -> DataTable | None:
    """Each label's rows and F1 of the student and of its best teacher, with their thresholds; None without labelled rows."""
    known = predictions.known
    if not predictions.multi_label or not known.any():
        return None
    gold = predictions.gold[known] == 1
    models = {"student": predictions.student}
    if best in predictions.teachers:
        models[f"teacher/{best}"] = predictions.teachers[best]
    scores = {name: label_f1(above(predictions, name, logits)[known], gold) for name, logits in models.items()}
    titles = ["label", "rows", "share of rows"]
    for name in models:
        titles += [f"{name.replace('/', ' ')}: F1", "threshold"]
    body = []
    for c, label in enumerate(predictions.labels):
        cells = [Cell(one_line(label, 40)), number_cell(float(gold[:, c].sum()), words.whole)]
        cells.append(number_cell(float(gold[:, c].mean()), _share))
        for name in models:
            f1 = float(scores[name][c])
            cells.append(number_cell(None if np.isnan(f1) else f1, words.score))
            cells.append(
                number_cell(
                    float(predictions.thresholds[name][c]) if name in predictions.thresholds else 0.5, words.score
                )
            )
        body.append(cells)
    return DataTable("per-label", titles, body)


def above(predictions: Predictions, name: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [N, C], above 0 where a label is predicted; `name`: `student` or `teacher/NAME`."""
    cut = predictions.thresholds.get(name)
    return margins(logits, None if cut is None else cut.tolist())


def set_cell(predictions: Predictions, has: NDArray[np.bool_], gold: NDArray[np.int64] | None = None) -> Cell:
    """The labels of a row; green where they are exactly the gold ones."""
    names = [one_line(label, 30) for label, one in zip(predictions.labels, has, strict=True) if one]
    shown = ", ".join(names[:_MAX_NAMES]) + (f", … ({len(names)})" if len(names) > _MAX_NAMES else "")
    mark = "" if gold is None or gold[0] < 0 else "good" if bool(((gold == 1) == has).all()) else "bad"
    return Cell(shown or "none", mark=mark)


def _share(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.1%}"
