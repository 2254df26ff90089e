"""Train a model in a folder, resumably: the one way that students and teachers are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import TrainConfig
from distilect.errors import RunError
from distilect.models import Student, quiet, set_dropout
from distilect.selection import Method
from distilect.signals import SignalSource
from distilect.training.callbacks import Bar, Clock, History, Preemption
from distilect.training.checkpoints import last_checkpoint
from distilect.training.rows import TrainingRows
from distilect.training.trainer import DistillationTrainer


@dataclass(frozen=True)
class Fitted:
    """What a training gave.

    Attributes:
        validation: metrics of the kept weights on the validation split.
        thresholds: of a multi-label task, chosen there and kept in the model's config; None for other kinds.
        seconds: wall time of training, over all resumed parts.
        steps, tokens: optimiser steps and tokens (without padding) that were trained on.
        asked: rows that teachers were asked on in the steps, summed over teachers; read from a store or run.
        probed: rows that the student was run on for the selectors' sake, beside the steps.
        forward_tokens: tokens of these rows.
        stage_tokens: student tokens that selectors were trained on before this training.
        student_tokens: all of these as training tokens; a pass without gradient counts a third.
        resumed: the step that this process went on from; 0 for a fresh start.
        epochs, planned_epochs: passes over the training rows, as they were and as the schedule was made for.
    """

    validation: dict[str, float]
    thresholds: tuple[float, ...] | None
    seconds: float
    steps: int
    tokens: int
    asked: int
    probed: int
    forward_tokens: int
    stage_tokens: int
    student_tokens: int
    resumed: int
    epochs: float
    planned_epochs: float

    def after(self, earlier: Fitted) -> Fitted:
        """This training and the one before it, of the same student: costs added up, scores of this one."""
        sums = (
            "seconds",
            "steps",
            "tokens",
            "asked",
            "probed",
            "forward_tokens",
            "stage_tokens",
            "student_tokens",
            "epochs",
        )
        return replace(self, **{name: getattr(earlier, name) + getattr(self, name) for name in sums})


def fit(
    student: Student,
    rows: TrainingRows,
    method: Method,
    source: SignalSource | None,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    description: str,
    vectors: SignalSource | None = None,
    log: Path | None = None,
    stage: str = "",
    before: Fitted | None = None,
    later: float = 0.0,
) -> tuple[DistillationTrainer, Fitted]:
    """Train `student.model` in place; goes on from the last complete checkpoint in `folder`.

    With several processes all of them call it with the same arguments; rank 0 writes, and holds the sums of `Fitted`.

    Writes `history.jsonl`, `tensorboard/`, `selection.parquet`, `rows.parquet`, of a language model with several teachers `examples.parquet`, and `checkpoints/` into `folder`.

    Args:
        log: folder of the history, where it is another one.
        stage, before: of a run in stages, this one's name and what the earlier ones gave: their steps come first in the history.
        later: the length of the stages after it, as a multiple of this one's; the progress bar is of the whole run.
    """
    if config.dropout is not None:
        set_dropout(student.model, config.dropout)
    ranks.start()
    done = 0 if before is None else before.steps if config.token_budget is None else before.student_tokens
    bar = Bar(description, config.token_budget, done, later)
    written: list[Any] = []
    if ranks.is_main():
        place, earlier = log or folder, (before.steps, before.epochs) if before else (0, 0.0)
        written = [History(place / "history.jsonl", place / "tensorboard", stage, *earlier), bar]
    preemption = Preemption()
    trainer = DistillationTrainer(
        student.model,
        rows,
        method,
        source,
        config,
        folder / "checkpoints",
        seed,
        written,
        vectors=vectors,
        preemption=preemption,
    )
    bar.tokens = lambda: trainer.spent_tokens
    trainer.add_callback(Clock(trainer.counts))
    checkpoint = _checkpoint_for_all(folder / "checkpoints")
    if checkpoint is not None:
        trainer.load_extra_state(checkpoint)
    try:
        with quiet():  # a progress bar of our own; transformers would add one for every checkpoint
            _train(trainer, checkpoint)
    finally:
        bar.close()
        preemption.close()
    trainer.take_average()
    trainer.collect()
    if ranks.is_main():
        trainer.records.recorder.write(folder / "selection.parquet")
        trainer.records.sample.write(folder / "rows.parquet", rows.table, rows.task.labels)
        trainer.records.examples.write_tokens(folder / "examples.parquet", rows.table)
    student.model = trainer.whole_model()
    return trainer, _fitted(trainer, student, checkpoint)


def _fitted(trainer: DistillationTrainer, student: Student, checkpoint: Path | None) -> Fitted:
    """Scores of the trained weights on the validation split, and what the training took."""
    rows = trainer.rows
    logits = trainer.predict_rows(rows.validation_encoded)
    thresholds = rows.task.thresholds(logits, rows.validation.labels)
    validation = {}
    if len(logits):
        validation = rows.task.score(logits, rows.validation.labels, thresholds, rows.validation.offsets)
    if thresholds is not None:
        student.model.config.thresholds = list(thresholds)
    return Fitted(
        validation=validation,
        thresholds=thresholds,
        seconds=trainer.counts.extra["seconds"],
        steps=trainer.state.global_step,
        tokens=int(trainer.counts.tokens),
        asked=int(trainer.counts.extra.get("teacher_rows", 0)),
        probed=int(trainer.counts.extra.get("probed_rows", 0)),
        forward_tokens=int(trainer.counts.extra.get("forward_tokens", 0)),
        stage_tokens=round(trainer.stage_tokens),
        student_tokens=round(trainer.spent_tokens),
        resumed=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        epochs=round(float(trainer.state.epoch or 0.0), 6),
        planned_epochs=trainer.config.epochs,
    )


def _checkpoint_for_all(folder: Path) -> Path | None:
    """The one that all ranks go on from: rank 0 looks, and removes what is damaged."""
    found = last_checkpoint(folder) if ranks.is_main() else None
    step = ranks.from_main(int(found.name.rpartition("-")[2]) if found else -1)
    return None if step < 0 else folder / f"checkpoint-{step}"


def _train(trainer: DistillationTrainer, checkpoint: Path | None) -> None:
    if checkpoint is not None and trainer.budget_spent:  # the next step would be one too many
        trainer.finish_from(checkpoint)
        return
    if trainer.budget_spent:
        raise RunError(
            f"the selectors were trained on {trainer.spent_tokens:,.0f} student tokens before, train.token_budget is "
            f"{trainer.config.token_budget:,}: nothing is left for the student"
        )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
