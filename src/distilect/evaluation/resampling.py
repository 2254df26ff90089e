"""Scores of many resamples of the same rows at once: every metric of a task is a function of sums over rows.

A resample is a vector of counts, how often each row was drawn. The sums that a metric needs (cells of the confusion matrix,
moments) are then one matrix product for all resamples, instead of a call of the metric for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distilect.tasks import Task, class_margin, parse_metric, wrong_where_nan

Floats = NDArray[np.float64]


def row_draws(rows: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """float32 [B, N]: how often each of N rows is in each of B bootstrap samples of N rows."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1.0 / rows), resamples).astype(np.float32)


def resampled_scores(
    task: Task,
    outputs: NDArray[np.float32],
    labels: NDArray[np.generic],
    draws: NDArray[np.float32],
    offsets: NDArray[np.int64] | None = None,
) -> Floats:
    """The task's primary metric on each resample, float64 [B]; on the rows as they are where `draws` is [[1, …, 1]].

    Args:
        outputs: [N, C], the student's on rows that all have labels; of a multi-label task above 0 where a label is predicted. Of words
            and tokens [U, C].
        labels: [N], class indexes or scores; or [N, C] of 0 and 1. Of words [U], -100 for those without a label.
        draws: [B, N], as `row_draws` gives them.
        offsets: of words, int64 [N + 1], where those of each row begin: rows are resampled, as the words of one are not independent.
    """
    if task.kind == "regression":
        return _REGRESSION[task.primary](outputs[:, 0].astype(np.float64), labels.astype(np.float64), draws)
    if task.kind == "multi-label":
        positive = labels == 1
        return _MULTI_LABEL[task.primary](wrong_where_nan(outputs.astype(np.float64), positive), positive, draws)
    metric, of = parse_metric(task.primary)
    if metric in _ENTITIES or metric == "macro_entity_f1":
        return _entity_scores(task, metric, of, outputs, labels, draws, offsets)
    if task.kind == "causal-lm":  # class 0 is the token that stands there, class 1 any other
        return _accuracy(_confusions(outputs[:, :2], labels.astype(np.int64), 2, draws, offsets))
    number = task.labels.index(of) if of is not None else -1
    if metric in _RANKING:
        positive = labels == number
        scores = class_margin(outputs.astype(np.float64), number)[:, None]
        return _RANKING[metric](wrong_where_nan(scores, positive[:, None])[:, 0], positive, draws)
    cells = _confusions(outputs, labels.astype(np.int64), len(task.labels), draws, offsets)
    return _CLASSIFICATION[metric](cells) if of is None else _OF_A_CLASS[metric](cells, number)


def _confusions(
    outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    draws: NDArray[np.float32],
    offsets: NDArray[np.int64] | None,
) -> Floats:
    """[B, gold, predicted]; the last predicted class is "no class", that of a NaN: always wrong."""
    broken = np.isnan(outputs).any(axis=1)
    predicted = np.where(broken, classes, np.nan_to_num(outputs).argmax(axis=1))
    found, cell = np.unique(labels * (classes + 1) + predicted, return_inverse=True)
    rows = np.arange(len(labels)) if offsets is None else np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.zeros((draws.shape[1], len(found)), dtype=np.float32)
    known = labels >= 0
    np.add.at(counts, (rows[known], cell[known]), 1)  # how often each cell that occurs is in each row
    confusion = np.zeros((len(draws), classes * (classes + 1)))
    occurs = found >= 0
    confusion[:, found[occurs]] = draws @ counts[:, occurs]
    return confusion.reshape(len(draws), classes, classes + 1)


def _entity_scores(
    task: Task,
    metric: str,
    of: str | None,
    outputs: NDArray[np.float32],
    labels: NDArray[np.generic],
    draws: NDArray[np.float32],
    offsets: NDArray[np.int64] | None,
) -> Floats:
    """Metrics of entities are made of each row's counts: predicted rightly, predicted, labelled."""
    weights = draws.astype(np.float64)
    if metric in _ENTITIES:
        return _ENTITIES[metric](weights @ task.entity_counts(outputs, labels, offsets, of))
    types = task.scheme.types if task.scheme else ()
    counts = [weights @ task.entity_counts(outputs, labels, offsets, kind) for kind in types]
    values, occurs = (np.stack([make(one) for one in counts]) for make in (_entity_f1, lambda one: one.any(axis=1)))
    return _ratio((values * occurs).sum(axis=0), occurs.sum(axis=0))


def _entity_f1(counts: Floats) -> Floats:
    """[B, 3] → [B]."""
    return _ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2])


def _accuracy(confusion: Floats) -> Floats:
    """`confusion` [B, gold, predicted]; its last column is "no class"."""
    return np.einsum("bcc->b", confusion[:, :, :-1]) / confusion.sum(axis=(1, 2))


def _f1(confusion: Floats, of: int) -> Floats:
    return _per_class_f1(confusion)[:, of]


def _precision(confusion: Floats, of: int) -> Floats:
    return _ratio(confusion[:, of, of], confusion[:, :, of].sum(axis=1))


def _recall(confusion: Floats, of: int) -> Floats:
    return _ratio(confusion[:, of, of], confusion[:, of].sum(axis=1))


def _weighted_f1(confusion: Floats) -> Floats:
    gold = confusion.sum(axis=2)
    return np.asarray((_per_class_f1(confusion) * gold).sum(axis=1) / gold.sum(axis=1))


def _macro_f1(confusion: Floats) -> Floats:
    """Mean over the classes that occur in the resample, in labels or predictions."""
    values = _per_class_f1(confusion)
    occurs = (confusion.sum(axis=2) + confusion[:, :, :-1].sum(axis=1)) > 0
    return np.asarray((values * occurs).sum(axis=1) / occurs.sum(axis=1))


def _per_class_f1(confusion: Floats) -> Floats:
    """[B, C]; 0 where a class occurs nowhere."""
    hits = np.einsum("bcc->bc", confusion[:, :, :-1])
    both = confusion.sum(axis=2) + confusion[:, :, :-1].sum(axis=1)
    return np.asarray(2 * hits / np.maximum(both, 1))


def _ranked(
    scores: Floats, positive: NDArray[np.bool_], draws: NDArray[np.float32]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Positive and negative rows drawn down to each place of the ranking, float64 [B, N] twice; places where a score ends."""
    order = np.argsort(-scores, kind="stable")
    drawn, ranked = draws[:, order].astype(np.float64), scores[order]
    above = np.cumsum(drawn * positive[order], axis=1), np.cumsum(drawn * ~positive[order], axis=1)
    return *above, np.append(ranked[1:] < ranked[:-1], True)


def _auc(scores: Floats, positive: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    """Area under the ROC curve by trapezoids; 0.5 where a resample holds one kind of rows only."""
    right, wrong, ends = _ranked(scores, positive, draws)
    right, wrong = (np.pad(values[:, ends], ((0, 0), (1, 0))) for values in (right, wrong))
    area = (np.diff(wrong) * (right[:, 1:] + right[:, :-1]) / 2).sum(axis=1)
    both = right[:, -1] * wrong[:, -1]
    return np.where(both > 0, _ratio(area, both), 0.5)


def _average_precision(scores: Floats, positive: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    """Precision at each score, weighted by the positive rows there; 0 where a resample holds none."""
    right, wrong, ends = _ranked(scores, positive, draws)
    right, wrong = right[:, ends], wrong[:, ends]
    precision = right / np.maximum(right + wrong, 1)
    new = np.diff(right, prepend=0.0, axis=1)
    return _ratio((precision * new).sum(axis=1), right[:, -1])


def _micro_f1(margins: Floats, labels: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    predicted = margins > 0
    rows = np.stack([2 * (predicted & labels).sum(axis=1), predicted.sum(axis=1) + labels.sum(axis=1)], axis=1)
    above, below = (draws.astype(np.float64) @ rows).T
    return _ratio(above, below)


def _macro_label_f1(margins: Floats, labels: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    """Mean over the labels that occur in the resample, among its rows or predictions."""
    predicted = margins > 0
    hits, both = draws @ (predicted & labels).astype(np.float32), draws @ (predicted * 1.0 + labels).astype(np.float32)
    occurs = (both > 0).sum(axis=1)
    return _ratio((2 * hits / np.maximum(both, 1)).sum(axis=1), occurs)


def _mean_average_precision(margins: Floats, labels: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    """Mean over the labels that some row of the resample has."""
    found = np.stack([_average_precision(margins[:, c], labels[:, c], draws) for c in range(labels.shape[1])], axis=1)
    occurs = draws @ labels.astype(np.float32) > 0
    return _ratio((found * occurs).sum(axis=1), occurs.sum(axis=1))


def _subset_accuracy(margins: Floats, labels: NDArray[np.bool_], draws: NDArray[np.float32]) -> Floats:
    exact = ((margins > 0) == labels).all(axis=1).astype(np.float64)
    return np.asarray(draws @ exact / draws.sum(axis=1))


def _matthews(confusion: Floats) -> Floats:
    """Gorodkin's correlation for any number of classes; 0 where labels or predictions are constant."""
    total = confusion.sum(axis=(1, 2))
    hits = np.einsum("bcc->b", confusion[:, :, :-1])
    gold, predicted = confusion.sum(axis=2), confusion.sum(axis=1)  # [B, C], [B, C + 1]
    covariance = hits * total - (gold * predicted[:, :-1]).sum(axis=1)
    spread = (total**2 - (gold**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def _pearson(predicted: Floats, scores: Floats, draws: NDArray[np.float32]) -> Floats:
    if not np.isfinite(predicted).all():
        return np.zeros(len(draws))
    x, y = (predicted - predicted.mean(), scores - scores.mean())  # sums of squares of large numbers would cancel
    sums = draws.astype(np.float64) @ np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    n, sx, sy, sxx, syy, sxy = sums.T
    spread = np.maximum(n * sxx - sx**2, 0) * np.maximum(n * syy - sy**2, 0)
    return _ratio(n * sxy - sx * sy, np.sqrt(spread))


def _spearman(predicted: Floats, scores: Floats, draws: NDArray[np.float32]) -> Floats:
    """Pearson's correlation of the ranks, which change with every resample."""
    if not np.isfinite(predicted).all():
        return np.zeros(len(draws))
    groups = [np.unique(values, return_inverse=True)[1] for values in (predicted, scores)]  # equal values are one group
    found = np.empty(len(draws))
    for index, counts in enumerate(draws):
        ranks = [_mean_ranks(group, counts.astype(np.float64)) for group in groups]
        found[index] = _pearson(ranks[0], ranks[1], counts[None])[0]
    return found


def _mean_ranks(group: NDArray[np.intp], counts: Floats) -> Floats:
    """[N]: rank of each row among the draws; equal values share the mean of their ranks.

    Args:
        group: [N], groups of equal values in ascending order.
        counts: [N], how often each row was drawn.
    """
    sizes = np.bincount(group, weights=counts)
    below = np.cumsum(sizes) - sizes
    return np.asarray((below + (sizes + 1) / 2)[group])


def _neg_mse(predicted: Floats, scores: Floats, draws: NDArray[np.float32]) -> Floats:
    weights = draws.astype(np.float64)
    return np.asarray(-(weights @ (predicted - scores) ** 2) / weights.sum(axis=1))


def _ratio(above: Floats, below: Floats) -> Floats:
    """0 where `below` is 0 within rounding."""
    tiny = below <= 1e-9 * max(1.0, float(np.max(below, initial=0.0)))
    return np.where(tiny, 0.0, above / np.where(tiny, 1.0, below))


_CLASSIFICATION: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
    "matthews": _matthews,
}
_OF_A_CLASS: dict[str, Callable[[Floats, int], Floats]] = {"f1": _f1, "precision": _precision, "recall": _recall}
_ENTITIES: dict[str, Callable[[Floats], Floats]] = {  # of counts [B, 3]
    "entity_f1": _entity_f1,
    "entity_precision": lambda counts: _ratio(counts[:, 0], counts[:, 1]),
    "entity_recall": lambda counts: _ratio(counts[:, 0], counts[:, 2]),
}
_RANKING: dict[str, Callable[[Floats, NDArray[np.bool_], NDArray[np.float32]], Floats]] = {
    "auc": _auc,
    "average_precision": _average_precision,
}
_MULTI_LABEL: dict[str, Callable[[Floats, NDArray[np.bool_], NDArray[np.float32]], Floats]] = {
    "micro_f1": _micro_f1,
    "macro_f1": _macro_label_f1,
    "map": _mean_average_precision,
    "subset_accuracy": _subset_accuracy,
}
_REGRESSION: dict[str, Callable[[Floats, Floats, NDArray[np.float32]], Floats]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "neg_mse": _neg_mse,
}
