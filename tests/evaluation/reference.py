"""The plain paired bootstrap over rows, one resample at a time: what the fast one of comparisons is checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distilect.evaluation import Difference, difference_of

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
    """Both models see the same resamples; `score`: (outputs [n, …], labels [n]) → float."""
    random, rows = np.random.default_rng(seed), len(labels)
    draws = np.empty(resamples)
    for index in range(resamples):
        chosen = random.integers(0, rows, rows)
        draws[index] = score(first[chosen], labels[chosen]) - score(second[chosen], labels[chosen])
    return difference_of(float(score(first, labels) - score(second, labels)), draws)
