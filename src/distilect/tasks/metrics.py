"""Scores of predictions; for every one of them higher is better."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_MOST = 700.0  # exp of it is still a number


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Share of rows whose predicted class is the labelled one."""
    return float(np.mean(predicted == labels))


def precision(predicted: Ints, labels: Ints, of: int = 1) -> float:
    """Share of the rows predicted as class `of` that are of it; 0.0 where none is predicted."""
    hits, guessed, _ = _counts(predicted == of, labels == of)
    return hits / guessed if guessed else 0.0


def recall(predicted: Ints, labels: Ints, of: int = 1) -> float:
    """Share of the rows of class `of` that are predicted as it; 0.0 where there are none."""
    hits, _, there = _counts(predicted == of, labels == of)
    return hits / there if there else 0.0


def f1(predicted: Ints, labels: Ints, of: int = 1) -> float:
    """F1 of class `of`; 0.0 where precision and recall are both 0."""
    hits, guessed, there = _counts(predicted == of, labels == of)
    return 2 * hits / (guessed + there) if guessed + there else 0.0


def auc(scores: Floats, positive: Bools) -> float:
    """Area under the ROC curve: how often a positive row scores higher than a negative one; 0.5 where all are of one kind."""
    from sklearn.metrics import roc_auc_score

    return 0.5 if _constant(positive) else float(roc_auc_score(positive, scores))


def average_precision(scores: Floats, positive: Bools) -> float:
    """Mean precision over the positive rows, each at its own score; 0.0 without any."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores)) if positive.any() else 0.0


def token_accuracy(gold: Floats, other: Floats) -> float:
    """Share of tokens that are likelier than any other one; both are log-probabilities. NaN counts as wrong."""
    return float(np.mean(gold >= other))


def perplexity(gold: Floats, other: Floats) -> float:
    """exp of the mean of -log p of the tokens that stand there: of how many equally likely ones a model chooses. Lower is better."""
    return float(np.exp(min(-float(np.mean(np.nan_to_num(gold, nan=-_MOST, neginf=-_MOST))), _MOST)))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Mean F1 over the classes that occur in `labels` or `predicted`; a class that occurs in neither has no F1."""
    from sklearn.metrics import f1_score

    classes = np.union1d(predicted, labels)
    return float(f1_score(labels, predicted, labels=classes[classes >= 0], average="macro", zero_division=0))


def weighted_f1(predicted: Ints, labels: Ints) -> float:
    """Mean F1 over the classes, each weighted by its labelled rows."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="weighted", zero_division=0))


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


# ---- multi-label: margins [N, C], above 0 where a label is predicted; labels bool [N, C] -----------------------------


def micro_f1(margins: Floats, labels: Bools) -> float:
    """F1 over all pairs of row and label; 0.0 where no label is predicted and none is there."""
    hits, guessed, there = _counts(margins > 0, labels)
    return 2 * hits / (guessed + there) if guessed + there else 0.0


def label_f1(margins: Floats, labels: Bools) -> Floats:
    """float64 [C]: each label's F1; NaN for a label that no row has and that none is predicted to have."""
    hits = ((margins > 0) & labels).sum(axis=0)
    both = (margins > 0).sum(axis=0) + labels.sum(axis=0)
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), np.nan)


def macro_label_f1(margins: Floats, labels: Bools) -> float:
    """Mean of `label_f1` over the labels that have one; 0.0 without any."""
    values = label_f1(margins, labels)
    return 0.0 if np.isnan(values).all() else float(np.nanmean(values))


def mean_average_precision(margins: Floats, labels: Bools) -> float:
    """Mean over labels of the average precision of the rows ranked by that label; labels without rows are left out."""
    found = [average_precision(margins[:, c], labels[:, c]) for c in range(labels.shape[1]) if labels[:, c].any()]
    return float(np.mean(found)) if found else 0.0


def subset_accuracy(margins: Floats, labels: Bools) -> float:
    """Share of rows whose predicted set of labels is exactly the labelled one."""
    return float(((margins > 0) == labels).all(axis=1).mean())


# ---- entities: counts int64 [..., 3] of those predicted rightly, predicted, and labelled (`tags.entity_counts`) ---------


def entity_precision(counts: Ints) -> float:
    """Share of the predicted entities that are labelled, with the same words and type; 0.0 where none is predicted."""
    hits, guessed, _ = counts.reshape(-1, 3).sum(axis=0)
    return float(hits / guessed) if guessed else 0.0


def entity_recall(counts: Ints) -> float:
    """Share of the labelled entities that are predicted; 0.0 where there are none."""
    hits, _, there = counts.reshape(-1, 3).sum(axis=0)
    return float(hits / there) if there else 0.0


def entity_f1(counts: Ints) -> float:
    """F1 over all entities (micro); 0.0 where none is predicted and none is labelled."""
    hits, guessed, there = counts.reshape(-1, 3).sum(axis=0)
    return float(2 * hits / (guessed + there)) if guessed + there else 0.0


def macro_entity_f1(counts: Ints) -> float:
    """Mean F1 over the types that are predicted or labelled; 0.0 without any.

    Args:
        counts: int64 [T, 3], of each type.
    """
    values = [entity_f1(row) for row in counts if row.any()]
    return float(np.mean(values)) if values else 0.0


def _counts(predicted: Bools, labels: Bools) -> tuple[int, int, int]:
    """(predicted rightly, predicted, labelled)."""
    return int((predicted & labels).sum()), int(predicted.sum()), int(labels.sum())


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
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
    "matthews": matthews,
}
OF_A_CLASS: dict[str, Callable[[Ints, Ints, int], float]] = {"f1": f1, "precision": precision, "recall": recall}
RANKING: dict[str, Callable[[Floats, Bools], float]] = {"auc": auc, "average_precision": average_precision}
MULTI_LABEL: dict[str, Callable[[Floats, Bools], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_label_f1,
    "map": mean_average_precision,
    "subset_accuracy": subset_accuracy,
}
ENTITY: dict[str, Callable[[Ints], float]] = {
    "entity_f1": entity_f1,
    "entity_precision": entity_precision,
    "entity_recall": entity_recall,
}
MACRO_ENTITY = "macro_entity_f1"
TOKEN: dict[str, Callable[[Floats, Floats], float]] = {"accuracy": token_accuracy, "perplexity": perplexity}
REGRESSION: dict[str, Callable[[Floats, Floats], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "neg_mse": neg_mse,
}
