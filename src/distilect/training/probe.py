"""The student as selectors may look at it between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distilect.data import row_keys
from distilect.evaluation import predict
from distilect.selection import Passes

if TYPE_CHECKING:
    from distilect.training.trainer import DistillationTrainer


class TrainerProbe:
    """`selection.Probe` for a trainer: rows are named by identity; every row that is run is counted.

    Equal texts share an identity, and their logits are the same.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        self.rows = trainer.keys
        keys = trainer.keys.numpy()
        self.order = np.argsort(keys, kind="stable")
        self.sorted = keys[self.order]

    def positions(self, rows: Tensor) -> np.ndarray:
        """int64 [n]: where the rows stand in the training table."""
        return self.order[np.searchsorted(self.sorted, rows.cpu().numpy())]

    def logits(self, rows: Tensor) -> Tensor:
        """float32 [n, C], on the device of `rows`."""
        return self.run(rows, Passes())[0]

    def run(self, rows: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C], on the device of `rows`."""
        return self.run_positions(self.positions(rows), passes).to(rows.device)

    def run_positions(self, positions: np.ndarray, passes: Passes) -> Tensor:
        """float32 [P, n, C] on rows of the training table, int64 [n]."""
        trainer = self.trainer
        trainer.count_probe(trainer.rows.encoded.lengths[positions], passes.count)
        with self._own_draws() if passes.dropout else nullcontext():
            found = [
                predict(
                    trainer.model, trainer.rows.encoded, rows=positions, dropout=passes.dropout,
                    max_tokens=self._max_tokens(), precision=trainer.config.precision,
                )
                for _ in range(passes.count)
            ]  # fmt: skip
        return torch.from_numpy(np.stack(found))

    def _max_tokens(self) -> int:
        """Padded tokens per batch; a processor is a third to a half faster with what stays in its cache."""
        many = 2 * self.trainer.config.max_tokens
        return min(many, 2048) if self.trainer.args.device.type == "cpu" else many

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Dropout masks by (seed, step): the training's own random state is as if nothing had been run."""
        trainer = self.trainer
        device = trainer.args.device
        key = np.random.SeedSequence([trainer.run_seed % 2**64, trainer.state.global_step])
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(key.generate_state(1)[0]))
            yield

    def held_out(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on rows held out of train; the lowest identities, as a file may be sorted by class."""
        trainer = self.trainer
        encoded, labels = trainer.rows.held_out_encoded, trainer.rows.held_out.labels
        rows = np.argsort(row_keys(trainer.rows.held_out.ids), kind="stable")[:limit]
        trainer.count_probe(encoded.lengths[rows])
        found = predict(
            trainer.model, encoded, rows=rows,
            max_tokens=2 * trainer.config.max_tokens, precision=trainer.config.precision,
        )  # fmt: skip
        return torch.from_numpy(found), torch.tensor(labels[rows])
