"""The student as selectors may look at it between steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distilect.evaluation import predict

if TYPE_CHECKING:
    from distilect.training.trainer import DistillationTrainer


class TrainerProbe:
    """`selection.Probe` for a trainer: rows are named by identity; every row that is run is counted.

    Equal texts share an identity, and their logits are the same.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        keys = trainer.keys.numpy()
        self.order = np.argsort(keys, kind="stable")
        self.sorted = keys[self.order]

    def positions(self, rows: Tensor) -> np.ndarray:
        """int64 [n]: where the rows stand in the training table."""
        return self.order[np.searchsorted(self.sorted, rows.cpu().numpy())]

    def logits(self, rows: Tensor) -> Tensor:
        """float32 [n, C], on the device of `rows`."""
        trainer = self.trainer
        trainer.count("probed_rows", len(rows))
        found = predict(
            trainer.model, trainer.rows.encoded, rows=self.positions(rows),
            max_tokens=2 * trainer.config.max_tokens, precision=trainer.config.precision,
        )  # fmt: skip
        return torch.from_numpy(found).to(rows.device)

    def held_out(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on the first rows held out of train."""
        trainer = self.trainer
        encoded, labels = trainer.rows.held_out_encoded, trainer.rows.held_out.labels
        rows = np.arange(len(labels))[:limit]
        trainer.count("probed_rows", len(rows))
        found = predict(
            trainer.model, encoded, rows=rows,
            max_tokens=2 * trainer.config.max_tokens, precision=trainer.config.precision,
        )  # fmt: skip
        return torch.from_numpy(found), torch.tensor(labels[rows])
