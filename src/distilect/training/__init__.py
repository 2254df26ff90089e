"""The distillation step, its trainer, and training in a folder."""

from distilect.training.counts import Counts
from distilect.training.episodes import StageA, drop_episodes, episodes_begun, run_episodes
from distilect.training.fit import Fitted, fit
from distilect.training.rows import Batch, TrainingRows, position_of
from distilect.training.step import StepResult, distillation_loss
from distilect.training.trainer import DistillationTrainer
from distilect.training.weights import load_weights

__all__ = [
    "Batch",
    "Counts",
    "DistillationTrainer",
    "Fitted",
    "StageA",
    "StepResult",
    "TrainingRows",
    "distillation_loss",
    "drop_episodes",
    "episodes_begun",
    "fit",
    "load_weights",
    "position_of",
    "run_episodes",
]
