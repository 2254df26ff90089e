"""The three questions of adaptive distillation, a class each: which rows, which teachers, which loss weights.

A selector answers in `decide`, from a frozen view of the step, and may learn from what became of it in `learn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from distilect.config import Part
from distilect.data import Window
from distilect.options import parse_options
from distilect.selection.buffers import Buffer
from distilect.selection.view import CreditRows, Encoder, Passes, Probe, SelectionContext, StepView


@dataclass(frozen=True)
class Needs:
    """What a selector's view and probe have to hold besides labels and logits. Each costs something.

    Attributes:
        pooled: the student's last layer, in the view.
        teacher_cls: the teachers' last layer, in `Probe.look`; their signals are scored for it.
        step_losses: `Probe.step_losses`.
        encoder: row vectors of a frozen encoder, in the view.
        passes: logits without gradient, in the view.
        labels: of some training rows; without any the selector would learn nothing.
        features: what the student's output layer reads, in the view and on the credit rows.
        credit: labelled rows on which the effect of a step is measured: those of train, or half of the validation split, which then does
            not choose the checkpoint.
    """

    pooled: bool = False
    teacher_cls: bool = False
    step_losses: bool = False
    encoder: Encoder | None = None
    passes: Passes | None = None
    labels: bool = False
    features: bool = False
    credit: CreditRows | None = None


class Selector:
    """Common part of all selectors.

    `decide` is called for each part of a batch. A selector that learns measures its reward in `learn`, overrides `state_dict` and
    `load_state_dict`, keeps its own optimiser, and reports its health (policy entropy, critic loss, …).

    Attributes:
        name: in configs.
        needs: what its view and probe have to hold; fixed once `setup` is over.
    """

    name: ClassVar[str]
    needs: Needs = Needs()

    class Options(Part):
        """What a config may set; a subclass declares its own, each with a description."""

    options: Part  # of the class's own `Options`

    def __init__(self, **options: Any) -> None:
        self.options = parse_options(self.Options, options)

    def setup(self, context: SelectionContext) -> None:
        """Called once, before the first step.

        Raises:
            ValueError: the method does not apply to these teachers, kinds of knowledge or rows.
        """

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        """Called before the first step of an epoch (int, from 0), and again when a run is resumed within it."""

    def decide(self, view: StepView) -> Tensor:
        """See `RowSelector`, `TeacherSelector` and `LossWeights`."""
        raise NotImplementedError

    def learn(self, probe: Probe) -> None:
        """Called after each optimiser step, with the student as the step left it: measure the reward, and learn from it."""

    def buffers(self) -> list[Buffer[Any]]:
        """Return every buffer that `decide` fills. Buffers that are not returned are not synchronised, and the selector then
        diverges across ranks."""
        return []

    def health(self) -> dict[str, float]:
        """Values to log, with their full names (`policy/entropy`); reading them resets their averages."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nested mappings of tensors and plain values; what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class RowSelector(Selector):
    """Which rows ask the teachers, or are trained on at all? `decide` returns bool [B].

    Attributes:
        trains_rest: rows that are not chosen learn from their labels; else they leave the step.
        before_step: `decide` is called once per optimiser step, before the training pass, for all of its rows at once (of all parts
            and ranks); their logits are NaN. Else it is called for each part, with the training pass.
        compares: it compares the rows of a part with each other; with several ranks it is asked about those of all of them.
        asked_share: of a selector that trains the rest: the share of rows that ask, of those that `decide` was last asked about, or
            on average where each row is drawn by itself. The loss on teacher outputs is divided by it, so that it is a mean over
            the rows that ask.
    """

    trains_rest: bool = True
    before_step: bool = False
    compares: bool = False
    asked_share: float = 1.0


class PlannedRows(RowSelector):
    """A row selector that plans an epoch, or a window of steps, ahead. Rows that are not planned are never loaded or run.

    Attributes:
        window: the optimiser steps that are planned at once; None: an epoch.
    """

    trains_rest = False
    window: int | None = None

    def planned(self, num_rows: int) -> int:
        """How many rows every epoch will have."""
        raise NotImplementedError

    def plan(self, keys: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        """Positions of the rows of an epoch, int64 [planned], or of one of its windows, int64 [window.rows].

        Args:
            keys: int64 [N], all rows' identities.
            window: given where the selector's `window` is; asked for once it begins, and again when a run is resumed within it.
        """
        raise NotImplementedError


class TeacherSelector(Selector):
    """Which teachers, with which weights? `decide` returns float32 [B, K], each row sums to 1.

    Attributes:
        narrows: it keeps some teachers only: it is then set up once before the teachers are scored, to know which.
        kept: after `setup`, the only teachers that will ever get weight; None: any may. The others are not asked.
    """

    narrows: bool = False
    kept: list[int] | None = None


class LossWeights(Selector):
    """How much does each kind of knowledge weigh? `decide` returns float32 [M] or [B, M], in the order of the kinds."""


@dataclass(frozen=True)
class Episodes:
    """Trainings of throw-away students before the real one, from which a selector learns.

    Attributes:
        count: how many.
        share: of the rows of train that each of them is trained on, drawn anew.
        least_steps: an episode has more rows than that where it would have fewer optimiser steps.
    """

    count: int
    share: float
    least_steps: int = 1


class EpisodicSelector(Selector):
    """A selector that learns in episodes before the run (`training/episodes.py`), and keeps what it has learned for other runs.

    Attributes:
        episodes: None where it does not learn in episodes, or not any more.
        journal: of the running episode, a line per decision.
        spent_tokens: student tokens, forward and backward, of the episodes; part of the run's cost and of its token budget.
    """

    episodes: Episodes | None = None
    journal: list[dict[str, Any]]
    spent_tokens: float = 0.0

    def begin_episode(self, number: int) -> None:
        """Called before each throw-away training, from 0; whatever belongs to the one before is forgotten."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Called when the episodes are over: from now on the selector decides and does not learn."""
        raise NotImplementedError

    def origin(self) -> dict[str, Any]:
        """Where it was learned, for `metrics.json`."""
        raise NotImplementedError

    def save(self, folder: Path, about: Mapping[str, Any]) -> str:
        """Keep what was learned in the episodes, with `about` (plain values) beside it; returns its fingerprint."""
        raise NotImplementedError

    def adopt(self, folder: Path) -> None:
        """Go on as after `freeze`, with what `save` kept."""
        raise NotImplementedError
