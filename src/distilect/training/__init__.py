"""The distillation step, its trainer, and training in a folder."""

from distilect.training.fit import Fitted, discard_checkpoints, fit
from distilect.training.step import StepResult, distillation_loss
from distilect.training.trainer import DistillationTrainer, TrainingRows

__all__ = [
    "DistillationTrainer",
    "Fitted",
    "StepResult",
    "TrainingRows",
    "discard_checkpoints",
    "distillation_loss",
    "fit",
]
