"""Is one model better, or was it these rows? Paired bootstrap over rows, and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Difference:
    """Score of the first minus the second, its 95 % interval, and the two-sided p of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    score: Score,
    first: NDArray[Any],
    second: NDArray[Any],
    labels: NDArray[Any],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two models on the same rows; both see the same resamples, which cancels what is hard for both.

    Args:
        score: (outputs [n, …], labels [n]) -> float, higher is better; resamples where it is NaN are left out
        first, second: outputs of the two models, row i of each for the same text
        labels: [N]
    Raises:
        ValueError: the three arrays differ in rows, or hold none.
    """
    rows = len(labels)
    if not rows or len(first) != rows or len(second) != rows:
        raise ValueError(f"expected the same rows three times, got {len(first)}, {len(second)} and {rows}")
    observed = score(first, labels) - score(second, labels)
    random = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for index in range(resamples):  # one at a time: all at once would take resamples * rows * classes floats
        chosen = random.integers(0, rows, rows)
        draws[index] = score(first[chosen], labels[chosen]) - score(second[chosen], labels[chosen])
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Difference(float(observed), float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Difference(float(observed), float(low), float(high), _two_sided(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having asked many questions, in the given order.

    Source: Holm 1979: the i-th smallest of m is multiplied by m - i + 1, then made monotone and cut at 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def _two_sided(draws: NDArray[np.float64]) -> float:
    """Twice the smaller tail beyond 0; one is added above and below so that no p-value is 0."""
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2.0 * (tail + 1) / (len(draws) + 1))
