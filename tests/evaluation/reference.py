"""The plain paired bootstrap over rows, one resample at a time: what the test of comparisons is checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distilect.evaluation import Difference

Array = np.ndarray[Any, Any]


def paired_bootstrap(
    score: Callable[[Array, Array], float],
    first: Array,
    second: Array,
    labels: Array,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Both models see the same resamples; `score`: (outputs [n, …], labels [n]) → float. p is twice the smaller tail beyond 0."""
    random, rows = np.random.default_rng(seed), len(labels)
    draws = np.empty(resamples)
    for index in range(resamples):
        chosen = random.integers(0, rows, rows)
        draws[index] = score(first[chosen], labels[chosen]) - score(second[chosen], labels[chosen])
    low, high = np.quantile(draws, (0.025, 0.975))
    tail = 2 * min(np.mean(draws <= 0), np.mean(draws >= 0))
    return Difference(
        float(score(first, labels) - score(second, labels)), float(low), float(high), min(1.0, float(tail))
    )
