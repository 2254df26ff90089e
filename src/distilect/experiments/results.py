"""What is kept of finished trials: one result each, and the student's predictions on dev, as small as tests allow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from distilect.errors import RunError, why_unwritable
from distilect.files import atomic
from distilect.tasks import RANKING, Task, class_margin, margins, parse_metric

Result = dict[str, Any]  # a run's metrics.json, and its place in the comparison

RESULTS = "results.jsonl"
PREDICTIONS = "predictions"  # folder, one file per trial


class Results:
    """`results.jsonl`: one line per finished trial, on disk before the trial counts as done; several processes may add."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Result]:
        """All readable results in order; a last line that a kill cut short is left out."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_bytes().split(b"\n"):
            try:
                result = json.loads(text)
            except ValueError:
                continue
            if isinstance(result, dict) and "trial" in result:
                found.append(result)
        return found

    def done(self) -> dict[tuple[str, str], Result]:
        """(trial, settings) → result; the last one where there are several."""
        return {(result["trial"], str(result.get("settings"))): result for result in self.read()}

    def add(self, result: Mapping[str, Any]) -> None:
        """Append one result, in one piece.

        Raises:
            RunError: it cannot be written.
        """
        content = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":  # a line that a kill cut short: this one must not be glued to it
                        content = b"\n" + content
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {why_unwritable(error)}") from None


# ---- predictions -----------------------------------------------------------------------------------------------------


def compact_predictions(
    task: Task, logits: NDArray[np.float32], thresholds: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """[N]: all that the primary metric looks at: the predicted class (-1 where an output is NaN), or the score. Of words [U].

    Of a language model 0 where the token that stands there is the likeliest, otherwise 1.

    A ranking metric, such as `auc(spam)`, looks at the margin of its class. Of a multi-label task, [N · C]: the logits less those of
    the thresholds.

    Args:
        logits: [N, C].
        thresholds: of a multi-label student.
    """
    if task.kind == "multi-label":
        return margins(logits.astype(np.float64), thresholds).astype(np.float32).reshape(-1)
    if task.kind == "regression":
        return logits[:, 0]
    if task.kind == "causal-lm":
        return (~(logits[:, 0] >= logits[:, 1])).astype(np.float32)
    metric, of = parse_metric(task.primary)
    if of is not None and metric in RANKING:
        return class_margin(logits.astype(np.float64), task.labels.index(of)).astype(np.float32)
    broken = np.isnan(logits).any(axis=1)
    return np.where(broken, -1, np.nan_to_num(logits).argmax(axis=1)).astype(np.float32)


def expand_predictions(task: Task, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, C]: outputs with the same primary score as those that `compact_predictions` was given."""
    if task.kind == "regression":
        return values[:, None]
    if task.kind == "multi-label":
        return values.reshape(-1, len(task.labels))
    if task.kind == "causal-lm":
        nothing = np.zeros_like(values)
        return np.stack([-values, values - 1, nothing, nothing], axis=1)
    metric, of = parse_metric(task.primary)
    if of is not None and metric in RANKING:
        found = np.zeros((len(values), len(task.labels)), np.float32)
        found[:, task.labels.index(of)] = values
        return found
    found = np.eye(len(task.labels) + 1, dtype=np.float32)[values.astype(np.int64)][:, :-1]
    found[values < 0] = np.nan
    return found


def expand_labels(task: Task, values: NDArray[Any]) -> NDArray[Any]:
    """[N] classes or scores, or [N, C] of a multi-label task: dev labels as they were before they were kept."""
    if task.kind == "regression":
        return values
    labels = values.astype(np.int32 if task.kind == "causal-lm" else np.int64)
    return labels.reshape(-1, len(task.labels)) if task.kind == "multi-label" else labels


def prediction_key(result: Result) -> str:
    """The name of a result's predictions in the files of predictions."""
    return f"{result['trial']} {result['settings']}"


def labels_key(setup: str, dev_fingerprint: str) -> str:
    """The name of a setup's dev labels in the files of predictions."""
    return f"labels {setup} {dev_fingerprint}"


def offsets_key(setup: str, dev_fingerprint: str) -> str:
    """The name of where the words of each dev row begin, beside their labels; tables of words alone have it."""
    return f"offsets {setup} {dev_fingerprint}"


def write_predictions(path: Path, predictions: Mapping[str, NDArray[Any]]) -> None:
    """Name → values, a row each, in one compressed file; whole or not at all."""
    columns = {
        "name": pa.array(list(predictions), pa.string()),
        "values": pa.array([np.asarray(v).tolist() for v in predictions.values()], pa.list_(pa.float64())),
    }
    with atomic(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def read_predictions(paths: Sequence[Path]) -> dict[str, NDArray[np.float64]]:
    """Name → values of one file or several.

    Raises:
        RunError: a file is damaged.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for path in paths:
        try:
            table = pq.read_table(path)
            names, values = table["name"].to_pylist(), table["values"].to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:120]
            raise RunError(
                f"cannot read {path}: {reason}; remove it and the trial's line in {RESULTS} to run it again"
            ) from None
        found |= {name: np.asarray(v, dtype=np.float64) for name, v in zip(names, values, strict=True)}
    return found
