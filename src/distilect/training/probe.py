"""The student as selectors may look at it between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distilect.data import row_keys
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

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [N]: positions by ascending identity; 16 bytes a row that only selectors which look at rows ask for."""
        return np.argsort(self.rows.numpy(), kind="stable")

    @cached_property
    def sorted(self) -> np.ndarray:
        """int64 [N]."""
        return self.rows.numpy()[self.order]

    def positions(self, rows: Tensor) -> np.ndarray:
        """int64 [n]: where the rows stand in the training table."""
        found: np.ndarray = self.order[np.searchsorted(self.sorted, rows.cpu().numpy())]
        return found

    def logits(self, rows: Tensor) -> Tensor:
        """float32 [n, C], on the device of `rows`."""
        return self.run(rows, Passes())[0]

    def run(self, rows: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C], on the device of `rows`."""
        return self.run_positions(self.positions(rows), passes).to(rows.device)

    def run_positions(self, positions: np.ndarray, passes: Passes) -> Tensor:
        """float32 [P, n, C] on rows of the training table, int64 [n]."""
        trainer = self.trainer
        self._count(passes.count * len(positions))
        with self._own_draws() if passes.dropout else nullcontext():
            found = [
                trainer.together.predict(
                    trainer.model, trainer.rows.encoded, positions, self._max_tokens(), trainer.config.precision,
                    passes.dropout, partial(self._draw_batch, number) if passes.dropout else _nothing,
                )
                for number in range(passes.count)
            ]  # fmt: skip
        return torch.from_numpy(np.stack(found))

    def _count(self, rows: int) -> None:
        if self.trainer.together.rank == 0:  # several processes share the passes out
            self.trainer.count("probed_rows", rows)

    def _draw_batch(self, number: int, batch: int) -> None:
        """Dropout masks of one batch of one pass, where several processes share the batches out."""
        torch.manual_seed(self._key(number, batch))

    def _key(self, *more: int) -> int:
        trainer = self.trainer
        key = np.random.SeedSequence([trainer.run_seed % 2**64, trainer.state.global_step, *more])
        return int(key.generate_state(1)[0])

    def _max_tokens(self) -> int:
        """Padded tokens per batch; a processor is a third to a half faster with what stays in its cache."""
        many = 2 * self.trainer.config.max_tokens
        return min(many, 2048) if self.trainer.args.device.type == "cpu" else many

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Dropout masks by (seed, step): the training's own random state is as if nothing had been run."""
        device = self.trainer.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._key())
            yield

    def held_out(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on rows held out of train; the lowest identities, as a file may be sorted by class."""
        trainer = self.trainer
        encoded, labels = trainer.rows.held_out_encoded, trainer.rows.held_out.labels
        rows = np.argsort(row_keys(trainer.rows.held_out.ids), kind="stable")[:limit]
        self._count(len(rows))
        found = trainer.together.predict(
            trainer.model, encoded, rows, 2 * trainer.config.max_tokens, trainer.config.precision
        )
        return torch.from_numpy(found), torch.tensor(labels[rows])


def _nothing(number: int) -> None:
    """Before a batch without draws."""
