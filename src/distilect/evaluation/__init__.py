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
from distilect.evaluation.generation import (
    SCORES,
    Prompts,
    check_rouge,
    completion_scores,
    decoded,
    matches,
    prompts_of,
    write_completions,
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
    "SCORES",
    "Candidates",
    "Chance",
    "Difference",
    "Estimate",
    "Parameters",
    "Prompts",
    "Speed",
    "brier_score",
    "bytes_on_disk",
    "chance_of",
    "check_rouge",
    "completion_scores",
    "decoded",
    "difference_of",
    "evaluate",
    "expected_calibration_error",
    "flops_per_token",
    "holm",
    "matches",
    "mean_estimate",
    "measure_speed",
    "negative_log_likelihood",
    "paired_over_seeds",
    "parameters",
    "predict",
    "prompts_of",
    "ratio_to",
    "resampled_scores",
    "row_draws",
    "run_batches",
    "share_kept",
    "softmax",
    "take_turns",
    "write_completions",
]
