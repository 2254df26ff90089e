"""A task knows its outputs and metrics, and refuses what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from distilect.errors import ConfigError, DataError
from distilect.tasks import Task, default_metrics, kind_of_metrics, named_metrics


def classes(n: int, *metrics: str) -> Task:
    return Task("t", "classification", tuple(map(str, range(n))), metrics or ("accuracy",), 1)


REGRESSION = Task("r", "regression", (), ("pearson", "spearman"), 2)


def test_the_number_of_outputs_is_that_of_the_classes_or_one() -> None:
    assert classes(5).num_outputs == 5
    assert REGRESSION.num_outputs == 1


def test_the_first_metric_is_the_primary_one() -> None:
    assert classes(2, "macro_f1", "accuracy").primary == "macro_f1"


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
        ("classification", ("a", "b", "c"), ("f1",), r"one class, this task has 3: write f1\(a\), or use 'macro_f1'"),
        ("classification", ("a", "b"), ("f1(c)",), "no label is called 'c'"),
        ("classification", ("a", "b"), ("accuracy(a)",), "accuracy is not of one class; write accuracy"),
        ("multi-label", ("a", "b"), ("accuracy",), "does not fit multi-label: use micro_f1"),
        ("multi-label", ("a",), ("micro_f1",), "a classification of two classes"),
        ("classification", ("a", "b"), (), "at least one metric"),
        ("classification", ("a",), ("accuracy",), "two labels or more"),
        ("classification", ("a", "a"), ("accuracy",), "must differ"),
        ("regression", ("a", "b"), ("pearson",), "no label names"),
        ("regression", (), ("accuracy",), "does not fit regression"),
        ("ranking", (), ("accuracy",), "expected classification, regression, multi-label, tokens or causal-lm"),
        ("tokens", ("O", "B-a"), ("entity_f2",), "Did you mean 'entity_f1'"),
        ("tokens", ("O", "B-a"), ("f1",), "does not fit tokens: use entity_f1"),
        ("tokens", ("O", "B-a"), ("entity_f1(b)",), "no type of entities is called 'b'. Types: a"),
        ("tokens", ("O", "B-a"), ("macro_entity_f1(a)",), "not of one type; write macro_entity_f1"),
        ("tokens", ("NOUN", "VERB"), ("entity_f1",), "but 'NOUN' is none: use accuracy"),
        ("tokens", ("O", "E-a", "L-a"), ("entity_f1",), "O, E-a, L-a are of different schemes"),
        ("tokens", ("O",), ("accuracy",), "two labels or more"),
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
    assert default_metrics("classification", 2, unbalanced=True) == ("accuracy", "f1", "macro_f1")
    assert default_metrics("classification", 200, unbalanced=True) == ("accuracy", "macro_f1")
    assert default_metrics("multi-label", 3)[0] == "micro_f1"
    assert default_metrics("regression", 0) == ("pearson", "spearman")
    assert default_metrics("tokens", 3, entities=True)[0] == "entity_f1"
    assert default_metrics("tokens", 3) == ("accuracy", "macro_f1")


def test_metrics_tell_the_kind_of_task() -> None:
    assert kind_of_metrics(("pearson",)) == "regression"
    assert kind_of_metrics(("macro_f1",)) == "classification"
    assert kind_of_metrics(("f1(spam)",)) == "classification"
    assert kind_of_metrics(("map",)) == "multi-label"
    assert kind_of_metrics(("entity_f1(person)",)) == "tokens"
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


# ---- metrics of one class ------------------------------------------------------------------------------------------

FRAUD = ("fraud", "ok")
ALWAYS_OK = np.array([[0.0, 1.0]] * 20)
FIVE_PERCENT = np.array([0] + [1] * 19)


def test_f1_names_the_class_that_it_is_of() -> None:
    scores = Task("t", "classification", FRAUD, ("f1", "f1(fraud)", "macro_f1"), 1).score(ALWAYS_OK, FIVE_PERCENT)
    assert list(scores) == ["f1(ok)", "f1(fraud)", "macro_f1"]
    assert scores["f1(ok)"] == pytest.approx(2 * 19 / 39) and scores["f1(fraud)"] == 0.0
    assert scores["macro_f1"] == pytest.approx(19 / 39)


def test_a_class_of_many_has_an_f1_of_its_own() -> None:
    logits = np.eye(3)[[0, 1, 2, 1]]
    scores = Task("t", "classification", ("a", "b", "c"), ("f1(b)", "precision(b)", "recall(b)"), 1).score(
        logits, np.array([0, 1, 2, 2])
    )
    assert scores == pytest.approx({"f1(b)": 2 / 3, "precision(b)": 0.5, "recall(b)": 1.0})


def test_label_names_may_hold_brackets_and_spaces() -> None:
    task = Task("t", "classification", ("not (very) good", "good"), ("f1(not (very) good)",), 1)
    assert task.score(np.array([[1.0, 0.0]]), np.array([0])) == {"f1(not (very) good)": 1.0}


def test_ranking_metrics_read_the_probability_of_their_class() -> None:
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.4, 0.35, 0.25], [0.1, 0.5, 0.4], [0.6, 0.2, 0.2]]))
    labels = np.array([2, 0, 0, 0])
    task = Task("t", "classification", ("a", "b", "c"), ("auc(c)", "average_precision(c)", "auc(a)"), 1)
    found = task.score(logits, labels)
    assert found == pytest.approx({"auc(c)": 1.0, "average_precision(c)": 1.0, "auc(a)": 2 / 3})
    logits[1] = np.nan  # as wrong as can be
    assert task.score(logits, labels)["auc(a)"] == pytest.approx(1 / 3)
    assert task.score(logits, labels)["auc(c)"] == pytest.approx(2 / 3)


def test_ranking_metrics_are_numbers_where_all_rows_are_of_one_class() -> None:
    task = Task("t", "classification", FRAUD, ("auc(fraud)", "average_precision(fraud)", "weighted_f1"), 1)
    found = task.score(ALWAYS_OK, np.ones(20, int))
    assert found == {"auc(fraud)": 0.5, "average_precision(fraud)": 0.0, "weighted_f1": 1.0}
    found = task.score(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), np.array([1, 0]))
    assert found == {"auc(fraud)": 1.0, "average_precision(fraud)": 1.0, "weighted_f1": 1.0}


def test_the_positive_class_can_be_chosen() -> None:
    found = named_metrics(("accuracy", "f1", "recall", "f1(ok)"), "classification", FRAUD, "fraud")
    assert found == ("accuracy", "f1(fraud)", "recall(fraud)", "f1(ok)")


@pytest.mark.parametrize(
    ("metrics", "kind", "labels", "message"),
    [
        (("f1",), "classification", ("frauds", "ok"), "expected one of the labels frauds, ok. Did you mean 'frauds'"),
        (("accuracy",), "classification", FRAUD, "task.metrics has none of one class"),
        (("pearson",), "regression", (), "task.kind is regression"),
    ],
)
def test_a_positive_class_that_would_change_nothing_is_refused(
    metrics: tuple, kind: str, labels: tuple, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        named_metrics(metrics, kind, labels, "fraud")  # type: ignore[arg-type]


def test_a_task_of_an_older_result_is_read_with_the_class_named() -> None:
    old = {
        "name": "MRPC",
        "kind": "classification",
        "labels": ["0", "1"],
        "metrics": ["accuracy", "f1"],
        "num_texts": 2,
    }
    assert Task.from_dict(old).metrics == ("accuracy", "f1(1)")


# ---- multi-label ---------------------------------------------------------------------------------------------------

TOPICS = Task("topics", "multi-label", ("a", "b", "c"), ("micro_f1", "macro_f1", "map", "subset_accuracy"), 1)
LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [-100, -100, -100]], np.int8)


def test_multi_label_metrics_equal_their_closed_forms() -> None:
    logits = np.array([[2.0, -1.0, -1.0], [-1.0, 1.0, -2.0], [0.5, -3.0, -4.0], [9.0, 9.0, 9.0]])
    found = TOPICS.score(logits, LABELS)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))  # predicted a, b, a; labelled a, a, b
    assert found["macro_f1"] == pytest.approx((1 / 2 + 1) / 2)  # c has none
    assert found["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)  # of a, the second of its rows is third
    assert found["subset_accuracy"] == pytest.approx(1 / 3)


def test_thresholds_move_what_is_predicted_and_not_the_ranking() -> None:
    logits = np.array([[2.0, -1.0, -1.0], [-1.0, 1.0, -2.0], [-2.0, -3.0, -4.0], [9.0, 9.0, 9.0]])
    low = TOPICS.score(logits, LABELS, (0.2, 0.5, 0.5))
    assert low["micro_f1"] == low["subset_accuracy"] == 1.0
    assert low["map"] == TOPICS.score(logits, LABELS)["map"]


def test_a_row_of_nan_is_wrong_in_every_label() -> None:
    logits = np.where(LABELS == 1, 5.0, -5.0)
    assert TOPICS.score(logits, LABELS)["subset_accuracy"] == 1.0
    logits[2] = np.nan
    found = TOPICS.score(logits, LABELS)
    assert found["subset_accuracy"] == pytest.approx(2 / 3) and found["micro_f1"] == pytest.approx(6 / 9)


def test_a_model_that_predicts_nothing_where_nothing_is_there_is_no_division_by_0() -> None:
    found = TOPICS.score(np.full((2, 3), -1.0), np.zeros((2, 3), np.int8))
    assert found == {"micro_f1": 0.0, "macro_f1": 0.0, "map": 0.0, "subset_accuracy": 1.0}


def test_each_label_gets_the_threshold_with_its_best_f1_and_rare_ones_the_common_one() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 3)) < (0.3, 0.1, 0.01)).astype(np.int8)
    labels[:, 2] = 0
    labels[:3, 2] = 1
    logits = rng.normal(size=(400, 3)) + 2 * labels - (2, 4, 0)
    chosen = TOPICS.thresholds(logits, labels)
    assert chosen is not None

    def f1(label: int, threshold: float) -> float:
        predicted = 1 / (1 + np.exp(-logits[:, label])) > threshold
        return 2 * (predicted & (labels[:, label] == 1)).sum() / (predicted.sum() + labels[:, label].sum())

    for label in (0, 1):
        assert f1(label, chosen[label]) == pytest.approx(
            max(f1(label, t) for t in np.linspace(0.001, 0.999, 999)), abs=0.01
        )
        assert f1(label, chosen[label]) > f1(label, 0.5) + 0.1
    best = max(
        np.linspace(0.001, 0.999, 999),
        key=lambda t: Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1).score(logits, labels, (t,) * 3)[
            "micro_f1"
        ],
    )
    assert chosen[2] == pytest.approx(best, abs=0.02)
    assert TOPICS.score(logits, labels, chosen)["micro_f1"] > TOPICS.score(logits, labels)["micro_f1"]


def test_thresholds_are_chosen_where_there_is_something_to_choose_by() -> None:
    assert classes(2).thresholds(np.zeros((3, 2)), np.array([0, 1, 0])) is None
    assert TOPICS.thresholds(np.zeros((0, 3)), np.zeros((0, 3), np.int8)) is None
    assert TOPICS.thresholds(np.zeros((4, 3)), np.full((4, 3), -100, np.int8)) is None
    assert TOPICS.thresholds(np.zeros((4, 3)), np.zeros((4, 3), np.int8)) == (0.5, 0.5, 0.5)


def test_the_loss_is_torchs_own_on_the_labelled_rows() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [0.0, 3.0, 0.5], [1.0, 1.0, 1.0]])
    rows = torch.tensor(logits[:2])
    classes = Task("t", "classification", ("a", "b", "c"), ("accuracy",), 1)
    expected = torch.nn.functional.cross_entropy(rows, torch.tensor([0, 2]))
    assert classes.loss(logits, np.array([0, 2, -100])) == pytest.approx(expected.item())
    several = Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1)
    labels = np.array([[1, 0, 1], [0, 0, 0], [-100] * 3], np.int8)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(rows, torch.tensor(labels[:2], dtype=torch.float64))
    assert several.loss(logits, labels) == pytest.approx(expected.item())
    scores = Task("t", "regression", (), ("pearson",), 1)
    assert scores.loss(np.array([[1.0], [2.0], [9.0]]), np.array([0.0, 4.0, np.nan])) == pytest.approx(2.5)


def test_a_unit_of_a_classification_or_of_tokens_has_one_class_out_of_several() -> None:
    assert classes(2).classes
    assert Task("t", "tokens", ("NOUN", "VERB"), ("accuracy",), 1).classes
    assert not REGRESSION.classes
    assert not Task("t", "multi-label", ("a", "b"), ("map",), 1).classes


def test_rows_of_words_have_one_text() -> None:
    with pytest.raises(ConfigError, match="one list of words per row, got 2"):
        Task("t", "tokens", ("NOUN", "VERB"), ("accuracy",), 2)
