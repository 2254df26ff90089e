"""Rows that an exported file is compared on, and the comparison. The student in PyTorch, in fp32, is the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.config import RunConfig
from distilect.data import Data, Encoded, Table, load_data, load_table
from distilect.errors import DataError, ExportError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher
from distilect.report.files import mapping
from distilect.tasks import Task, has_label, margins, parse_metric


@dataclass(frozen=True)
class Comparison:
    """A file's outputs against the student's.

    Attributes:
        scores: the task's metrics; empty without labels.
        largest, mean: difference of an output.
        changed: rows (of a tokens task words) with another predicted label, of a multi-label task pairs of row and label; None in
            regression.
    """

    scores: dict[str, float]
    largest: float
    mean: float
    changed: int | None


@dataclass(frozen=True, eq=False)
class Rows:
    """A table for the student, and what it makes of it.

    Args:
        reference: float32 [N, C] (of words [U, C]), the student's outputs in its own order; `order` brings them into the task's.
        thresholds: of a multi-label task.
        labels: as `Table.labels`.
        own_labels: the labels are those that the student predicts.
    """

    task: Task
    table: Table
    encoded: Encoded
    reference: NDArray[np.float32]
    order: list[int]
    thresholds: list[float] | None
    labels: NDArray[Any]
    own_labels: bool = False

    @classmethod
    def of(cls, student: CheckpointTeacher, task: Task, table: Table, *, own_labels: bool = False) -> Rows:
        """Run the student over a table.

        Args:
            own_labels: take the student's labels where the table has none.
        """
        encoded = student.encode(table)
        reference = predict(student.model, encoded, precision="fp32")
        found = cls(task, table, encoded, reference, student.order, student.thresholds, table.labels)
        if own_labels and not has_label(table.labels).any():
            return replace(found, labels=found.answers(reference), own_labels=True)
        return found

    def __len__(self) -> int:
        return len(self.table)

    @property
    def graded(self) -> tuple[int, str]:
        """How many things the primary metric counts, and what they are: labelled rows, words, or entities."""
        if self.task.kind != "tokens":
            return int(has_label(self.labels).sum()), "rows"
        if self.task.of_units is self.task or self.task.scheme is None:
            return int(has_label(self.labels).sum()), "words"
        _, of = parse_metric(self.task.primary)
        perfect = np.eye(len(self.task.labels))[np.maximum(self.labels, 0)]
        return int(self.task.entity_counts(perfect, self.labels, self.table.offsets, of)[:, 2].sum()), "entities"

    def scores(self, logits: NDArray[np.float32]) -> dict[str, float]:
        """The task's metrics of outputs [N, C], of words [U, C]; empty without labels."""
        known = bool(has_label(self.labels).any())
        if not known:
            return {}
        return self.task.score(logits[:, self.order], self.labels, self.thresholds, self.table.offsets)

    def compare(self, logits: NDArray[np.float32]) -> Comparison:
        """Outputs [N, C] of a file against the student's."""
        difference = np.abs(logits - self.reference)
        changed = int((self.answers(logits) != self.answers(self.reference)).sum()) if self.task.labels else None
        return Comparison(self.scores(logits), float(difference.max()), float(difference.mean()), changed)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """What outputs [N, C] predict: class indexes int64 [N], scores float32 [N], or int8 [N, C] of a multi-label task."""
        ordered = logits[:, self.order]
        if self.task.kind == "regression":
            return ordered[:, 0]
        if self.task.kind == "multi-label":
            return (margins(ordered.astype(np.float64), self.thresholds) > 0).astype(np.int8)
        return ordered.argmax(axis=1)


def rows_to_report(config: RunConfig, student: Path, dev: str | None = None) -> Table:
    """The run's dev rows, read again; its validation rows where it has no dev.

    Raises:
        ExportError: the file is not where the config says.
    """
    data = config.data
    try:
        spec = dev or data.dev or data.glue
        if spec is None:
            return load_data(data, config.task, config.seed, Path(config.data_dir), str(student)).validation
        where = Path(".") if dev else Path(config.data_dir)
        dialect: dict[str, Any] = {} if dev else {"delimiter": data.delimiter, "quoting": data.quoting}
        labels: dict[str, Any] = {"label": data.label, "label_delimiter": data.label_delimiter}
        table, _ = load_table(spec, text=data.text, data_dir=where, like=student, **labels, **dialect)
        return table
    except DataError as error:
        raise ExportError(f"the export is checked on the run's dev rows: {error}; or give --dev FILE") from None


def run_data(config: RunConfig, student: Path, metrics: dict[str, Any]) -> Data:
    """The run's train and validation rows, split as in the run.

    Raises:
        ExportError: the table is not where the config says, has changed since, or the run held no rows out.
    """
    remedy = "bring the table back, or export with --onnx alone"
    spec = config.data.model_copy(update={"dev": None})  # dev takes no part; it may have been moved
    try:
        data = load_data(spec, config.task, config.seed, Path(config.data_dir), str(student))
    except DataError as error:
        raise ExportError(f"8-bit files are judged on the run's validation rows: {error}; {remedy}") from None
    found = {"train": len(data.train), "validation": len(data.validation)}
    known = {role: mapping(metrics.get("rows")).get(role) for role in found}
    if None not in known.values() and found != known:
        now, then = (f"{rows['train']:,} and {rows['validation']:,}" for rows in (found, known))
        raise ExportError(
            f"the run's table has changed: it gives {now} rows of train and validation, in the run it gave {then}: {remedy}"
        )
    if not found["validation"]:
        raise ExportError(
            "the run has no validation rows to judge 8-bit files on (data.validation_size: 0): export with --onnx alone"
        )
    return data
