"""What is learned: kind of task, label space, metrics."""

from __future__ import annotations

from distilect.tasks.metrics import accuracy, f1, macro_f1, matthews, neg_mse, pearson, spearman
from distilect.tasks.task import NO_LABEL, Kind, Task, default_metrics, has_label, kind_of_metrics

__all__ = [
    "NO_LABEL",
    "Kind",
    "Task",
    "accuracy",
    "default_metrics",
    "f1",
    "has_label",
    "kind_of_metrics",
    "macro_f1",
    "matthews",
    "neg_mse",
    "pearson",
    "spearman",
]
