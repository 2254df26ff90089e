from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distilect.evaluation import (
    Difference,
    Estimate,
    difference_of,
    holm,
    mean_estimate,
    paired_over_seeds,
    resampled_scores,
    row_draws,
)
from distilect.tasks import Task
from tests.presets import slow

TASK = Task("t", "classification", ("a", "b", "c"), ("accuracy",), 1)
Array = np.ndarray[Any, Any]


def estimate(first: Array, second: Array, labels: Array, *, resamples: int, seed: int = 0) -> Estimate:
    """Two methods by their students' predicted classes, [S, N], as a comparison tests them."""
    draws = np.concatenate([np.ones((1, len(labels)), np.float32), row_draws(len(labels), resamples, seed)])
    one, other = (
        np.stack([resampled_scores(TASK, np.eye(3, dtype=np.float32)[one], labels, draws) for one in classes], axis=1)
        for classes in (first, second)
    )
    observed, resampled = (one - other)[0], (one - other)[1:]
    return paired_over_seeds(observed, resampled)


def compared(first: Array, second: Array, labels: Array, *, resamples: int, seed: int = 0) -> Difference:
    """The same for one seed, [N]."""
    return difference_of(estimate(first[None], second[None], labels, resamples=resamples, seed=seed))


LABELS = np.zeros(1000, dtype=int)


def test_the_interval_is_that_of_the_closed_form() -> None:
    """10 % won and 4 % lost of n paired rows: standard error sqrt((w + l - (w - l)^2) / n)."""
    first, second = LABELS.copy(), LABELS.copy()
    second[:100] = 1
    first[100:140] = 1
    found = compared(first, second, LABELS, resamples=4000)
    error = math.sqrt((0.10 + 0.04 - 0.06**2) / 1000)
    assert found.difference == pytest.approx(0.06)
    assert found.low == pytest.approx(0.06 - 1.96 * error, abs=0.001)
    assert found.high == pytest.approx(0.06 + 1.96 * error, abs=0.001)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.06 / error), rel=0.5)


def test_rows_that_all_seeds_share_and_seeds_are_told_apart() -> None:
    """Rows that one method wins on every seed, and a share of rows by which each seed differs."""
    seeds, rows = 4, 4000
    labels = np.zeros(rows, dtype=int)
    second = np.zeros((seeds, rows), dtype=int)
    second[:, :400] = 1  # lost on every seed: the same rows
    first = np.zeros((seeds, rows), dtype=int)
    wrong = [100, 180, 260, 300]
    for seed, count in enumerate(wrong):
        start = 1000 + 500 * seed
        first[seed, start : start + count] = 1  # other rows for each seed
    found = estimate(first, second, labels, resamples=2000)
    differences = 0.1 - np.array(wrong) / rows
    assert found.difference == pytest.approx(differences.mean())
    assert found.seeds == pytest.approx(differences.var(ddof=1) / seeds) and found.freedom == seeds - 1
    own = sum(w / rows * (1 - w / rows) for w in wrong) / seeds**2  # of rows that one seed alone loses
    assert found.rows == pytest.approx((0.1 * 0.9 + own) / rows, rel=0.15)


def test_seeds_that_agree_by_chance_are_not_taken_for_certain() -> None:
    """One row each, of 872, won on three seeds: s² is 0, and the rows are others for each seed."""
    labels, first, second = np.zeros(872, dtype=int), np.zeros((3, 872), dtype=int), np.zeros((3, 872), dtype=int)
    second[[0, 1, 2], [5, 100, 700]] = 1
    found = estimate(first, second, labels, resamples=1000)
    assert found.seeds == pytest.approx(0.0, abs=1e-12) and difference_of(found).p_value > 0.05


def test_with_seeds_alone_it_is_the_paired_t_test_and_with_rows_alone_the_normal_one() -> None:
    values = np.array([0.012, 0.020, 0.004])
    found = difference_of(paired_over_seeds(values, np.tile(values, (50, 1))))
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    half = stats.t.isf(0.025, 2) * stats.sem(values)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))
    alone = difference_of(Estimate(0.02, rows=1e-4, seeds=0.0, freedom=2.0))
    assert alone.p_value == pytest.approx(2 * stats.norm.sf(2.0))


@pytest.mark.slow
def test_the_interval_holds_0_exactly_where_p_is_at_least_5_percent() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        one = Estimate(random.normal(), random.exponential(), random.exponential(), float(random.integers(1, 5)))
        found = difference_of(one)
        assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05)


def test_no_number_of_resamples_is_the_floor_of_p() -> None:
    """With p ≥ 2 / 2001, a comparison of 51 methods could find nothing that Holm keeps."""
    first, second = LABELS.copy(), LABELS.copy()
    second[:100] = 1
    found = compared(first, second, LABELS, resamples=200)
    assert found.p_value < 1e-20 and holm([found.p_value] * 51)[0] < 0.05


@pytest.mark.parametrize(
    ("seeds", "tasks", "of_seed", "shared"),
    [
        (3, 1, 0.1, 0.0),
        *slow((3, 4, 0.1, 0.0), (2, 1, 0.1, 0.0), (5, 1, 0.1, 0.0), (3, 1, 0.03, 0.2), (3, 1, 0.0, 0.4)),
    ],
)
def test_methods_that_do_not_differ_are_told_apart_at_most_as_often_as_promised(
    seeds: int, tasks: int, of_seed: float, shared: float
) -> None:
    """Seeds are good or bad (`of_seed`), rows easy or hard for a method on all seeds (`shared`). Where seeds differ more than rows, the
    bootstrap over seeds rejected 41 % with 2 of them, 17 % with 3, 14 % with 5."""
    random, rows, trials = np.random.default_rng(seeds), 200, 300
    draws = row_draws(rows, 60, seed=0) / rows
    rejected = 0
    for _ in range(trials):
        of_tasks = []
        for _ in range(tasks):
            level = 0.7 + of_seed * random.normal(size=(2, seeds, 1)) + shared * random.normal(size=(2, 1, rows))
            right = (random.random((2, seeds, rows)) < level).astype(float)
            won = right[0] - right[1]  # [S, N]
            of_tasks.append(paired_over_seeds(won.mean(1), draws @ won.T))
        found = difference_of(mean_estimate(of_tasks))
        rejected += found.low > 0 or found.high < 0
    assert rejected / trials < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / trials)


def test_tasks_are_averaged_with_the_degrees_of_freedom_of_all() -> None:
    equal = mean_estimate([Estimate(0.01 * k, 1e-4, 4e-4, 2.0) for k in range(4)])
    assert equal.difference == pytest.approx(0.015)
    assert (equal.rows, equal.seeds, equal.freedom) == pytest.approx((1e-4 / 4, 4e-4 / 4, 8.0))
    one = mean_estimate([Estimate(0.0, 1e-4, 4e-4, 2.0), Estimate(0.0, 1e-4, 1e-12, 2.0)])
    assert one.freedom == pytest.approx(2.0)
    assert mean_estimate([Estimate(0.1, 1e-4, 0.0, 0.0)]) == Estimate(0.1, 1e-4, 0.0, 0.0)


def test_a_model_against_itself_is_no_different() -> None:
    outputs = np.arange(1000) % 2
    found = compared(outputs, outputs, LABELS, resamples=200)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_models_swaps_the_sign_and_keeps_the_p_value() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 2, 1000), random.integers(0, 2, 1000)
    one, other = (compared(a, b, LABELS, resamples=300) for a, b in ((first, second), (second, first)))
    assert (one.difference, one.low) == pytest.approx((-other.difference, -other.high))
    assert one.p_value == pytest.approx(other.p_value)


def test_the_seed_decides_everything() -> None:
    outputs = np.arange(1000) % 3
    runs = [compared(outputs, LABELS, LABELS, resamples=50, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_resamples_without_a_score_are_left_out() -> None:
    draws = np.array([[0.4], [math.nan], [0.6]])
    assert paired_over_seeds(np.array([0.5]), draws).rows == pytest.approx(0.02)
    assert math.isnan(difference_of(paired_over_seeds(np.array([0.5]), np.full((5, 1), math.nan))).p_value)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    random = np.random.default_rng(0)
    alarms = [min(holm(list(random.random(10)))) <= 0.05 for _ in range(2000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)
