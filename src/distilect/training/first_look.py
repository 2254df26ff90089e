"""Before a step: what selectors want to know of its rows first, and which of them stay in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distilect.selection import Passes

if TYPE_CHECKING:
    from distilect.training.trainer import DistillationTrainer


class FirstLook:
    """Passes without gradient over all rows of an optimiser step, and the choice among them.

    Both see the whole step at once, of all processes, so that neither they nor accumulation nor the token budget change a score
    or a choice. Rows that are
    not chosen cost what the passes cost (nothing, for a selector that needs none); the training pass never sees them, unless the
    selector trains the rest.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        selectors = trainer.method.selectors.values()
        self.wanted = {s.passes for s in selectors if s.passes is not None}
        self.chooses, self.keeps_rest = trainer.method.rows.chooses_first, trainer.method.rows.trains_rest
        self.positions = np.empty(0, np.int64)  # of the step's rows, ascending
        self.said: dict[Passes, Tensor] = {}  # [P, rows of the step, C]
        self.own_chosen = 0
        self.chosen: np.ndarray | None = None  # positions, ascending; None: every row asks its selector in the step

    def __call__(self, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The parts of a step, cut down to the rows that stay in it."""
        if not batches or not (self.wanted or self.chooses):
            return batches
        own = np.concatenate([batch["rows"].numpy() for batch in batches])
        self.positions = self.trainer.together.positions(own)
        probe = self.trainer.probe
        self.said = {passes: probe.run_positions(self.positions, passes) for passes in self.wanted}
        if not self.chooses:
            return batches
        view = self.trainer.view_of(torch.from_numpy(self.positions), self._nothing())
        mask = self.trainer.method.rows.select(view).cpu().numpy()
        self.chosen = self.positions[mask]
        self.own_chosen = int(np.isin(own, self.chosen).sum())
        if self.keeps_rest:
            return batches
        left = torch.from_numpy(~mask & np.isin(self.positions, own))
        self.trainer.note_left_out(view, left, torch.from_numpy(self.positions))
        return self._cut(batches)

    def passes(self, positions: Tensor, device: torch.device) -> dict[Passes, Tensor]:
        """What was said on some rows of the step, [P, b, C]; `positions` int64 [b]."""
        index = torch.from_numpy(np.searchsorted(self.positions, positions.numpy()))
        return {passes: said[:, index].to(device) for passes, said in self.said.items()}

    def selected(self, positions: Tensor, device: torch.device) -> Tensor | None:
        """bool [b]: which rows of a part were chosen; None where nothing was chosen before the step."""
        if self.chosen is None:
            return None
        return torch.from_numpy(np.isin(positions.numpy(), self.chosen)).to(device)

    def trained_rows(self, batches: list[dict[str, Tensor]]) -> int:
        """How many of this process' rows the step's loss is a mean over."""
        if self.chosen is None or self.keeps_rest:
            return sum(len(batch["rows"]) for batch in batches)
        return self.own_chosen

    def _nothing(self) -> Tensor:
        """There is no training pass yet: whoever looks at its outputs shall notice."""
        return torch.full((len(self.positions), self.trainer.rows.task.num_outputs), torch.nan)

    def _cut(self, batches: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
        """The parts without the rows that were not chosen; empty ones come first."""
        assert self.chosen is not None
        kept = self.chosen
        if len(kept) == len(self.positions):
            return batches
        parts = [rows[np.isin(rows, kept)] for rows in (batch["rows"].numpy() for batch in batches)]
        parts.sort(key=lambda rows: len(rows) > 0)  # ranks wait for each other in the last part: it must have rows
        return [self.trainer.collate(rows.tolist()) for rows in parts]
