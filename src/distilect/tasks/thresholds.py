"""Thresholds of a multi-label model: from which probability on a label is predicted, chosen on the validation split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_POSITIVES = 10  # rows of a label, from which on it has a threshold of its own
_LEAST = 1e-6  # no threshold is nearer to 0 or 1


def choose_thresholds(logits: Floats, labels: NDArray[np.bool_]) -> Floats:
    """float64 [C]: the threshold of each label's probability that gives it the best F1 on these rows.

    A label with fewer than 10 rows takes the one that gives the best micro-F1 over all labels together: its own would
    follow chance.

    Args:
        logits: [N, C]; labels: bool [N, C].
    """
    common = _best_cut(logits.ravel(), labels.ravel())
    own = labels.sum(axis=0) >= LEAST_POSITIVES
    cuts = np.array([_best_cut(logits[:, c], labels[:, c]) if own[c] else common for c in range(labels.shape[1])])
    return np.round(np.clip(1 / (1 + np.exp(-np.clip(cuts, -50, 50))), _LEAST, 1 - _LEAST), 6)


def margins(logits: Floats, thresholds: Sequence[float] | None) -> Floats:
    """float64 [N, C]: logits less the logits of the thresholds (default: 1/2), so that a label is predicted above 0."""
    if thresholds is None:
        return logits
    cut = np.asarray(thresholds, dtype=np.float64)
    return np.asarray(logits - np.log(cut / (1 - cut)))


def _best_cut(logits: Floats, positive: NDArray[np.bool_]) -> float:
    """The logit above which predicting gives the best F1: halfway between two rows; 0 where none is positive."""
    if not positive.any():
        return 0.0
    order = np.argsort(-logits, kind="stable")
    ranked, hits = logits[order], np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    ends = np.append(ranked[1:] < ranked[:-1], True)  # equal logits are on one side
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1.0
    return float((ranked[best] + below) / 2)
