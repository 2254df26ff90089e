"""Is one model better, or was it these rows, or these seeds? Paired bootstrap over both, and Holm's correction."""

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
    return difference_of(float(observed), draws)


def seed_draws(seeds: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """[B, S]: weights of S seeds in B bootstrap samples of S seeds; each row sums to 1.

    S things drawn from themselves spread too little, by (S - 1) / S in variance: a third for three seeds. Deviations from equal
    weights are stretched by sqrt(S / (S - 1)), which makes the spread of a mean s² / S with the sample's s². One seed says nothing
    of the spread between seeds.
    """
    counts = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1.0 / seeds), resamples)
    stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    return np.asarray(1.0 / seeds + stretch * (counts / seeds - 1.0 / seeds))


def paired_over_seeds(
    differences: NDArray[np.float64], resampled: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, NDArray[np.float64]]:
    """The mean difference of two methods over the seeds that both have, and its draws over rows and seeds.

    Args:
        differences: [S], score of the first minus the second, seed by seed, on the rows as they are.
        resampled: [B, S], the same on B resamples of the rows, the same rows for every seed and for both methods.
    """
    weights = seed_draws(len(differences), len(resampled), seed)
    return float(np.mean(differences)), (weights * resampled).sum(axis=1)


def difference_of(observed: float, draws: NDArray[np.float64]) -> Difference:
    """`Difference` of an observed value and its bootstrap draws [B]; of several tasks: of the means over them."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Difference(observed, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Difference(observed, float(low), float(high), _two_sided(draws))


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
