"""Teachers on one scale: a temperature each, fitted on validation rows (Guo et al., 2017, arXiv 1706.04599).

An overconfident teacher outvotes the others wherever their outputs are averaged or compared. The store keeps outputs as the teacher gave
them; what reads them for a run applies the calibration. Hidden states are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from distilect.tasks import Task, has_label

Floats = NDArray[np.float64]

LEAST_ROWS = 20  # with a label, below which nothing is fitted
_MOST_ROWS = 20_000  # that are looked at: two numbers need no more
_SPREAD = 0.5  # of log T before any row is seen: few rows leave T near 1
_SPREAD_OF_SHIFT = 5.0  # of the shift, in logits: a specialist may need a large one
_PRIOR_ROWS = 4  # of a teacher that is right as it is, in a regression
_FARTHEST = 3.0  # of log T from 0


@dataclass(frozen=True)
class Calibration:
    """`outputs · scale + shift`, for the outputs of one teacher in the task's order.

    Attributes:
        scale: 1 / T; in a regression the slope.
        shift: added to the logits of `shifted`, and of all labels in a multi-label task; in a regression the intercept.
        shifted: classes that the teacher never predicts although they occur, as those that a specialist has not learned.
        rows: labelled rows that it was fitted on; 0: none, outputs are left as they are.
    """

    scale: float = 1.0
    shift: float = 0.0
    shifted: tuple[int, ...] = ()
    rows: int = 0

    @property
    def temperature(self) -> float:
        return 1.0 / self.scale

    def __call__(self, outputs: Any) -> Any:
        """Calibrated outputs [..., C] of a tensor or an array."""
        if not self.rows:
            return outputs
        found = outputs * self.scale
        if not self.shifted:
            return found + self.shift
        found[..., list(self.shifted)] += self.shift
        return found


def fit_calibration(task: Task, outputs: NDArray[Any], labels: NDArray[Any]) -> Calibration:
    """The calibration of one teacher with the highest likelihood, held near "as it is" by a prior that matters with few rows only.

    Classification: softmax(z / T), with a shift of the classes that it never predicts, if these hold enough rows. Multi-label:
    σ(z / T + shift). Regression: least squares, with a slope that is not negative.

    Args:
        outputs: [N, C], on rows that the teacher was not trained on.
        labels: [N] or [N, C], of which some rows may have none.
    """
    rows = np.flatnonzero(has_label(labels))
    if len(rows) < LEAST_ROWS:
        return Calibration()
    if len(rows) > _MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(np.int64)]
    outputs, labels = outputs[rows].astype(np.float64), labels[rows]
    if task.kind == "regression":
        return _line(outputs[:, 0], labels.astype(np.float64))
    if task.kind == "multi-label":
        scale, shift = _fitted(_sigmoid_loss(outputs, labels == 1), len(rows))
        return Calibration(scale, shift, rows=len(rows))
    missing = _never_predicted(outputs, labels)
    scale, shift = _fitted(_softmax_loss(outputs, labels.astype(np.int64), missing), len(rows))
    return Calibration(scale, shift if missing.any() else 0.0, tuple(np.flatnonzero(missing).tolist()), len(rows))


def _never_predicted(logits: Floats, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """bool [C]: classes that occur and are never predicted; none where they hold too few rows to say so."""
    counts = np.bincount(labels, minlength=logits.shape[1])
    missing = (counts > 0) & (np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]) == 0)
    return missing & (counts[missing].sum() >= LEAST_ROWS)


Loss = Callable[[float, float], tuple[float, float, float]]  # scale, shift → loss, and its two derivatives


def _softmax_loss(logits: Floats, labels: NDArray[np.int64], missing: NDArray[np.bool_]) -> Loss:
    """Mean cross-entropy of `logits` [N, C] with `labels` [N]."""
    rows = np.arange(len(labels))

    def loss(scale: float, shift: float) -> tuple[float, float, float]:
        scaled = scale * logits + shift * missing
        total = logsumexp(scaled, axis=1)
        error = np.exp(scaled - total[:, None])
        error[rows, labels] -= 1.0
        value = (total - scaled[rows, labels]).mean()
        return float(value), float((error * logits).sum(1).mean()), float(error[:, missing].sum(1).mean())

    return loss


def _sigmoid_loss(logits: Floats, positive: NDArray[np.bool_]) -> Loss:
    """Mean over rows of the summed binary cross-entropies of `logits` [N, C] with `positive` [N, C]."""

    def loss(scale: float, shift: float) -> tuple[float, float, float]:
        scaled = scale * logits + shift
        error = expit(scaled) - positive
        value = (np.logaddexp(0.0, scaled) - positive * scaled).sum(1).mean()
        return float(value), float((error * logits).sum(1).mean()), float(error.sum(1).mean())

    return loss


def _fitted(loss: Loss, rows: int) -> tuple[float, float]:
    """(scale, shift) of the least loss, with normal priors on log T and on the shift."""

    def objective(x: Floats) -> tuple[float, Floats]:
        scale = float(np.exp(-x[0]))
        value, by_scale, by_shift = loss(scale, x[1])
        prior = (x / np.array([_SPREAD, _SPREAD_OF_SHIFT])) ** 2 / (2 * rows)
        slopes = np.array([-scale * by_scale, by_shift]) + x / np.array([_SPREAD, _SPREAD_OF_SHIFT]) ** 2 / rows
        return value + float(prior.sum()), slopes

    bounds = [(-_FARTHEST, _FARTHEST), (None, None)]
    log_temperature, shift = minimize(objective, np.zeros(2), jac=True, bounds=bounds, method="L-BFGS-B").x
    return round(float(np.exp(-log_temperature)), 5), round(float(shift), 5)  # so that a last bit changes nothing


def _line(scores: Floats, labels: Floats) -> Calibration:
    """Least squares of `labels` [N] on `scores` [N]."""
    own, gold = scores - scores.mean(), labels - labels.mean()
    spread = float((own**2).sum())
    weight = _PRIOR_ROWS * spread / len(own)
    slope = max(0.0, float(own @ gold) + weight) / (spread + weight) if spread > 0 else 1.0
    return Calibration(round(slope, 5), round(float(labels.mean() - slope * scores.mean()), 5), rows=len(own))
