"""How fast a student trains here, measured by some steps whose weights are thrown away."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from distilect.config import TrainConfig
from distilect.models import Student, quiet
from distilect.selection import Method
from distilect.signals import Prepared
from distilect.training import Counts, DistillationTrainer, TrainingRows

WARM = 3  # first steps, which allocate and import
SECONDS = 6.0  # of training, after which the measurement stops
FEWEST = 8  # steps that it takes however slow they are


@dataclass(frozen=True)
class Pace:
    """What training costs.

    Attributes:
        token: seconds per student token that is trained on.
        row: student tokens per row.
        evaluation: seconds per row of a pass without gradient.
        epoch_tokens: student tokens of an epoch, of the rows that the method trains on.
        checkpoint: seconds to write one.
    """

    token: float
    row: float
    evaluation: float
    epoch_tokens: float
    checkpoint: float


def measure_pace(
    student: Student,
    rows: TrainingRows,
    method: Method,
    prepared: Prepared,
    config: TrainConfig,
    seed: int,
    evaluated: int | None = None,
) -> Pace:
    """Train copies of student and method for some seconds, and write a checkpoint of them.

    Args:
        evaluated: so many rows of train are run without gradient at most; None: all.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measured(
            copy.deepcopy(student.model), rows, copy.deepcopy(method), prepared, config, Path(folder), seed, evaluated
        )


def _measured(
    model: Any,
    rows: TrainingRows,
    method: Method,
    prepared: Prepared,
    config: TrainConfig,
    folder: Path,
    seed: int,
    evaluated: int | None,
) -> Pace:
    once = {"epochs": 1.0, "evaluations": 1, "early_stopping_patience": None, "token_budget": None}
    clock = _Clock()
    trainer = DistillationTrainer(
        model,
        rows,
        method,
        prepared.source,
        config.model_copy(update=once),
        folder,
        seed,
        callbacks=[clock],
        vectors=prepared.vectors,
        saves=False,
    )
    clock.counts = trainer.counts
    with quiet():
        trainer.train()
    encoded = rows.encoded if evaluated is None else rows.encoded.take(range(min(evaluated, len(rows.encoded))))
    started, per_row = time.perf_counter(), float(rows.encoded.lengths.mean())
    trainer.predict_rows(encoded)
    evaluation = (time.perf_counter() - started) / len(encoded)
    started = time.perf_counter()
    with quiet():
        trainer._save_checkpoint(trainer.model, None)
    checkpoint = time.perf_counter() - started
    planned = len(trainer.sampler) * config.batch_size / config.gradient_accumulation_steps
    return Pace(clock.per_token(), per_row, evaluation, min(planned, len(rows)) * per_row, checkpoint)


class _Clock(TrainerCallback):
    """When each step ended and how many tokens it had; ends the training when it has seen enough."""

    def __init__(self) -> None:
        self.spent: list[float] = []
        self.tokens: list[int] = []
        self.started = 0.0
        self.counts = Counts()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.started:
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self.spent.append(now - self.started)
        self.tokens.append(self.counts.tokens)
        self.started = now
        enough = sum(self.spent[WARM:]) > SECONDS and len(self.spent) >= WARM + FEWEST
        control.should_training_stop = control.should_training_stop or enough

    def per_token(self) -> float:
        """Seconds, after the first steps."""
        kept = min(WARM, len(self.spent) - 1)
        before = self.tokens[kept - 1] if kept else 0
        return sum(self.spent[kept:]) / (self.tokens[-1] - before)
