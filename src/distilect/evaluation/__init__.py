"""Scores, cost, calibration and significance."""

from distilect.evaluation.calibration import brier_score, expected_calibration_error, negative_log_likelihood, softmax
from distilect.evaluation.cost import (
    Parameters,
    Speed,
    bytes_on_disk,
    flops_per_token,
    measure_speed,
    parameters,
    ratio_to,
    take_turns,
)
from distilect.evaluation.resampling import resampled_scores, row_draws
from distilect.evaluation.scores import Candidates, Chance, chance_of, evaluate, predict, run_batches, share_kept
from distilect.evaluation.significance import (
    Difference,
    Estimate,
    difference_of,
    holm,
    mean_estimate,
    paired_over_seeds,
)

__all__ = [
    "Candidates",
    "Chance",
    "Difference",
    "Estimate",
    "Parameters",
    "Speed",
    "brier_score",
    "bytes_on_disk",
    "chance_of",
    "difference_of",
    "evaluate",
    "expected_calibration_error",
    "flops_per_token",
    "holm",
    "mean_estimate",
    "measure_speed",
    "negative_log_likelihood",
    "paired_over_seeds",
    "parameters",
    "predict",
    "ratio_to",
    "resampled_scores",
    "row_draws",
    "run_batches",
    "share_kept",
    "softmax",
    "take_turns",
]
