"""Outputs of student and teachers on the rows that a run reports on: `predictions.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilect.data import Table
from distilect.errors import RunError
from distilect.files import atomic
from distilect.tasks import NO_LABEL, Task, has_label
from distilect.training.row_sample import MAX_TEXT, shorten

Logits = NDArray[np.float32]
PREDICTIONS = "predictions.parquet"


def write_predictions(
    path: Path, split: str, table: Table, task: Task, outputs: Mapping[str, Logits], tokenizer: Any = None
) -> None:
    """One line per row of `table`, in its order; of a word table one per word, of one of tokens one per token to be learned.

    Columns: row; id_high, id_low (the row's identity, uint64); text[, text_2] (shortened; of a word table the word); label (int64, float32 in
    regression, or in a multi-label task a list with a 0 or 1 for each label; null without one); and each of `outputs`. Of tokens also
    `before` (what stands between the token and the one before it that was to be learned, such as the prompt) and, for each of `outputs`,
    `says/NAME` (its likeliest token).

    Args:
        split: `dev`, or `validation` where a run has no dev rows; kept in the schema's metadata beside the `labels` (a JSON list)
            and the `kind` of task.
        outputs: of `student` and `teacher/NAME`, [N, C] each: logits in the order of the task's labels, or one score.
        tokenizer: of a language model.
    """
    rows = np.arange(len(table)) if table.units is None else table.units.owners
    columns: dict[str, Any] = {"row": pa.array(rows)}
    columns |= {"id_high": pa.array(table.ids[rows, 0]), "id_low": pa.array(table.ids[rows, 1])}
    if table.units is not None:
        columns["text"] = pa.array([shorten(word) for words in table.words(range(len(table))) for word in words])
    else:
        for name, texts in zip(("text", "text_2"), table.texts, strict=False):
            columns[name] = pa.array([shorten(text, MAX_TEXT) for text in texts.to_pylist()])
    if task.kind == "multi-label":
        known = zip(table.labels.tolist(), table.has_label, strict=True)
        columns["label"] = pa.array([row if has else None for row, has in known], pa.list_(pa.int8()))
    else:
        columns["label"] = pa.array(table.labels, mask=~has_label(table.labels))
    for name, logits in outputs.items():
        flat = pa.array(np.ascontiguousarray(logits, dtype=np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, task.num_outputs)
    if table.tokens is not None:
        assert table.units is not None
        texts = [text for (text,) in table.text(range(len(table)))]
        before = table.tokens.between(texts, table.units, np.arange(len(table)))
        columns["before"] = pa.array([text for row in before for text in row])
        columns |= {f"says/{name}": _said(tokenizer, values[:, -1]) for name, values in outputs.items()}
    metadata = {"split": split, "labels": json.dumps(task.labels), "kind": task.kind}
    with atomic(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary, compression="zstd")


def _said(tokenizer: Any, tokens: Logits) -> pa.Array:
    """The texts of tokens that came as numbers."""
    numbers, place = np.unique(tokens.astype(np.int64), return_inverse=True)
    texts = [tokenizer.decode([number]) if number < len(tokenizer) else "" for number in numbers.tolist()]
    return pa.array([shorten(texts[index], MAX_TEXT) for index in place.reshape(-1).tolist()], pa.string())


def read_predictions(path: Path) -> tuple[NDArray[np.uint64], NDArray[Any], Logits]:
    """(ids uint64 [N, 2], labels as a `Table` has them, the student's outputs float32 [N, C]).

    Raises:
        RunError: no such file, or not one of these.
    """
    try:
        table = pq.read_table(path, columns=["id_high", "id_low", "label", "student"])
        ids = np.stack([table[name].to_numpy() for name in ("id_high", "id_low")], axis=1)
        label = table["label"].combine_chunks()
        outputs = table["student"].combine_chunks()
        values = outputs.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        if pa.types.is_list(label.type):
            nothing = [NO_LABEL] * values.shape[1]
            return ids, np.array([row or nothing for row in label.to_pylist()], np.int8), values
        missing = np.nan if pa.types.is_floating(label.type) else NO_LABEL
        return ids, label.fill_null(missing).to_numpy(zero_copy_only=False), values
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RunError(f"cannot read predictions from {path}: {' '.join(str(error).split())[:120]}") from None
