"""What is learned: kind of task, label space, metrics."""

from __future__ import annotations

from distilect.tasks.metrics import (
    RANKING,
    accuracy,
    f1,
    label_f1,
    macro_f1,
    matthews,
    micro_f1,
    neg_mse,
    pearson,
    spearman,
)
from distilect.tasks.task import (
    NO_LABEL,
    PROBLEM_TYPES,
    Kind,
    Task,
    class_margin,
    default_metrics,
    has_label,
    kind_of_metrics,
    named_metrics,
    parse_metric,
    wrong_where_nan,
)
from distilect.tasks.thresholds import margins

__all__ = [
    "NO_LABEL",
    "PROBLEM_TYPES",
    "RANKING",
    "Kind",
    "Task",
    "accuracy",
    "class_margin",
    "default_metrics",
    "f1",
    "has_label",
    "kind_of_metrics",
    "label_f1",
    "macro_f1",
    "margins",
    "matthews",
    "micro_f1",
    "named_metrics",
    "neg_mse",
    "parse_metric",
    "pearson",
    "spearman",
    "wrong_where_nan",
]
