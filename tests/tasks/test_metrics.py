"""Metrics equal their closed forms, and are numbers where the formula divides 0 by 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distilect.tasks import accuracy, f1, macro_f1, matthews, neg_mse, pearson, spearman

# 5 true positives, 2 false positives, 1 false negative, 4 true negatives
LABELS = np.array([1] * 5 + [0] * 2 + [1] + [0] * 4)
PREDICTED = np.array([1] * 5 + [1] * 2 + [0] + [0] * 4)


def test_binary_metrics_equal_their_closed_forms() -> None:
    assert accuracy(PREDICTED, LABELS) == 9 / 12
    assert f1(PREDICTED, LABELS) == pytest.approx(2 * 5 / (2 * 5 + 2 + 1))
    assert matthews(PREDICTED, LABELS) == pytest.approx((5 * 4 - 2 * 1) / math.sqrt(7 * 6 * 6 * 5))
    assert macro_f1(PREDICTED, LABELS) == pytest.approx((10 / 13 + 8 / 11) / 2)


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    labels = np.array([0, 0, 7, 7])
    assert macro_f1(labels, labels) == 1.0
    assert macro_f1(np.array([0, 0, 7, 3]), labels) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_macro_f1_does_not_count_broken_predictions_as_a_class() -> None:
    assert macro_f1(np.array([0, 1, -1]), np.array([0, 1, 1])) == pytest.approx((1 + 2 / 3) / 2)


def test_matthews_of_many_classes_is_1_for_a_perfect_model() -> None:
    labels = np.arange(150) % 30
    assert matthews(labels, labels) == pytest.approx(1.0)


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_score_0_and_not_nan(constant: int) -> None:
    assert matthews(np.full(12, constant), LABELS) == 0.0
    assert pearson(np.full(3, 2.5), np.array([1.0, 2.0, 3.0])) == 0.0
    assert spearman(np.full(3, 2.5), np.array([1.0, 2.0, 3.0])) == 0.0
    assert pearson(np.array([1.0, 2.0, 3.0]), np.full(3, 2.5)) == 0.0


def test_f1_without_any_positive_is_0() -> None:
    assert f1(np.zeros(3, int), np.zeros(3, int)) == 0.0


def test_a_single_row_has_no_correlation() -> None:
    assert pearson(np.array([1.0]), np.array([2.0])) == 0.0


def test_correlations_equal_their_closed_forms() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 4.0, 9.0, 16.0])
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(1.0)
    assert neg_mse(x, y) == pytest.approx(-np.mean((x - y) ** 2))


@given(
    hnp.arrays(np.float64, 8, elements=st.floats(-1e6, 1e6)), hnp.arrays(np.float64, 8, elements=st.floats(-1e6, 1e6))
)
def test_correlations_are_always_finite(x: np.ndarray, y: np.ndarray) -> None:
    for metric in (pearson, spearman):
        assert -1.000001 <= metric(x, y) <= 1.000001
