"""`budget: 30min`: a run plans its stages for the time that it has, and keeps to it.

Each stage is planned when it begins: its share of the time that is left then, over what an epoch costs as measured by a few of its steps. What
the teachers, earlier stages or another program have taken is accounted for in that way. The plan is written down first, so that a run that was
stopped goes on with it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distilect import ranks
from distilect.config import TrainConfig, seconds_of
from distilect.errors import RunError
from distilect.files import atomic_write
from distilect.pipeline.pace import Pace
from distilect.progress import console
from distilect.report.words import duration

PLAN = "plan.json"  # the epochs of a stage, while it is trained
MOST_EPOCHS = 100  # what small tasks are trained for in CoFi (Xia et al., 2022)
_KEPT = 0.9  # share of the time that is planned: checkpoints are written, and a machine is not always equally fast
_END = 10.0  # seconds for report and files
_EVALUATED = 256  # rows that the pace of a pass without gradient is measured on


@dataclass(frozen=True)
class Deadline:
    """When a run has to be done.

    Attributes:
        end: of `time.perf_counter`.
        students: that are still to be trained; they share the time that is left.
    """

    end: float
    students: int = 1

    @classmethod
    def of(cls, budget: str, started: float) -> Deadline:
        """`started`: of the run, by `time.perf_counter`."""
        return cls(started + seconds_of(budget))

    def left(self) -> float:
        """Seconds for the student that comes now."""
        return (self.end - time.perf_counter()) / self.students


def plan_epochs(
    deadline: Deadline,
    share: float,
    pace_of: Callable[[int], Pace],
    train: TrainConfig,
    folder: Path,
    held: int,
    reported: int,
) -> TrainConfig:
    """The stage's settings with as many epochs as its time allows; the plan that was made before, where it was stopped.

    Args:
        share: of the time that is left.
        pace_of: measures what the stage's steps cost; its argument is the number of rows to evaluate on.
        held, reported: rows of the validation split, and of dev, which the student is run on in the end.

    Raises:
        RunError: there is not enough time for a single step.
    """
    file = folder / PLAN
    if not ranks.from_main(int(file.exists())):
        pace = pace_of(_EVALUATED)
        seconds = share * _KEPT * (deadline.left() - _END - reported * pace.evaluation)
        epochs = epochs_for(seconds, pace, train, held)
        if ranks.is_main():
            atomic_write(file, json.dumps({"epochs": epochs}))
        cost = epochs * (epoch_seconds(pace, train, held))
        console.print(f"planned: {epochs:g} epochs, {duration(cost)} at {1 / pace.token:,.0f} tokens/s")
        ranks.barrier()
    epochs = float(json.loads(file.read_text(encoding="utf-8"))["epochs"])
    return train.model_copy(update={"epochs": epochs, "token_budget": None})


def epoch_seconds(pace: Pace, train: TrainConfig, held: int) -> float:
    """One epoch with its evaluations on so many validation rows, and a checkpoint after each."""
    return pace.epoch_tokens * pace.token + train.evaluations * (held * pace.evaluation + pace.checkpoint)


def epochs_for(seconds: float, pace: Pace, train: TrainConfig, held: int) -> float:
    """How many epochs fit into so many seconds: whole ones from 3 on, else tenths; at most `MOST_EPOCHS`.

    Raises:
        RunError: not a tenth of one.
    """
    found = min(seconds / epoch_seconds(pace, train, held), float(MOST_EPOCHS))
    epochs = math.floor(found) if found >= 3 else math.floor(10 * found) / 10
    if epochs <= 0:
        raise RunError(
            f"budget: {max(seconds, 0):.0f} s are left for a stage whose epochs take {epoch_seconds(pace, train, held):.0f} s: give it more time, or fewer rows"
        )
    return float(epochs)
