from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distilect.evaluation import holm, paired_bootstrap


def accuracy(outputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    return float((outputs == labels).mean())


LABELS = np.zeros(1000, dtype=int)


def test_the_interval_is_that_of_the_closed_form() -> None:
    """10 % won and 4 % lost of n paired rows: standard error sqrt((w + l - (w - l)^2) / n)."""
    first, second = LABELS.copy(), LABELS.copy()
    second[:100] = 1
    first[100:140] = 1
    found = paired_bootstrap(accuracy, first, second, LABELS, resamples=4000)
    error = math.sqrt((0.10 + 0.04 - 0.06**2) / 1000)
    assert found.difference == pytest.approx(0.06)
    assert found.low == pytest.approx(0.06 - 1.96 * error, abs=0.003)
    assert found.high == pytest.approx(0.06 + 1.96 * error, abs=0.003)
    assert found.p_value < 0.002


def test_a_model_against_itself_is_no_different() -> None:
    outputs = np.arange(1000) % 2
    found = paired_bootstrap(accuracy, outputs, outputs, LABELS, resamples=200)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_equal_models_are_told_apart_about_as_rarely_as_promised() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros(200, dtype=int)
    found = [
        paired_bootstrap(
            accuracy, random.random(200) > 0.8, random.random(200) > 0.8, labels, resamples=200, seed=seed
        ).p_value
        for seed in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) < 0.10


def test_swapping_the_models_swaps_the_sign_and_keeps_the_p_value() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 2, 1000), random.integers(0, 2, 1000)
    one, other = (
        paired_bootstrap(accuracy, a, b, LABELS, resamples=300) for a, b in ((first, second), (second, first))
    )
    assert (one.difference, one.low, one.p_value) == (-other.difference, pytest.approx(-other.high), other.p_value)


def test_the_seed_decides_everything() -> None:
    outputs = np.arange(1000) % 3
    runs = [paired_bootstrap(accuracy, outputs, LABELS, LABELS, resamples=50, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_resamples_without_a_score_are_left_out() -> None:
    found = paired_bootstrap(lambda *_: float("nan"), LABELS, LABELS, LABELS, resamples=5)
    assert math.isnan(found.p_value)


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same rows three times, got 999, 1000 and 1000"):
        paired_bootstrap(accuracy, LABELS[1:], LABELS, LABELS)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    random = np.random.default_rng(0)
    alarms = [min(holm(list(random.random(10)))) <= 0.05 for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)
