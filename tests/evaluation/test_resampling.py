"""Scores of resamples are those of the metrics themselves; the spread over seeds is that of the closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distilect.evaluation import difference_of, paired_over_seeds, resampled_scores, row_draws
from distilect.tasks import Task
from tests.evaluation.reference import paired_bootstrap

TASKS = {
    "accuracy": Task("t", "classification", ("a", "b", "c"), ("accuracy",), 1),
    "macro_f1": Task("t", "classification", ("a", "b", "c"), ("macro_f1",), 1),
    "matthews": Task("t", "classification", ("a", "b", "c"), ("matthews",), 1),
    "f1": Task("t", "classification", ("a", "b"), ("f1",), 1),
    "f1 of the first": Task("t", "classification", ("a", "b"), ("f1(a)",), 1),
    "precision": Task("t", "classification", ("a", "b", "c"), ("precision(c)",), 1),
    "recall": Task("t", "classification", ("a", "b", "c"), ("recall(c)",), 1),
    "weighted_f1": Task("t", "classification", ("a", "b", "c"), ("weighted_f1",), 1),
    "auc": Task("t", "classification", ("a", "b", "c"), ("auc(c)",), 1),
    "average_precision": Task("t", "classification", ("a", "b", "c"), ("average_precision(c)",), 1),
    "matthews of two": Task("t", "classification", ("a", "b"), ("matthews",), 1),
    "micro_f1": Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1),
    "macro_f1 of labels": Task("t", "multi-label", ("a", "b", "c"), ("macro_f1",), 1),
    "map": Task("t", "multi-label", ("a", "b", "c"), ("map",), 1),
    "subset_accuracy": Task("t", "multi-label", ("a", "b", "c"), ("subset_accuracy",), 1),
    "pearson": Task("t", "regression", (), ("pearson",), 1),
    "spearman": Task("t", "regression", (), ("spearman",), 1),
    "neg_mse": Task("t", "regression", (), ("neg_mse",), 1),
}


def toy(task: Task, rows: int = 60) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    if task.kind == "regression":
        labels = np.round(rng.uniform(0, 5, rows), 0).astype(np.float32)  # with ties
        return (labels + rng.normal(size=rows).round(1))[:, None].astype(np.float32), labels
    if task.kind == "multi-label":
        sets = (rng.random((rows, 3)) < (0.5, 0.2, 0.02)).astype(np.int8)
        return (rng.normal(size=(rows, 3)).round(1) + sets).astype(np.float32), sets  # with ties
    labels = rng.integers(0, len(task.labels), rows)
    outputs = rng.normal(size=(rows, len(task.labels))).astype(np.float32)
    outputs[np.arange(rows), labels] += 1
    return outputs, labels


@pytest.mark.parametrize("name", TASKS)
def test_the_score_of_a_resample_is_the_metric_of_its_rows(name: str) -> None:
    task = TASKS[name]
    outputs, labels = toy(task)
    draws = row_draws(60, 25, seed=1)
    found = resampled_scores(task, outputs, labels, draws)
    for counts, score in zip(draws, found, strict=True):
        rows = np.repeat(np.arange(60), counts.astype(int))
        assert score == pytest.approx(task.score(outputs[rows], labels[rows])[task.primary], abs=1e-6)
    whole = resampled_scores(task, outputs, labels, np.ones((1, 60), np.float32))
    assert whole[0] == pytest.approx(task.score(outputs, labels)[task.primary], abs=1e-6)


@pytest.mark.parametrize(
    "name", ["matthews", "pearson", "accuracy", "precision", "auc", "average_precision", "map", "micro_f1"]
)
def test_constant_and_broken_predictions_score_as_the_metrics_say(name: str) -> None:
    task = TASKS[name]
    outputs, labels = toy(task)
    draws = row_draws(60, 3, seed=2)
    same = np.broadcast_to(outputs[:1], outputs.shape).copy()
    expected = [
        task.score(same[rows], labels[rows])[task.primary]
        for rows in (np.repeat(np.arange(60), counts.astype(int)) for counts in draws)
    ]
    assert resampled_scores(task, same, labels, draws) == pytest.approx(expected)
    outputs[3] = np.nan
    ones = np.ones((1, 60), np.float32)
    assert resampled_scores(task, outputs, labels, ones)[0] == pytest.approx(
        task.score(outputs, labels)[task.primary], abs=1e-6
    )


WORD_METRICS = (
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "entity_f1(b)",
    "entity_recall(a)",
    "macro_entity_f1",
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "matthews",
)


def toy_words(metric: str) -> tuple[Task, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows of one to eight words, some of which have no label; one output is broken."""
    task = Task("t", "tokens", ("O", "B-a", "I-a", "B-b", "I-b"), (metric,), 1)
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 40))])
    labels = rng.choice(5, size=offsets[-1], p=(0.5, 0.2, 0.1, 0.1, 0.1))
    outputs = rng.normal(size=(len(labels), 5)).astype(np.float32)
    outputs[np.arange(len(labels)), labels] += 2
    outputs[7] = np.nan
    labels[rng.random(len(labels)) < 0.1] = -100
    labels[offsets[3] : offsets[4]] = -100  # a row without any
    return task, outputs, labels, offsets


@pytest.mark.parametrize("metric", WORD_METRICS)
def test_the_score_of_a_resample_of_sentences_is_the_metric_of_their_words(metric: str) -> None:
    task, outputs, labels, offsets = toy_words(metric)
    draws = row_draws(40, 25, seed=1)
    for counts, score in zip(draws, resampled_scores(task, outputs, labels, draws, offsets), strict=True):
        rows = np.repeat(np.arange(40), counts.astype(int))
        words = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
        ends = np.concatenate([[0], np.cumsum(np.diff(offsets)[rows])])
        expected = task.score(outputs[words], labels[words], offsets=ends)[task.primary]
        assert score == pytest.approx(expected, abs=1e-6)
    whole = resampled_scores(task, outputs, labels, np.ones((1, 40), np.float32), offsets)
    assert whole[0] == pytest.approx(task.score(outputs, labels, offsets=offsets)[task.primary], abs=1e-6)


def test_sentences_vary_more_than_words_that_are_taken_for_independent() -> None:
    """Whole sentences are right or wrong: resampling words would make the interval far too narrow."""
    task = Task("t", "tokens", ("O", "B-a", "I-a"), ("accuracy",), 1)
    labels, offsets = np.zeros(1000, int), np.arange(0, 1001, 20)
    outputs = np.eye(3, dtype=np.float32)[np.repeat(np.arange(50) % 2, 20)]
    by_sentence = resampled_scores(task, outputs, labels, row_draws(50, 2000, 0), offsets).std()
    assert by_sentence == pytest.approx(0.5 / math.sqrt(50), rel=0.1)


def test_draws_of_rows_are_those_of_a_bootstrap() -> None:
    draws = row_draws(40, 4000, seed=0)
    assert (draws.sum(axis=1) == 40).all()
    assert draws.mean() == 1.0 and draws.var() == pytest.approx(1 - 1 / 40, abs=0.02)


def test_one_seed_leaves_the_rows_alone() -> None:
    task = TASKS["accuracy"]
    outputs, labels = toy(task, 300)
    other = np.random.default_rng(5).normal(size=outputs.shape).astype(np.float32)
    draws = row_draws(300, 4000, seed=3)
    resampled = resampled_scores(task, outputs, labels, draws) - resampled_scores(task, other, labels, draws)
    ones = np.ones((1, 300), np.float32)
    observed = resampled_scores(task, outputs, labels, ones) - resampled_scores(task, other, labels, ones)
    found = difference_of(paired_over_seeds(observed, resampled[:, None]))
    plain = paired_bootstrap(lambda o, y: task.score(o, y)["accuracy"], outputs, other, labels, resamples=600, seed=4)
    assert found.difference == pytest.approx(plain.difference)
    assert found.low == pytest.approx(plain.low, abs=0.03)
    assert found.high == pytest.approx(plain.high, abs=0.03)


def test_rows_and_seeds_add_up_as_scipy_and_the_closed_form_say() -> None:
    """n right or wrong answers, and seeds that shift the whole: the variances of both parts add."""
    rng = np.random.default_rng(1)
    task, rows, seeds = Task("t", "classification", ("a", "b"), ("accuracy",), 1), 400, 8
    labels = np.zeros(rows, dtype=int)

    def outputs(share: float) -> np.ndarray[Any, Any]:
        right = np.arange(rows) < round(share * rows)
        return np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)

    shares = 0.8 + rng.normal(scale=0.03, size=seeds)
    draws, ones = row_draws(rows, 4000, seed=0), np.ones((1, rows), np.float32)
    base = outputs(0.7)
    resampled = np.stack(
        [
            resampled_scores(task, outputs(s), labels, draws) - resampled_scores(task, base, labels, draws)
            for s in shares
        ],
        axis=1,
    )
    observed = np.array(
        [
            (resampled_scores(task, outputs(s), labels, ones) - resampled_scores(task, base, labels, ones))[0]
            for s in shares
        ]
    )
    found = difference_of(paired_over_seeds(observed, resampled))
    mean = observed.mean()
    of_rows = mean * (1 - mean) / rows  # the rows between the two shares are won, none is lost
    of_seeds = stats.sem(observed) ** 2
    half = math.sqrt(1.96**2 * of_rows + stats.t.isf(0.025, seeds - 1) ** 2 * of_seeds)
    assert found.difference == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.p_value < 0.001
