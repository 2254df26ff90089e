"""Scores of predictions; for every one of them higher is better."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Share of rows whose predicted class is the labelled one."""
    return float(np.mean(predicted == labels))


def f1(predicted: Ints, labels: Ints) -> float:
    """F1 of class 1; 0.0 where precision and recall are both 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predicted == 1, zero_division=0))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Mean F1 over the classes that occur in `labels` or `predicted`; a class that occurs in neither has no F1."""
    from sklearn.metrics import f1_score

    classes = np.union1d(predicted, labels)
    return float(f1_score(labels, predicted, labels=classes[classes >= 0], average="macro", zero_division=0))


def matthews(predicted: Ints, labels: Ints) -> float:
    """Matthews correlation in [-1, 1], for any number of classes; 0.0 where labels or predictions are constant."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(predicted) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: Floats, scores: Floats) -> float:
    """Pearson correlation in [-1, 1]; 0.0 rather than NaN where either side is constant or a prediction is NaN."""
    from scipy.stats import pearsonr

    return _correlation(lambda: pearsonr(predicted, scores)[0], predicted, scores)


def spearman(predicted: Floats, scores: Floats) -> float:
    """Spearman rank correlation in [-1, 1]; 0.0 rather than NaN as in `pearson`."""
    from scipy.stats import spearmanr

    return _correlation(lambda: spearmanr(predicted, scores)[0], predicted, scores)


def neg_mse(predicted: Floats, scores: Floats) -> float:
    """Minus the mean squared error, in squared units of the score."""
    return -float(np.mean((predicted - scores) ** 2))


def _correlation(compute: Callable[[], float], predicted: Floats, scores: Floats) -> float:
    if not np.isfinite(predicted).all() or _constant(predicted) or _constant(scores):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(compute())
    return value if np.isfinite(value) else 0.0  # nearly constant input can still divide 0 by 0


def _constant(values: NDArray[np.generic]) -> bool:
    return bool((values == values[0]).all())


CLASSIFICATION: dict[str, Callable[[Ints, Ints], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
}
REGRESSION: dict[str, Callable[[Floats, Floats], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "neg_mse": neg_mse,
}
