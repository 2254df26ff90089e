"""What is learned: a label space or a score, and the metrics that judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilect.errors import ConfigError, DataError, did_you_mean
from distilect.tasks.label_names import same_label_key
from distilect.tasks.metrics import CLASSIFICATION, REGRESSION

Kind = Literal["classification", "regression"]

NO_LABEL = -100  # the class index of a row without a label; regression uses NaN


def has_label(labels: Any) -> Any:
    """Which rows have a label: bool [N] for class indexes (int [N]) or scores (float [N]), of numpy or of torch."""
    floating = labels.dtype.kind == "f" if isinstance(labels, np.ndarray) else labels.is_floating_point()
    return labels == labels if floating else labels != NO_LABEL  # NaN differs from itself


@dataclass(frozen=True)
class Task:
    """A task as data, teachers, student and report see it.

    Args:
        name: used in logs and reports.
        kind: classification, or regression with one output.
        labels: label names in the order of the outputs; () for regression.
        metrics: the first one is the primary; higher is better for all of them.
        num_texts: 1, or 2 for pairs.

    Raises:
        ConfigError: labels or metrics that do not fit the kind of task.

    Example:
        >>> task = Task("demo", "classification", ("no", "yes"), ("accuracy",), 1)
        >>> task.score(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 1]))
        {'accuracy': 1.0}
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    num_texts: int

    def __post_init__(self) -> None:
        _check_labels(self.kind, self.labels)
        _check_metrics(self.metrics, self.kind, len(self.labels))
        if self.num_texts not in (1, 2):
            raise ConfigError(f"a task has one text or two per row, got {self.num_texts}")

    @property
    def num_outputs(self) -> int:
        """Number of classes; 1 for regression."""
        return len(self.labels) or 1

    @property
    def primary(self) -> str:
        """The metric that chooses checkpoints."""
        return self.metrics[0]

    def score(self, logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """The task's metrics on the labelled rows.

        Args:
            logits: [N, C] for classification; [N, 1] or [N] for regression. A row of NaN counts as wrong.
            labels: [N] class indexes, -100 for rows without a label; or scores, NaN for rows without one.

        Raises:
            DataError: no row is labelled, or the shapes do not fit.
        """
        if len(logits) != len(labels):
            raise DataError(f"{len(logits)} predictions for {len(labels)} labels: expected one per row")
        kept = has_label(np.asarray(labels))
        if not kept.any():
            raise DataError(f"no row of {len(labels)} has a label: nothing to score on {self.name}")
        if self.kind == "classification":
            predicted = self._classes(np.asarray(logits)[kept])
            truth = np.asarray(labels)[kept].astype(np.int64)
            return {name: CLASSIFICATION[name](predicted, truth) for name in self.metrics}
        values = np.asarray(logits, dtype=np.float64).reshape(len(labels), -1)[kept]
        if values.shape[1] != 1:
            raise DataError(f"{values.shape[1]} outputs per row: a regression task has 1")
        scores = np.asarray(labels, dtype=np.float64)[kept]
        return {name: REGRESSION[name](values[:, 0], scores) for name in self.metrics}

    def _classes(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """[N, C] → [N] class indexes; -1, which is no class, for a row with NaN."""
        if logits.ndim != 2 or logits.shape[1] != len(self.labels):
            raise DataError(f"logits of shape {logits.shape}: expected [rows, {len(self.labels)}] for {self.name}")
        broken = np.isnan(logits).any(axis=1)
        return np.where(broken, -1, np.where(np.isnan(logits), 0, logits).argmax(axis=1)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML; `from_dict` gives an equal task."""
        return asdict(self) | {"labels": list(self.labels), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """The task that `to_dict` wrote.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(f"a task has the keys {', '.join(sorted(expected))}; got {', '.join(sorted(values))}")
        return cls(**{**values, "labels": tuple(values["labels"]), "metrics": tuple(values["metrics"])})


def default_metrics(kind: Kind, num_labels: int) -> tuple[str, ...]:
    """(accuracy, f1) for two classes, (accuracy, macro_f1) for more, (pearson, spearman) for regression."""
    if kind == "regression":
        return ("pearson", "spearman")
    return ("accuracy", "f1") if num_labels == 2 else ("accuracy", "macro_f1")


def kind_of_metrics(metrics: tuple[str, ...]) -> Kind | None:
    """The kind of task that `metrics` belong to; None where there are none or the first one is unknown."""
    if not metrics:
        return None
    if metrics[0] in REGRESSION:
        return "regression"
    return "classification" if metrics[0] in CLASSIFICATION else None


def _check_metrics(metrics: tuple[str, ...], kind: Kind, num_labels: int) -> None:
    fitting = CLASSIFICATION if kind == "classification" else REGRESSION
    if not metrics:
        raise ConfigError(f"a task has at least one metric: {', '.join(fitting)}")
    for name in metrics:
        if name not in CLASSIFICATION and name not in REGRESSION:
            hint = did_you_mean(name, fitting) or f" Known: {', '.join(fitting)}."
            raise ConfigError(f"unknown metric {name!r}.{hint}")
        if name not in fitting:
            raise ConfigError(f"metric {name!r} does not fit {kind}: use {', '.join(fitting)}")
    if "f1" in metrics and num_labels != 2:
        raise ConfigError(f"metric 'f1' is for two classes, this task has {num_labels}: use 'macro_f1'")


def _check_labels(kind: Kind, labels: tuple[str, ...]) -> None:
    if kind not in ("classification", "regression"):
        raise ConfigError(f"task kind {kind!r}: expected classification or regression")
    if kind == "regression" and labels:
        raise ConfigError(f"a regression task has no label names, got {', '.join(labels)}")
    if kind == "classification" and len(labels) < 2:
        raise ConfigError(f"classification needs two labels or more, got {', '.join(labels) or 'none'}")
    if len({same_label_key(label) for label in labels}) != len(labels):
        raise ConfigError(f"label names must differ in more than kinds of space, got {', '.join(labels)}")
