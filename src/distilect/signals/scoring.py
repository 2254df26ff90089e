"""Running teachers over rows: once for the store, or now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Encoded, Table, encode, scoring_batches
from distilect.errors import TeacherError
from distilect.models import CheckpointTeacher, Teacher
from distilect.progress import track
from distilect.signals.store import FieldStore

CHUNK = 4096  # rows per shard: what a kill can cost, and what is kept in memory before it is written

Rows = NDArray[np.int64]


def run_teacher(teacher: Any, table: Table, encoded: Encoded | None, rows: Rows, fields: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """What one teacher says on `rows`, in their order.

    Returns:
        logits float32 [b, C] in the teacher's own order; `cls.L`, `mean.L` float32 [b, H]; `hidden.L` a list of b tensors
        [tokens, H] without padding.

    Raises:
        TeacherError: an output is no finite number; names the row's text.
    """
    if encoded is None:
        found: dict[str, Any] = {"logits": torch.from_numpy(teacher.outputs_for(table, rows))}
    else:
        found = _run_batches(teacher, encoded, rows, fields, max_tokens)
    finite = torch.isfinite(found["logits"]).all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        text = " | ".join(table.text([int(rows[bad])])[0])[:80]
        raise TeacherError(
            f"teacher {teacher.name!r} gives a value that is no finite number on {text!r}: "
            "try signals.precision=fp32, or take it out of the pool"
        )
    return found


def _run_batches(teacher: CheckpointTeacher, encoded: Encoded, rows: Rows, fields: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """Length-sorted batches under the token budget, results put back in the order of `rows`."""
    batches = scoring_batches(encoded.lengths[rows], max_tokens)
    parts: dict[str, list[Any]] = {name: [] for name in ("logits", *fields)}
    for batch in batches:
        inputs = encoded.collate(rows[batch])
        said = teacher.forward(inputs, fields)
        mask = inputs["attention_mask"].bool()
        for name, values in said.items():
            parts[name] += _without_padding(values, mask) if name.startswith("hidden.") else [values.cpu()]
    back = np.argsort(np.concatenate(batches), kind="stable")
    return {
        name: [part[i] for i in back] if name.startswith("hidden.") else torch.cat(part)[torch.from_numpy(back)]
        for name, part in parts.items()
    }


def _without_padding(values: Tensor, mask: Tensor) -> list[Tensor]:
    """[B, T, H] → B tensors [tokens, H]."""
    return list(values.cpu()[mask].split(mask.sum(1).tolist()))


def unique_rows(table: Table) -> Rows:
    """Positions of the first row of each identity, in the table's order: duplicates share signals."""
    keys = np.ascontiguousarray(table.ids).view([("hi", np.uint64), ("lo", np.uint64)]).reshape(-1)
    _, first = np.unique(keys, return_index=True)
    return np.sort(first).astype(np.int64)


def score_missing(
    teacher: Teacher, table: Table, stores: dict[str, FieldStore], max_tokens: int, description: str
) -> int:
    """Run the teacher on the rows that some store lacks, and add them; returns how many rows were run.

    Chunks are cut from the missing rows in the table's order, so a run that was killed goes on at the same boundaries
    and computes the same batches: the result is identical.
    """
    rows = unique_rows(table)
    lacks = {name: store.locate(table.ids[rows]) < 0 for name, store in stores.items()}
    missing = rows[np.logical_or.reduce(list(lacks.values()))]
    if not len(missing):
        return 0
    todo = table.take(missing)
    encoded = encode(todo, teacher.tokenizer, teacher.max_length) if isinstance(teacher, CheckpointTeacher) else None
    fields = [name for name in stores if name != "logits"]
    for chunk in track(list(_chunks(len(todo))), description):
        said = run_teacher(teacher, todo, encoded, chunk, fields, max_tokens)
        for name, store in stores.items():
            _add(store, todo.ids[chunk], said[name])
    return len(todo)


def _chunks(count: int) -> Iterator[Rows]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count), dtype=np.int64)


def _add(store: FieldStore, ids: NDArray[np.uint64], values: Any) -> None:
    """Write what the store lacks of one chunk."""
    new = np.flatnonzero(store.locate(ids) < 0)
    if not len(new):
        return
    if isinstance(values, list):
        kept = [values[i].half() for i in new]
        offsets = np.cumsum([0, *(len(v) for v in kept)]).astype(np.int64)
        store.add(ids[new], torch.cat(kept).numpy(), offsets)
    elif store.folder.name == "logits":
        store.add(ids[new], values.float().numpy()[new])
    else:
        store.add(ids[new], values.half().numpy()[new])


class StoredVoice:
    """One teacher, read from the store."""

    def __init__(self, teacher: Teacher, stores: dict[str, FieldStore]) -> None:
        self.name, self.order, self.stores = teacher.name, teacher.order, stores
        self.forwards = 0

    def say(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """Logits and fields of `rows`, looked up by identity."""
        ids = table.ids[rows]
        logits = np.asarray(self.stores["logits"].get(ids))
        said: dict[str, Any] = {"logits": torch.from_numpy(logits[:, self.order])}
        for name in fields:
            values = self.stores[name].get(ids)
            tensors = [torch.from_numpy(v) for v in values] if isinstance(values, list) else torch.from_numpy(values)
            said[name] = pad_tokens(tensors) if isinstance(tensors, list) else tensors.float()
        return said


class LiveVoice:
    """One teacher, run whenever it is asked; a table is tokenised once."""

    def __init__(self, teacher: Teacher, max_tokens: int = 16384) -> None:
        self.teacher, self.max_tokens = teacher, max_tokens
        self.name = teacher.name
        self.forwards = 0
        self._encoded: WeakKeyDictionary[Table, Encoded] = WeakKeyDictionary()

    def say(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """Logits and fields of `rows`, computed now."""
        self.forwards += len(rows)
        said = run_teacher(self.teacher, table, self._tokens(table), rows, fields, self.max_tokens)
        said["logits"] = said["logits"][:, self.teacher.order]
        return {name: pad_tokens(value) if isinstance(value, list) else value for name, value in said.items()}

    def _tokens(self, table: Table) -> Encoded | None:
        if not isinstance(self.teacher, CheckpointTeacher):
            return None
        if table not in self._encoded:
            self._encoded[table] = encode(table, self.teacher.tokenizer, self.teacher.max_length)
        return self._encoded[table]


def pad_tokens(rows: list[Tensor]) -> Tensor:
    """b tensors [tokens, H] → float32 [b, T, H], zeros behind the real tokens."""
    return torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
