"""Is one method better, or was it these rows, or these seeds? Paired bootstrap over both, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Score of the first minus the second, its 95 % interval, and the two-sided p of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def seed_draws(seeds: int, resamples: int, seed: int) -> Floats:
    """[B, S]: weights of S seeds in B bootstrap samples of S seeds; each row sums to 1.

    S seeds drawn from themselves spread too little, by (S - 1) / S in variance: a third for three seeds. Deviations from equal
    weights are stretched by sqrt(S / (S - 1)), which makes the spread of a mean s² / S with the sample's s². One seed tells nothing
    about the spread between seeds.
    """
    counts = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1.0 / seeds), resamples)
    stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    return np.asarray(1.0 / seeds + stretch * (counts / seeds - 1.0 / seeds))


def paired_over_seeds(differences: Floats, resampled: Floats, *, seed: int = 0) -> tuple[float, Floats]:
    """The mean difference of two methods over the seeds that both have, and its draws [B] over rows and seeds.

    Args:
        differences: [S], score of the first minus the second, seed by seed, on the rows as they are.
        resampled: [B, S], the same on B resamples of the rows, the same rows for every seed and for both methods.
    """
    weights = seed_draws(len(differences), len(resampled), seed)
    return float(np.mean(differences)), (weights * resampled).sum(axis=1)


def difference_of(observed: float, draws: Floats) -> Difference:
    """`Difference` of an observed value and its bootstrap draws [B]; draws that are NaN are left out.

    p is twice the smaller tail beyond 0. One is added above and below the fraction, so that no p-value is 0.
    """
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Difference(observed, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(draws, (0.025, 0.975))
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(observed, float(low), float(high), min(1.0, 2.0 * (tail + 1) / (len(draws) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of questions asked, in the given order.

    Source: Holm 1979: the i-th smallest of m is multiplied by m - i + 1, then made monotone and cut at 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]
