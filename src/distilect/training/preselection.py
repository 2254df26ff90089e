"""Before a step: passes without gradient over all of its rows, and which of them stay in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.selection import Method, Passes, StepView
from distilect.training.rows import Batch, TrainingRows

# positions → float32 [P, n, C], of their units; positions of this rank → of all ranks
Run = Callable[[NDArray[np.int64], Passes], Tensor]
OfAllRanks = Callable[[NDArray[np.int64]], NDArray[np.int64]]
View = Callable[[Batch, Tensor], StepView]


@dataclass
class Preselection:
    """Passes over all rows of an optimiser step, and the choice among them.

    Both see the whole step at once, of all parts and ranks, so that neither these nor the token budget change a score or a
    choice. Rows of which nothing is chosen cost what the passes cost (nothing, for a selector that needs none); the training pass
    never sees them, unless the selector trains the rest.
    """

    rows: TrainingRows
    method: Method

    def __post_init__(self) -> None:
        needed = [selector.needs.passes for selector in self.method.selectors.values()]
        self.passes = {passes for passes in needed if passes is not None}

    @property
    def needed(self) -> bool:
        """Whether there is anything to do before a step."""
        return bool(self.passes) or self.method.rows.before_step

    def __call__(
        self, batches: Sequence[Batch], run: Run, view: View, of_all_ranks: OfAllRanks | None
    ) -> tuple[list[Batch], Batch | None]:
        """The parts of a step with their passes and choices, cut down to the rows that stay in it; and those that were left out."""
        own = np.concatenate([batch.positions for batch in batches])
        step = self.rows.batch(np.sort(own) if of_all_ranks is None else of_all_ranks(own), inputs=False)
        step = replace(step, passes={passes: run(step.positions, passes) for passes in self.passes})
        if self.method.rows.before_step:
            # there is no training pass yet: whoever looks at its logits shall notice
            nothing = torch.full((len(step.units), self.rows.task.num_outputs), torch.nan)
            step = replace(step, selected=self.method.rows.decide(view(step, nothing)).cpu())
        found = [self._filled(batch, step) for batch in batches]
        if step.selected is None or self.method.rows.trains_rest:
            return found, None
        gone = np.isin(step.positions, own) & ~_any_of_row(step)
        return [self._cut(batch) for batch in found], self.rows.batch(step.positions[gone], inputs=False)

    def _filled(self, batch: Batch, step: Batch) -> Batch:
        """A part with what was found of its rows."""
        index = torch.from_numpy(np.searchsorted(step.units, batch.units))
        passes = {passes: logits[:, index] for passes, logits in step.passes.items()}
        return replace(batch, passes=passes, selected=None if step.selected is None else step.selected[index])

    def _cut(self, batch: Batch) -> Batch:
        """A part without the rows that were not chosen."""
        kept = _any_of_row(batch)
        return batch if kept.all() else self.rows.part(batch, np.flatnonzero(kept))


def _any_of_row(batch: Batch) -> NDArray[np.bool_]:
    """bool [B]: rows of which a unit was chosen; a word that was not is read with its row, and not trained on."""
    assert batch.selected is not None
    chosen = batch.selected.cpu().numpy()
    if batch.of_rows is None:
        return np.asarray(chosen)
    return np.asarray(np.logical_or.reduceat(chosen, batch.of_rows.offsets[:-1])) if len(batch) else np.zeros(0, bool)
