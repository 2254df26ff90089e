from __future__ import annotations

import math

import numpy as np
import pytest

from distilect.evaluation import brier_score, expected_calibration_error, negative_log_likelihood, softmax


def two_classes(confidence: float, rows: int) -> np.ndarray:
    return np.tile([confidence, 1 - confidence], (rows, 1))


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(two_classes(0.8, 10), labels) == pytest.approx(0.0, abs=1e-12)


def test_the_error_is_the_gap_weighted_by_rows() -> None:
    probabilities = np.concatenate([two_classes(0.95, 30), two_classes(0.6, 10)])
    labels = np.array([0] * 15 + [1] * 15 + [0] * 10)
    assert expected_calibration_error(probabilities, labels) == pytest.approx((30 * 0.45 + 10 * 0.4) / 40)


def test_drawn_labels_leave_only_sampling_noise() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(4), 20_000)
    labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    assert expected_calibration_error(probabilities, labels) < 0.015


def test_the_edge_of_a_bin_belongs_to_the_bin_below_and_certainty_is_inside() -> None:
    assert expected_calibration_error(two_classes(1.0, 3), [0, 0, 0]) == 0.0
    assert expected_calibration_error(two_classes(0.5, 2), [0, 1], bins=2) == 0.0


def test_closed_forms_of_brier_score_and_likelihood() -> None:
    assert brier_score([[1.0, 0.0]], [0]) == 0.0
    assert brier_score([[1.0, 0.0]], [1]) == 2.0
    assert brier_score([[0.5, 0.5]], [1]) == 0.5
    assert negative_log_likelihood([[0.25, 0.75]], [0]) == pytest.approx(math.log(4))
    assert math.isfinite(negative_log_likelihood([[1.0, 0.0]], [1]))


def test_rows_without_a_label_are_left_out() -> None:
    probabilities = np.concatenate([two_classes(0.9, 1), two_classes(0.1, 1)])
    for measure in (expected_calibration_error, brier_score, negative_log_likelihood):
        assert measure(probabilities, [0, -100]) == measure(probabilities[:1], [0])
        assert math.isnan(measure(probabilities, [-100, -100]))


def test_softmax_of_huge_logits_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax([[1e4, 1e4], [0.0, math.log(3)]]), [[0.5, 0.5], [0.25, 0.75]])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected probabilities \[N, C\] and labels \[N\]"):
        brier_score([[0.5, 0.5]], [0, 1])
