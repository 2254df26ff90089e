"""A task knows its outputs and metrics, and refuses what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distilect.errors import ConfigError, DataError
from distilect.tasks import Task, default_metrics, kind_of_metrics


def classes(n: int, *metrics: str) -> Task:
    return Task("t", "classification", tuple(map(str, range(n))), metrics or ("accuracy",), 1)


REGRESSION = Task("r", "regression", (), ("pearson", "spearman"), 2)


def test_the_number_of_outputs_is_that_of_the_classes_or_one() -> None:
    assert classes(5).num_outputs == 5
    assert REGRESSION.num_outputs == 1


def test_the_first_metric_is_the_primary_one() -> None:
    assert classes(2, "f1", "accuracy").primary == "f1"


@pytest.mark.parametrize("task", [classes(3, "macro_f1", "accuracy"), REGRESSION])
def test_a_task_survives_json(task: Task) -> None:
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_from_dict_names_the_keys_it_expects() -> None:
    with pytest.raises(ConfigError, match="keys kind, labels, metrics, name, num_texts"):
        Task.from_dict({"name": "x"})


@pytest.mark.parametrize(
    ("kind", "labels", "metrics", "message"),
    [
        ("classification", ("a", "b"), ("acuracy",), "Did you mean 'accuracy'"),
        ("classification", ("a", "b"), ("pearson",), "does not fit classification"),
        ("classification", ("a", "b", "c"), ("f1",), "two classes, this task has 3: use 'macro_f1'"),
        ("classification", ("a", "b"), (), "at least one metric"),
        ("classification", ("a",), ("accuracy",), "two labels or more"),
        ("classification", ("a", "a"), ("accuracy",), "must differ"),
        ("regression", ("a", "b"), ("pearson",), "no label names"),
        ("regression", (), ("accuracy",), "does not fit regression"),
        ("ranking", (), ("accuracy",), "expected classification or regression"),
    ],
)
def test_a_task_that_cannot_be_is_refused(kind: str, labels: tuple, metrics: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task("t", kind, labels, metrics, 1)  # type: ignore[arg-type]


def test_three_texts_per_row_are_refused() -> None:
    with pytest.raises(ConfigError, match="one text or two"):
        Task("t", "regression", (), ("pearson",), 3)


def test_default_metrics_follow_the_number_of_classes() -> None:
    assert default_metrics("classification", 2) == ("accuracy", "f1")
    assert default_metrics("classification", 200) == ("accuracy", "macro_f1")
    assert default_metrics("regression", 0) == ("pearson", "spearman")


def test_metrics_tell_the_kind_of_task() -> None:
    assert kind_of_metrics(("pearson",)) == "regression"
    assert kind_of_metrics(("macro_f1",)) == "classification"
    assert kind_of_metrics(()) is None


def test_rows_without_label_do_not_count() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert classes(2).score(logits, np.array([0, -100, 1])) == {"accuracy": 0.5}
    scores = np.array([1.0, 2.0, np.nan, 3.0], dtype=np.float32)
    predicted = np.array([[1.0], [2.0], [-50.0], [3.0]])
    assert REGRESSION.score(predicted, scores)["pearson"] == pytest.approx(1.0)


def test_scores_are_the_same_for_a_column_and_a_vector() -> None:
    predicted, scores = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.5])
    assert REGRESSION.score(predicted, scores) == REGRESSION.score(predicted[:, None], scores)


def test_a_prediction_of_nan_counts_as_wrong_rather_than_as_class_0() -> None:
    logits = np.array([[np.nan, np.nan], [np.nan, 1.0], [3.0, 0.0]])
    task = classes(2, "accuracy", "f1", "macro_f1", "matthews")
    assert task.score(logits, np.array([0, 0, 0]))["accuracy"] == pytest.approx(1 / 3)
    assert REGRESSION.score(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0]))["pearson"] == 0.0


def test_logits_of_minus_infinity_are_no_fault() -> None:
    logits = np.array([[-np.inf, 0.0], [0.0, -np.inf]])
    assert classes(2).score(logits, np.array([1, 0])) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 2)), np.array([-100, -100]), "no row of 2 has a label"),
        (np.zeros((3, 2)), np.array([0, 1]), "3 predictions for 2 labels"),
        (np.zeros((2, 3)), np.array([0, 1]), r"expected \[rows, 2\]"),
        (np.zeros(2), np.array([0, 1]), r"expected \[rows, 2\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classes(2).score(logits, labels)


def test_two_outputs_are_no_regression() -> None:
    with pytest.raises(DataError, match="2 outputs per row"):
        REGRESSION.score(np.zeros((3, 2)), np.array([1.0, 2.0, 3.0]))
