"""Is one method better, or was it these rows, or these seeds? A paired test over both, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student_t

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Score of the first minus the second, its 95 % interval, and the two-sided p of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Estimate:
    """A mean difference over seeds, or over seeds and tasks, and what it varies by.

    Attributes:
        rows: its variance over the rows that dev might have had, the same ones for all seeds.
        seeds: its variance over the seeds that might have been drawn, s² / S; 0 for one seed, which tells nothing about it.
        freedom: degrees of freedom of `seeds`, S - 1.
    """

    difference: float
    rows: float
    seeds: float
    freedom: float


def paired_over_seeds(differences: Floats, resampled: Floats) -> Estimate:
    """The mean difference of two methods over the seeds that both have.

    Rows and seeds are crossed: what the rows made of a seed's difference is partly the same for every seed. What rows and seed made
    together is in both variances. So the test is a little too strict where that is much, and not fooled where a few seeds agree by
    chance (s² = 0).

    Args:
        differences: [S], score of the first minus the second, seed by seed, on the rows as they are.
        resampled: [B, S], the same on B resamples of the rows, the same rows for every seed and for both methods. Resamples
            without a score (NaN) are left out.
    """
    count, mean = len(differences), float(np.mean(differences))
    means = resampled[~np.isnan(resampled).any(axis=1)].mean(axis=1)
    rows = float(np.var(means, ddof=1)) if len(means) > 1 else math.nan
    seeds = float(np.var(differences, ddof=1) / count) if count > 1 else 0.0
    return Estimate(mean, rows, seeds, count - 1.0)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Of the mean over tasks, which are independent; degrees of freedom by Satterthwaite."""
    count = len(estimates)
    seeds = [e.seeds for e in estimates]
    weighted = sum(e.seeds**2 / e.freedom for e in estimates if e.freedom)
    return Estimate(
        difference=float(np.mean([e.difference for e in estimates])),
        rows=sum(e.rows for e in estimates) / count**2,
        seeds=sum(seeds) / count**2,
        freedom=sum(seeds) ** 2 / weighted if weighted else min(e.freedom for e in estimates),
    )


def difference_of(estimate: Estimate) -> Difference:
    """The test of an estimate.

    At level α a difference counts if its square exceeds t² · seeds + z² · rows, with the quantiles of Student's t with `freedom`
    degrees of freedom and of the normal distribution: the variance between two to five seeds is itself a guess, that over hundreds
    of rows is not. Exact where one of them is 0; in between it rejects less than α of equal methods
    (tests/evaluation/test_significance.py). p is the α at which the two sides are equal, so no number of resamples limits it.
    """
    observed = estimate.difference
    if math.isnan(estimate.rows):
        return Difference(observed, math.nan, math.nan, math.nan)
    half = math.sqrt(_limit(estimate, 0.05))
    return Difference(observed, observed - half, observed + half, _p_value(estimate))


def _limit(estimate: Estimate, level: float) -> float:
    """The square of the difference that counts at that level."""
    z = norm.isf(level / 2)
    t = student_t.isf(level / 2, estimate.freedom) if estimate.seeds else 0.0
    return float(t**2 * estimate.seeds + z**2 * estimate.rows)


def _p_value(estimate: Estimate) -> float:
    square = estimate.difference**2
    if not square:
        return 1.0
    least = 1e-100
    if _limit(estimate, least) <= square:
        return least
    return float(10 ** brentq(lambda x: _limit(estimate, 10**x) - square, math.log10(least), 0.0))


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
