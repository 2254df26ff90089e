"""What `distilect predict` writes for a model that tags words: a tag for each word, and the entities that the tags spell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import softmax

from distilect.data import Sentences
from distilect.tasks import Scheme, Task, spans

_ENTITY = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("type", pa.string()),
        ("text", pa.large_string()),
        ("probability", pa.float32()),
    ]
)


def tag_columns(task: Task, rows: Sentences, outputs: Sequence[NDArray[np.float32]]) -> dict[str, pa.Array]:
    """The new columns of some rows.

    `words` (where the rows are texts), `prediction` and `probability` hold a list with one element per word; null stands for a word
    without visible characters. `entities` holds `start`, `end`, `type`, `text` and `probability` (the mean of its words) of each: characters of
    a text, words of a list, from 0; `end` is the one after the last. Tags that spell no entities, as in part of speech, have none.

    Args:
        outputs: of the student and then of each teacher, [U, C] in the task's order.
    """
    best, shares = outputs[0].argmax(axis=1), softmax(outputs[0], axis=1).max(axis=1)
    found: dict[str, pa.Array] = {}
    if rows.texts is not None:
        words = [word for row in rows.table.words(range(len(rows.table))) for word in row]
        found["words"] = _lists(rows, pa.array(words, pa.large_string()))
    found["prediction"] = _lists(rows, pa.array([task.labels[index] for index in best], pa.string()))
    found["probability"] = _lists(rows, pa.array(shares, pa.float32()))
    if task.scheme is not None:
        found["entities"] = pa.array(_entities(rows, best, shares, task.scheme), pa.list_(_ENTITY))
    if len(outputs) > 1:
        agree = np.mean([theirs.argmax(axis=1) == best for theirs in outputs[1:]], axis=0)
        found["teachers_agree"] = _means(rows, agree)
    return found


def lists_as_json(table: pa.Table) -> pa.Table:
    """For CSV and TSV, which hold no lists."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(values, pa.large_string()))
    return table


def _lists(rows: Sentences, values: pa.Array) -> pa.Array:
    """The values of the table's words, [U], as a list for each row as it was read."""
    starts = np.concatenate([[0], np.cumsum(rows.sizes)])
    index = np.full(int(starts[-1]), -1, dtype=np.int64)
    assert rows.table.units is not None
    index[starts[rows.kept[rows.table.units.owners]] + rows.places] = np.arange(len(values))
    spread = values.take(pa.array(index, mask=index < 0))
    return pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), spread)


def _entities(
    rows: Sentences, classes: NDArray[np.int64], shares: NDArray[np.float32], scheme: Scheme
) -> list[list[dict[str, Any]]]:
    """The entities of each row as it was read."""
    offsets = rows.table.offsets
    assert offsets is not None
    words = rows.table.words(range(len(rows.table)))
    found: list[list[dict[str, Any]]] = [[] for _ in rows.sizes]
    for row, first, after, kind in zip(*(part.tolist() for part in spans(classes, offsets, scheme)), strict=True):
        units, read = slice(offsets[row] + first, offsets[row] + after), int(rows.kept[row])
        if rows.texts is not None and rows.bounds is not None:
            start, end = int(rows.bounds[units][0, 0]), int(rows.bounds[units][-1, 1])
            text = rows.texts[read][start:end]
        else:
            start, end = int(rows.places[units][0]), int(rows.places[units][-1]) + 1
            text = " ".join(words[row][first:after])
        entity = {"start": start, "end": end, "type": scheme.types[kind], "text": text}
        found[read].append(entity | {"probability": float(shares[units].mean())})
    return found


def _means(rows: Sentences, values: NDArray[np.float64]) -> pa.Array:
    """float32, the mean over the words of each row as it was read; null for one without words."""
    means = np.full(len(rows.sizes), np.nan, dtype=np.float32)
    if len(values):
        assert rows.table.units is not None
        means[rows.kept] = np.add.reduceat(values, rows.table.units.offsets[:-1]) / rows.table.units.sizes
    return pa.array(means, mask=np.isnan(means))
