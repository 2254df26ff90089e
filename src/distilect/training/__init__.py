"""The distillation step, its trainer, and training in a folder."""

from distilect.training.fit import Fitted, fit, keep_newest_checkpoint
from distilect.training.step import StepResult, distillation_loss
from distilect.training.trainer import DistillationTrainer, TrainingRows

__all__ = [
    "DistillationTrainer",
    "Fitted",
    "StepResult",
    "TrainingRows",
    "distillation_loss",
    "fit",
    "keep_newest_checkpoint",
]
