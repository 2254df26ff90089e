"""Calibration, confusion and differences are those of the outputs."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distilect.report.files import Predictions, read_run
from distilect.report.predictions import agreement, calibration_table, differences, prediction_figures
from tests.report.run_files import write_answers, write_run


def logits_of(*classes: int, sure: float = 5.0) -> Any:
    """Logits of two classes, far apart."""
    return np.array([[sure, 0.0] if c == 0 else [0.0, sure] for c in classes])


def predictions(**changes: Any) -> Predictions:
    values: dict[str, Any] = {
        "split": "dev",
        "labels": ("no", "yes"),
        "gold": np.array([0, 0, 1, 1, -1]),
        "student": logits_of(0, 1, 1, 0, 1),
        "teachers": {"t": logits_of(0, 0, 0, 0, 1)},
        "texts": pa.table({"text": [f"row {i}" for i in range(5)]}),
    }
    return Predictions(**(values | changes))


def test_confusion_counts_rows_of_each_label_and_leaves_out_those_without() -> None:
    figure = prediction_figures(predictions(), "t")[0]
    assert figure.title == "Confusion of the student"
    (trace,) = figure.data
    assert trace["customdata"] == [[1, 1], [1, 1]]
    assert trace["z"] == [[0.5, 0.5], [0.5, 0.5]]
    assert prediction_figures(predictions(), "t")[1].data[0]["customdata"] == [[2, 0], [2, 0]]


def test_agreement_counts_who_is_right() -> None:
    assert agreement(predictions(), "t") == (
        "Of 4 rows both are right on 1, only the student on 1, only t on 1, neither on 1."
    )
    assert agreement(predictions(), None) == ""


def test_the_rows_that_differ_most_come_first_with_both_predictions() -> None:
    table = differences(predictions(student=logits_of(0, 1, 0, 0, 1)), "t")
    assert table is not None
    first = [cell.text for cell in table.rows[0]]
    assert first == ["row 1", "no", "yes 0.99", "no 0.99", "0.99"]
    assert [cell.mark for cell in table.rows[0][2:4]] == ["bad", "good"]
    assert all(row[4].value == pytest.approx(0.0) for row in table.rows[1:])
    assert differences(predictions(teachers={}), None) is None


def test_at_most_so_many_differences_are_listed() -> None:
    rows = 1000
    many = predictions(
        gold=np.zeros(rows, int),
        student=np.zeros((rows, 2)),
        teachers={"t": np.ones((rows, 2))},
        texts=pa.table({"text": ["x"] * rows}),
    )
    table = differences(many, "t")
    assert table is not None and len(table.rows) == 150


def test_a_model_that_is_sure_and_wrong_is_badly_calibrated() -> None:
    table = calibration_table(predictions(student=logits_of(1, 1, 0, 0, 0), teachers={"t": logits_of(0, 0, 1, 1, 1)}))
    assert table is not None
    student, teacher = ([cell.value for cell in row[1:]] for row in table.rows)
    assert all(a > b for a, b in zip(student, teacher, strict=True))
    assert student[0] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)  # wholly sure, never right


def test_reliability_bins_hold_equally_many_rows_and_lie_where_they_should() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1.0, 5000)
    gold = (random.uniform(size=5000) > confidence).astype(int)  # class 0 with its probability: calibrated
    logits = np.stack([np.log(confidence), np.log1p(-confidence)], axis=1)
    figure = prediction_figures(predictions(gold=gold, student=logits, teachers={}), None)[-1]
    trace = figure.data[1]
    assert trace["text"] == ["500"] * 10
    assert np.abs(np.array(trace["x"]) - np.array(trace["y"])).max() < 0.06


def test_regression_shows_points_against_labels_and_no_calibration() -> None:
    scores = predictions(
        labels=(),
        gold=np.array([1.0, 2.0, np.nan]),
        student=np.array([[1.5], [2.0], [3.0]]),
        teachers={"t": np.array([[1.0], [2.5], [0.0]])},
    )
    assert calibration_table(scores) is None and agreement(scores, "t") == ""
    student, teacher = prediction_figures(scores, "t")
    assert student.data[1]["x"] == [1.0, 2.0] and student.data[1]["y"] == [1.5, 2.0]
    assert teacher.title == "Teacher t against the labels"
    table = differences(scores, "t")
    assert table is not None
    assert [row[4].value for row in table.rows] == pytest.approx([3.0, 0.5, 0.5])
    assert table.rows[0][1].text == "–"


def test_a_teacher_may_be_called_student_and_labels_may_be_equal_once_they_are_cut() -> None:
    long = "x" * 60
    found = prediction_figures(
        predictions(labels=(long + "a", long + "b"), teachers={"student": logits_of(0, 0, 0, 0, 1)}), "student"
    )
    axis = found[0].data[0]["y"]
    assert len(set(axis)) == 2
    assert [figure.title for figure in found[:2]] == ["Confusion of the student", "Confusion of teacher student"]


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_answers(write_run(tmp_path), 30, labels=("a", "b", "c"), teachers=("t",), text="<b> {row}")
    run = read_run(tmp_path)
    assert run.predictions is not None and not run.notes
    assert run.predictions.labels == ("a", "b", "c")
    assert run.predictions.student.shape == run.predictions.teachers["t"].shape == (30, 3)
    assert run.predictions.gold[0] == -1 and run.predictions.gold.max() == 2
    assert run.predictions.texts.slice(7, 1).to_pylist()[0] == {"text": "<b> 7"}
    assert html.escape("<b>") in answer_hover(tmp_path)


def answer_hover(folder: Path) -> str:
    write_answers(folder, 30, labels=(), text="<b> {row}")
    run = read_run(folder)
    assert run.predictions is not None and run.predictions.gold.dtype == np.float64
    return str(prediction_figures(run.predictions, None)[0].data[1]["text"][0])
