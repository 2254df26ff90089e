"""The rows that a model is trained on, and the batch that travels through a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from distilect.data import Encoded, Table, Units, row_keys
from distilect.selection import Passes
from distilect.tasks import Task


@dataclass(frozen=True)
class Batch:
    """Some rows of train on their way through one step.

    Attributes:
        positions: int64 [B] on the CPU, where the rows stand in the training table.
        units: int64 [U] on the CPU, where their units stand in its labels: the rows themselves, or their words (U = B below but
            for word tables).
        of_rows: the units of each row; None: a row is one.
        lengths: int [B] on the CPU, tokens per row.
        keys: int64 [U], identities of the units.
        labels: int64 [U], -100 where a unit has none; float32 with NaN in regression; int8 [B, C] in a multi-label task.
        inputs: of the student, each [B, T].
        passes: logits without gradient, float32 [P, U, C], by the passes that selectors need.
        selected: bool [U], units that were chosen before the step; None: the row selector decides in the step.
        idle: a single row of weight 0, so that this rank runs as many parts as the others. No selector or record sees it.
    """

    positions: NDArray[np.int64]
    units: NDArray[np.int64]
    of_rows: Units | None
    lengths: NDArray[np.integer]
    keys: Tensor
    labels: Tensor
    inputs: Mapping[str, Tensor]
    passes: Mapping[Passes, Tensor] = field(default_factory=dict)
    selected: Tensor | None = None
    idle: bool = False

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def trained(self) -> NDArray[np.int64]:
        """The units that the step will train on, places in the table's labels, as far as was chosen before it."""
        return self.units if self.selected is None else self.units[self.selected.cpu().numpy()]

    @property
    def tokens(self) -> int:
        """Without padding."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on another device; what is looked up on the CPU stays there."""
        return replace(
            self,
            keys=self.keys.to(device),
            labels=self.labels.to(device),
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            passes={passes: logits.to(device) for passes, logits in self.passes.items()},
            selected=None if self.selected is None else self.selected.to(device),
        )


class Positions(Dataset[int]):
    """The dataset that the data loader sees: row i is the number i, which `TrainingRows.batch` looks up."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return int(index)


def position_of(table: Table, units: NDArray[np.int64]) -> Tensor | None:
    """`StepView.position` of some units (int64 [u]) of a table."""
    if table.tokens is None or table.units is None:
        return None
    return torch.from_numpy(table.units.progress(units))


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model is trained on, with everything that a step needs of them.

    Attributes:
        table: train rows followed by unlabelled extra rows.
        encoded: the same rows, tokenised for the student.
        validation, validation_encoded: the validation split; scores on it choose the checkpoint.
        task: what is learned.
        cls_token_id: of the student's tokenizer; None where it has no classification token.
        credit, credit_encoded: rows that were set apart from the validation split for selectors; None: there are none.
    """

    table: Table
    encoded: Encoded
    validation: Table
    validation_encoded: Encoded
    task: Task
    cls_token_id: int | None = None
    credit: Table | None = None
    credit_encoded: Encoded | None = None

    def __len__(self) -> int:
        return len(self.table)

    def report(self, who: str) -> list[str]:
        """Lines for the user: rows that are cut, text that the tokenizer does not know."""
        return [*self.encoded.report(who, "training"), *self.validation_encoded.report(who, "validation")]

    def take(self, positions: NDArray[np.int64]) -> TrainingRows:
        """Training on some of the rows only, int64 [n]; the same validation split."""
        return replace(self, table=self.table.take(positions), encoded=self.encoded.take(positions))

    @cached_property
    def keys(self) -> Tensor:
        """int64 [U], identities of units; a copy, as tables are read-only; of a table larger than memory its mapped file."""
        if self.table.folder is None or self.table.units is not None:
            return torch.from_numpy(self.table.unit_keys())
        return torch.from_numpy(self.table.ids.view(np.int64)[:, 0])

    @cached_property
    def row_keys(self) -> Tensor:
        """int64 [N], identities of rows: `keys` but for word tables."""
        if self.table.units is None:
            return self.keys
        mapped = self.table.folder is not None
        return torch.from_numpy(self.table.ids.view(np.int64)[:, 0] if mapped else row_keys(self.table.ids))

    @cached_property
    def labels(self) -> Tensor:
        """[U]; a copy or a mapped file, as `keys`."""
        return torch.tensor(self.table.labels) if self.table.folder is None else torch.from_numpy(self.table.labels)

    def batch(self, positions: NDArray[np.int64] | list[int], *, inputs: bool = True) -> Batch:
        """The rows at these positions, padded to the longest of them; `inputs`: with what the student reads."""
        positions = np.asarray(positions, dtype=np.int64)
        units, words = self.table.unit_index(positions), self.table.units
        index = torch.from_numpy(units)
        return Batch(
            positions=positions,
            units=units,
            of_rows=None if words is None else words.take(positions),
            lengths=self.encoded.lengths[positions],
            keys=self.keys[index],
            labels=self.labels[index],
            inputs=self.encoded.collate(positions) if inputs else {},
        )

    def part(self, batch: Batch, index: NDArray[np.int64]) -> Batch:
        """Some rows of a batch, int64 [b], padded anew."""
        rows = torch.from_numpy(index if batch.of_rows is None else batch.of_rows.of(index))
        return replace(
            self.batch(batch.positions[index]),
            passes={passes: logits[:, rows] for passes, logits in batch.passes.items()},
            selected=None if batch.selected is None else batch.selected[rows],
        )

    def idle_batch(self) -> Batch:
        """The shortest row, with weight 0."""
        return replace(self.batch([int(np.argmin(self.encoded.lengths))]), idle=True)
