"""What is written down of each step: running means for the log, the selection record, and the losses that selectors learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilect.selection import Averages, Method, StepView
from distilect.training.recorder import SelectionRecorder
from distilect.training.row_sample import RowSample, example_units
from distilect.training.rows import Batch, TrainingRows
from distilect.training.step import StepResult


class StepRecords:
    """Sums over the steps of one rank; nothing here waits for the device.

    Attributes:
        averages: of the values that are logged.
        recorder: the content of `selection.parquet`.
        sample: the content of `rows.parquet`.
        examples: that of `examples.parquet`, of a language model with several teachers; empty otherwise.
        step_losses: float64 [2, M] of the running step: each kind's loss, summed over the rows that it applies to, and how many
            these are; None unless a selector needs them.
    """

    def __init__(self, rows: TrainingRows, method: Method, teachers: tuple[str, ...]) -> None:
        self.method = method
        self.averages = Averages()
        by_label = rows.task.labels if rows.task.classes else ()
        self.recorder = SelectionRecorder(teachers, method.kinds, by_label)
        self.sample = RowSample(rows.keys.numpy(), teachers, method.kinds)
        several = len(teachers) > 1
        whole = example_units(rows.table, rows.row_keys.numpy()) if several else np.empty(0, np.int64)
        self.examples = RowSample(rows.keys.numpy(), teachers, method.kinds, positions=whole)
        self.asking = torch.tensor([kind.asks_teachers for kind in method.knowledge])  # bool [M]
        needed = any(selector.needs.step_losses for selector in method.selectors.values())
        self.step_losses = torch.zeros(2, len(method.kinds), dtype=torch.float64) if needed else None

    def add(self, batch: Batch, view: StepView, result: StepResult, labelled_share: float = 1.0) -> None:
        """Count one part of a step; `labelled_share` as in `distillation_loss`."""
        self.recorder.add(view.epoch, view.labels, result)
        for sample in (self.sample, self.examples):
            sample.add(view.epoch, batch.units, view.student, result, view.multi_label, view.tokens)
        if self.step_losses is not None:
            self._add_losses(self.step_losses, view, result, labelled_share)
        count = len(batch.units)
        for kind, losses in zip(self.method.kinds, result.losses.T, strict=True):
            self.averages.add(f"train/loss_{kind}", losses.sum(), count)
        for kind, weights in zip(self.method.kinds, result.loss_weights.T, strict=True):
            self.averages.add(f"knowledge/v_{kind}", weights.sum(), count)
        self.averages.add("rows/asked", result.asked.sum(), count)
        if result.teacher_weights.shape[1]:
            for name, weights in zip(self.recorder.teachers, result.teacher_weights.T, strict=True):
                self.averages.add(f"teacher/w_{name}", weights.sum(), result.asked.sum())

    def _add_losses(self, step_losses: Tensor, view: StepView, result: StepResult, labelled_share: float) -> None:
        """Each row's own, not divided by the share of rows that ask or that have a label."""
        asking = self.asking.to(result.losses.device)
        applies = torch.where(asking, result.asked.unsqueeze(1), view.has_label.unsqueeze(1)).double()  # [B, M]
        shares = torch.where(asking, self.method.rows.asked_share, labelled_share)
        losses = shares * result.losses.double()
        self.step_losses = step_losses.to(losses.device) + torch.stack([(losses * applies).sum(0), applies.sum(0)])

    def leave_out(self, batch: Batch, epoch: int) -> None:
        """Count rows of a step that no training pass will see."""
        self.recorder.leave_out(epoch, batch.labels)
        self.sample.leave_out(epoch, batch.units)
        self.examples.leave_out(epoch, batch.units)
        self.averages.add("rows/asked", torch.zeros(()), len(batch.units))

    def take_losses(self) -> Tensor | None:
        """The step's losses, which then start from 0."""
        found = self.step_losses
        if found is not None:
            self.step_losses = torch.zeros_like(found)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": self.averages.state_dict(),
            "recorder": self.recorder.state_dict(),
            "sample": self.sample.state_dict(),
            "examples": self.examples.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
