"""Scores, cost, calibration and significance."""

from distilect.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
)
from distilect.evaluation.cost import (
    Parameters,
    Speed,
    bytes_on_disk,
    flops_per_token,
    measure_speed,
    parameters,
    ratio_to,
)
from distilect.evaluation.scores import evaluate, predict, run_batches
from distilect.evaluation.significance import Difference, holm, paired_bootstrap

__all__ = [
    "Difference",
    "Parameters",
    "Speed",
    "brier_score",
    "bytes_on_disk",
    "evaluate",
    "expected_calibration_error",
    "flops_per_token",
    "holm",
    "measure_speed",
    "negative_log_likelihood",
    "paired_bootstrap",
    "parameters",
    "predict",
    "ratio_to",
    "run_batches",
    "softmax",
]
