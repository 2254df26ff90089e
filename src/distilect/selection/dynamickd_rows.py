"""Choices of rows by uncertainty that save time: rows that are not chosen are not trained on, or not even loaded (ours).

What an epoch costs, in training epochs over all rows (r: the ratio; c: a pass without gradient, about 1/3 of a step's operations;
teachers apart, which are asked on a share of r only):

- `uncertainty`, as published: 1. The other rows learn from their labels.
- `uncertainty-skip`: c + r, in steps as many but smaller.
- `uncertainty-plan`: c + r, in whole batches, by scores that are as old as the plan.
- `uncertainty-rounds`: r, and c in each of the first epochs. Over all epochs no more than a share of r of the rows asks.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distilect.data import Window
from distilect.options import Count
from distilect.selection.base import Needs, PlannedRows
from distilect.selection.buffers import Averages
from distilect.selection.draws import row_uniform
from distilect.selection.dynamickd import DROPOUT_PASSES, UncertainRows, by_row, ranked, score_of, uncertainty
from distilect.selection.view import Passes, Probe, SelectionContext, StepView


def scoring_passes(score: str) -> Passes:
    """A pass that is made for a score may as well be without dropout, unless dropout is what it measures."""
    return DROPOUT_PASSES if score == "spread" else Passes()


class UncertainRowsSkip(UncertainRows):
    """The student is trained on the most uncertain rows of each step, which also ask the teachers; the others leave it.

    All rows of a step are scored without gradient first. The loss is a mean over the rows that stay.
    """

    name = "uncertainty-skip"
    trains_rest = False

    def setup(self, context: SelectionContext) -> None:
        super().setup(context)
        self.before_step, self.compares = True, False
        free = self.score == "random" or self.options.ratio == 1
        self.needs = Needs(passes=None if free else scoring_passes(self.score))


class ScoredPlan(PlannedRows):
    """What plans by uncertainty share: a pass without gradient over the rows that they choose from; a row of words or tokens has their mean,
    or their maximum."""

    options: UncertainRows.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.averages = Averages()
        self.probe: Probe | None = None  # of this epoch

    def setup(self, context: SelectionContext) -> None:
        self.score = score_of(self.options.score, context.regression, context.tokens)
        self.multi_label, self.tokens = context.multi_label, context.tokens

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.probe = probe

    def decide(self, view: StepView) -> Tensor:
        return torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)

    def planned(self, num_rows: int) -> int:
        return max(1, round(self.options.ratio * num_rows))

    def run(self, keys: Tensor) -> Tensor:
        """float32 [n], on the CPU: scores by the student at this moment."""
        assert self.probe is not None, "plan was called before begin_epoch: there is no student to score rows with"
        different, place = torch.unique(keys, return_inverse=True)
        logits, row = self.probe.run_rows(different, scoring_passes(self.score))
        of_units = uncertainty(self.score, logits, self.multi_label, self.tokens)
        u = by_row(self.options.whole_rows or "mean", of_units, row)
        scores = -u[place] if self.options.reverse else u[place]
        self.averages.add("uncertainty/score", scores.sum(), len(keys))
        return scores

    def health(self) -> dict[str, float]:
        """uncertainty/score: the mean score of the rows that plans chose from (with `reverse` negative)."""
        return self.averages.pop()


class UncertainRowsPlan(ScoredPlan):
    """The most uncertain rows are planned for an epoch, or for a few steps; the others are never loaded.

    Rows are scored when they are planned, each of them once per epoch.
    """

    name = "uncertainty-plan"

    class Options(UncertainRows.Options):
        """Of `rows: {name: uncertainty-plan, …}`."""

        refresh: Count | Literal["epoch"] = Field(
            "epoch", description="epoch, or the number of optimiser steps after which the next rows are planned"
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.window = None if self.options.refresh == "epoch" else self.options.refresh
        self.scored_at: tuple[int, int] | None = None  # epoch and window of `window_scores`
        self.window_scores = torch.empty(0)  # a run that is resumed within a window plans it again: by the same scores

    def plan(self, keys: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        rows, planned = torch.from_numpy(keys), self.planned(len(keys))
        window = window or Window(0, 1, planned)
        pool = rows_of_window(rows, epoch, seed, window, planned)
        scores = self.scores(rows[pool], epoch, seed, window)
        best = ranked(rows[pool], scores, seed, epoch)[: window.rows]
        return np.sort(pool[best].numpy())

    def scores(self, keys: Tensor, epoch: int, seed: int, window: Window) -> Tensor:
        """float32 [n] of the rows of a window's pool, on the CPU: the highest ones are chosen."""
        if self.score == "random" or window.rows == len(keys):
            return row_uniform(keys, seed, epoch * window.of + window.number, "rows").float()
        if self.scored_at != (epoch, window.number):
            self.scored_at, self.window_scores = (epoch, window.number), self.run(keys)
        return self.window_scores

    def state_dict(self) -> dict[str, Any]:
        scored_at = None if self.scored_at is None else list(self.scored_at)
        return {"scored_at": scored_at, "scores": self.window_scores, "averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        at = state["scored_at"]
        self.scored_at = None if at is None else (int(at[0]), int(at[1]))
        self.window_scores = state["scores"]
        self.averages.load_state_dict(state["averages"])


class UncertainRowsRounds(ScoredPlan):
    """A share of the rows asks, however many epochs there are: for teachers that cost something per answer.

    The rows of the first epoch are drawn, as an untrained student's uncertainty says nothing. Each of the next ones adds those that the
    student is least sure of by then. An epoch is trained on all rows chosen so far, repeated until there are ratio · N.
    """

    name = "uncertainty-rounds"

    class Options(UncertainRows.Options):
        """Of `rows: {name: uncertainty-rounds, …}`."""

        rounds: Count = Field(4, description="the first so many epochs begin with a choice of rows, each of as many")

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.chosen = torch.empty(0, dtype=torch.int64)  # identities of rows, in the order in which they were chosen

    def plan(self, keys: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        rows, planned = torch.from_numpy(keys), self.planned(len(keys))
        for number in range(min(epoch + 1, self.options.rounds)):  # a run may begin with a later epoch
            self.choose(rows, max(1, planned * (number + 1) // self.options.rounds), seed, number)
        order = np.argsort(keys, kind="stable")
        places = order[np.searchsorted(keys, self.chosen.numpy(), sorter=order)]
        copies, rest = divmod(planned, len(places))
        drawn = ranked(self.chosen, torch.zeros(len(places)), seed, epoch)[:rest].numpy()
        return np.sort(np.concatenate([np.tile(places, copies), places[drawn]]))

    def choose(self, rows: Tensor, count: int, seed: int, number: int) -> None:
        """Choose rows (int64 [N], identities) until there are `count`; nothing where there are already, as in a run that is resumed."""
        if len(self.chosen) >= count:
            return
        pool = torch.unique(rows)  # an equal text costs nothing more, and teaches nothing
        pool = pool[~torch.isin(pool, self.chosen)]
        if number == 0 or self.score == "random":
            scores = row_uniform(pool, seed, number, "rows").float()
        else:
            scores = self.run(pool)
        best = ranked(pool, scores, seed, number)[: count - len(self.chosen)]
        self.chosen = torch.cat([self.chosen, pool[best]])

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen = state["chosen"]
        self.averages.load_state_dict(state["averages"])


def rows_of_window(keys: Tensor, epoch: int, seed: int, window: Window, planned: int) -> Tensor:
    """int64 [n], positions: the rows that a window chooses from.

    The windows of an epoch share all rows, in an order drawn for the epoch and in proportion to what they choose.

    Args:
        planned: how many rows all windows of the epoch choose together.
    """
    order = torch.argsort(row_uniform(keys, seed, epoch, "plan"), stable=True)
    last = window.number == window.of - 1
    before = planned - window.rows if last else window.number * window.rows
    start, end = (n * len(keys) // planned for n in (before, before + window.rows))
    return order[start:end]
