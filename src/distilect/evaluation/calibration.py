"""How far a classifier's confidence can be trusted. Rows with label < 0 have no label and are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def softmax(logits: ArrayLike) -> Floats:
    """Class probabilities [N, C] of `logits` [N, C]."""
    values = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))  # minus the maximum: no overflow
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy over `bins` parts of (0, 1], weighted by rows; NaN without any.

    Args:
        probabilities: [N, C]; labels: [N]
    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    probs, gold = _labelled(probabilities, labels)
    if not len(gold):
        return float("nan")
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == gold
    # Bins are (low, high]; a confidence of exactly k / bins belongs to the bin below.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(gold))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance of probabilities [N, C] from one-hot labels [N]: from 0 (best) to 2."""
    probs, gold = _labelled(probabilities, labels)
    if not len(gold):
        return float("nan")
    return float(((probs - np.eye(probs.shape[1])[gold]) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean -log p(label) in nats; a probability of 0 counts as the smallest float: the mean stays finite."""
    probs, gold = _labelled(probabilities, labels)
    if not len(gold):
        return float("nan")
    chosen = probs[np.arange(len(gold)), gold]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def _labelled(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    probs, gold = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if probs.ndim != 2 or gold.shape != probs.shape[:1]:
        raise ValueError(f"expected probabilities [N, C] and labels [N], got shapes {probs.shape} and {gold.shape}")
    return probs[gold >= 0], gold[gold >= 0]
