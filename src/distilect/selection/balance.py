"""Factors that bring the kinds of knowledge to one size, so that a weight means the same for each.

Raw losses differ by orders of magnitude: an MSE of hidden states is a hundredth of a cross-entropy. Whether a weight of 1 is
much or little would be an accident of units.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from distilect.selection.draws import draw_rows
from distilect.selection.view import Probe

BalanceMode = Literal["labels", "unit", "none"]

ROWS = 64  # of train, for the sizes that the first step starts from
_SMOOTHING = 0.95  # share of the old mean that a step keeps
_FLOOR = 0.01  # a loss that has nearly vanished is not blown up without end


class Balance:
    """f_m = mean(l_ref) / mean(l_m), with means that run over the optimiser steps (reconstruction: PAPERS.md 2.2).

    Args:
        mode: `labels`: the reference is the label loss, whose factor is always 1 (without label knowledge: the first kind);
            `unit`: every kind is brought to size 1 (f_m = 1 / mean(l_m)); `none`: all factors are 1.
        kinds: names of the knowledge, in the order of the M axis.

    A mean runs over the rows that a kind applies to: labelled rows for labels, rows that asked for the others. It never counts
    less than a hundredth of what it was at first. With Adam only the proportions of the factors matter in the end; `labels` keeps
    (1, 0, 0, 0) what it is called: fine-tuning.
    """

    def __init__(self, mode: BalanceMode, kinds: tuple[str, ...]) -> None:
        self.mode, self.kinds = mode, kinds
        self.reset()

    @property
    def on(self) -> bool:
        return self.mode != "none"

    def reset(self) -> None:
        """Forget all sizes: another training begins."""
        self.first: Tensor | None = None  # [M], NaN until a kind has spoken
        self.means: Tensor | None = None

    def begin(self, probe: Probe, seed: int) -> None:
        """Measure the sizes before the first step, by a forward pass over a few rows; nothing is done where they are known."""
        if self.on and self.means is None:
            self.start(probe.look(draw_rows(probe.keys, ROWS, seed, 0, "look")).losses)

    def start(self, losses: Tensor) -> None:
        """Float [M]: what the means start from."""
        self.first = losses.double().cpu()
        self.means = self.first.clone()

    def add(self, step_losses: tuple[Tensor, Tensor] | None) -> None:
        """Update the means by an optimiser step (`Probe.step_losses`); a kind that applied to no row keeps its mean."""
        if not self.on or step_losses is None:
            return
        sums, counts = (value.cpu() for value in step_losses)
        if self.means is None or self.first is None:
            self.start(torch.full_like(sums, torch.nan))
        assert self.means is not None and self.first is not None
        spoke = counts > 0
        step = sums / counts.clamp_min(1)
        new = spoke & self.means.isnan()
        self.first = torch.where(new & self.first.isnan(), step, self.first)
        kept = _SMOOTHING * self.means + (1 - _SMOOTHING) * step
        self.means = torch.where(spoke, torch.where(new, step, kept), self.means)

    def factors(self) -> Tensor:
        """Float32 [M]; 1 for a kind whose size is not known yet."""
        if not self.on or self.means is None or self.first is None:
            return torch.ones(len(self.kinds))
        sizes = torch.maximum(self.means, _FLOOR * self.first).clamp_min(1e-12)
        reference = torch.ones((), dtype=torch.float64)
        if self.mode == "labels":
            reference = sizes[self.kinds.index("labels") if "labels" in self.kinds else 0]
        return (reference / sizes).nan_to_num(1.0).float()

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.means = state["first"], state["means"]
