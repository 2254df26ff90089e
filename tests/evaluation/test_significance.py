from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distilect.evaluation import Difference, difference_of, holm, paired_over_seeds, resampled_scores, row_draws
from distilect.tasks import Task

TASK = Task("t", "classification", ("a", "b", "c"), ("accuracy",), 1)
Array = np.ndarray[Any, Any]


def compared(first: Array, second: Array, labels: Array, *, resamples: int, seed: int = 0) -> Difference:
    """Two students of one seed, by their predicted classes, as a comparison tests them."""
    draws = np.concatenate([np.ones((1, len(labels)), np.float32), row_draws(len(labels), resamples, seed)])
    one, other = (
        resampled_scores(TASK, np.eye(3, dtype=np.float32)[classes], labels, draws) for classes in (first, second)
    )
    observed, *resampled = one - other
    return difference_of(*paired_over_seeds(np.array([observed]), np.array(resampled)[:, None]))


LABELS = np.zeros(1000, dtype=int)


def test_the_interval_is_that_of_the_closed_form() -> None:
    """10 % won and 4 % lost of n paired rows: standard error sqrt((w + l - (w - l)^2) / n)."""
    first, second = LABELS.copy(), LABELS.copy()
    second[:100] = 1
    first[100:140] = 1
    found = compared(first, second, LABELS, resamples=4000)
    error = math.sqrt((0.10 + 0.04 - 0.06**2) / 1000)
    assert found.difference == pytest.approx(0.06)
    assert found.low == pytest.approx(0.06 - 1.96 * error, abs=0.003)
    assert found.high == pytest.approx(0.06 + 1.96 * error, abs=0.003)
    assert found.p_value < 0.002


def test_a_model_against_itself_is_no_different() -> None:
    outputs = np.arange(1000) % 2
    found = compared(outputs, outputs, LABELS, resamples=200)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_equal_models_are_told_apart_about_as_rarely_as_promised() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros(200, dtype=int)
    found = [
        compared(*(random.random((2, 200)) > 0.8).astype(int), labels, resamples=200, seed=seed).p_value
        for seed in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) < 0.10


def test_swapping_the_models_swaps_the_sign_and_keeps_the_p_value() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 2, 1000), random.integers(0, 2, 1000)
    one, other = (compared(a, b, LABELS, resamples=300) for a, b in ((first, second), (second, first)))
    assert (one.difference, one.low, one.p_value) == (-other.difference, pytest.approx(-other.high), other.p_value)


def test_the_seed_decides_everything() -> None:
    outputs = np.arange(1000) % 3
    runs = [compared(outputs, LABELS, LABELS, resamples=50, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_resamples_without_a_score_are_left_out() -> None:
    assert difference_of(0.5, np.array([0.5, np.nan, 0.5])).low == 0.5
    assert math.isnan(difference_of(0.5, np.full(5, np.nan)).p_value)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    random = np.random.default_rng(0)
    alarms = [min(holm(list(random.random(10)))) <= 0.05 for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)
