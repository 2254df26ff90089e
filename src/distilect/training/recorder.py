"""What was selected, by epoch and group of rows: the content of `selection.parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distilect.files import atomic
from distilect.training.step import StepResult


class SelectionRecorder:
    """Sums of selections per (epoch, group); groups are the labels, `(no label)`, and `all`.

    Args:
        teachers: names, in the order of the K axis.
        kinds: names of the kinds of knowledge, in the order of the M axis.
        labels: label names; empty in regression and in multi-label tasks, where only `all` is kept.
    """

    def __init__(self, teachers: tuple[str, ...], kinds: tuple[str, ...], labels: tuple[str, ...]) -> None:
        self.teachers, self.kinds, self.labels = teachers, kinds, labels
        # epoch → [G, 4 + K + M + 4K]: rows, seen, asked, trained, weights; per teacher rows where it is right and its weight there,
        # rows where it is wrong and its weight there
        self.epochs: dict[int, Tensor] = {}

    def add(self, epoch: int, labels: Tensor, result: StepResult) -> None:
        """Count one batch; `labels` as a table has them. Stays on the device: nothing is waited for."""
        teacher_weights, right = result.teacher_weights, result.right
        if teacher_weights.shape[1] != len(self.teachers):  # no row of this batch asked
            teacher_weights = teacher_weights.new_zeros(len(labels), len(self.teachers))
            right = torch.full_like(teacher_weights, torch.nan)
        correct, wrong = (right == 1).to(teacher_weights), (right == 0).to(teacher_weights)
        values = torch.cat(
            [
                torch.ones(len(labels), 2, device=labels.device),
                result.asked.float().unsqueeze(1),
                result.trained.float().unsqueeze(1),
                teacher_weights,
                result.loss_weights,
                correct,
                correct * teacher_weights,
                wrong,
                wrong * teacher_weights,
            ],
            dim=1,
        )
        self._count(epoch, labels, values)

    def leave_out(self, epoch: int, labels: Tensor) -> None:
        """Count rows that left the step before its pass: not seen, so neither asked nor trained on."""
        width = 4 + len(self.kinds) + 5 * len(self.teachers)
        values = torch.zeros(len(labels), width, device=labels.device)
        values[:, 0] = 1
        self._count(epoch, labels, values)

    def _count(self, epoch: int, labels: Tensor, values: Tensor) -> None:
        """Add rows' values, [B, 4 + K + M + 4K], to their groups."""
        if epoch not in self.epochs:
            self.epochs[epoch] = values.new_zeros(len(self.labels) + 1, values.shape[1], dtype=torch.float64)
        sums = self.epochs[epoch] = self.epochs[epoch].to(values.device)  # a resumed one comes from the CPU
        sums.index_add_(0, self._group(labels), values.double())

    def _group(self, labels: Tensor) -> Tensor:
        """int64 [B]: the label's index; the last group holds rows without one (all rows, where there are no groups by label)."""
        if not self.labels:
            return torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
        return torch.where(labels >= 0, labels, torch.full_like(labels, len(self.labels)))

    def table(self) -> pa.Table:
        """One line per epoch and group: rows, shares asked and trained, mean weights (of teachers over rows that asked, of
        knowledge over rows that a pass saw).

        `right/T` is teacher T's mean weight on labelled rows whose label is its best class, `wrong/T` on the others; null
        where there are none.
        """
        lines: list[dict[str, Any]] = []
        for epoch, sums in sorted(self.epochs.items()):
            lines.append(self._line(epoch, "all", sums.sum(0)))
            if self.labels:
                for group, row in zip((*self.labels, "(no label)"), sums, strict=True):
                    if float(row[0]):
                        lines.append(self._line(epoch, group, row))
        table = pa.Table.from_pylist(lines)
        # by name: a column of nulls alone would have a type of its own, and files of several runs would not fit together
        types = {"epoch": pa.int64(), "group": pa.string(), "rows": pa.int64()}
        return table.cast(pa.schema([(name, types.get(name, pa.float64())) for name in table.column_names]))

    def _line(self, epoch: int, group: str, sums: Tensor) -> dict[str, Any]:
        rows, seen, asked, trained, *weights = sums.tolist()
        line: dict[str, Any] = {"epoch": epoch, "group": group, "rows": int(rows)}
        line |= {"asked": asked / rows, "trained": trained / rows}
        count = len(self.teachers)
        line |= {
            f"teacher/{n}": w / asked if asked else 0.0 for n, w in zip(self.teachers, weights[:count], strict=True)
        }
        mixed, correctness = weights[count : count + len(self.kinds)], weights[count + len(self.kinds) :]
        line |= {f"knowledge/{n}": w / seen if seen else 0.0 for n, w in zip(self.kinds, mixed, strict=True)}
        for place, word in enumerate(("right", "wrong")):
            start = 2 * place * count
            for k, name in enumerate(self.teachers):
                seen, weight = correctness[start + k], correctness[start + count + k]
                line[f"{word}/{name}"] = weight / seen if seen else None
        return line

    def write(self, path: Path) -> None:
        with atomic(path) as temporary:
            pq.write_table(self.table(), temporary)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": dict(self.epochs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = {int(epoch): sums for epoch, sums in state["epochs"].items()}
