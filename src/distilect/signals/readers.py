"""One teacher as a source of its signals: read from the store, or run now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Encoded, Table, fold_of
from distilect.errors import SignalError
from distilect.models import CheckpointTeacher, TableTeacher, Teacher, per_token
from distilect.signals.base import Pool, Reader, Rows
from distilect.signals.scoring import run_teacher, token_format
from distilect.signals.store import FieldStore
from distilect.signals.token_signals import TokenFormat, TokenOutputs


class StoredReader:
    """Reads a teacher's signals from the store."""

    def __init__(self, teacher: Teacher, stores: dict[str, FieldStore]) -> None:
        self.name, self.order, self.stores = teacher.name, np.asarray(teacher.order), stores
        self.format = token_format(teacher)
        self.forwards = 0

    def read(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """See `Reader`."""
        ids = table.ids[rows]
        logits: Any = self.stores["logits"].get(ids)
        if self.format is not None:
            found: dict[str, Any] = {"logits": unpacked(self.format, logits, table, rows)}
        else:
            logits = logits if table.units is None else joined(logits, len(self.order))
            found = {"logits": torch.from_numpy(logits[:, self.order])}
        for name in fields:
            if name not in self.stores:
                raise SignalError(
                    f"{name} of teacher {self.name!r} was not prepared; there are {', '.join(self.stores)}"
                )
            found[name] = _as_field(name, self.stores[name].get(ids))
        return found


class LiveReader:
    """Runs a teacher whenever it is asked; a table is tokenised once."""

    def __init__(self, teacher: Teacher, max_tokens: int = 16384) -> None:
        self.teacher, self.max_tokens = teacher, max_tokens
        self.name, self.format = teacher.name, token_format(teacher)
        self.forwards = 0
        self._encoded: WeakKeyDictionary[Table, Encoded] = WeakKeyDictionary()

    def read(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """See `Reader`."""
        if not isinstance(self.teacher, TableTeacher):  # whose outputs were made elsewhere
            self.forwards += len(rows)
        if isinstance(self.teacher, CheckpointTeacher) and table not in self._encoded:
            self._encoded[table] = self.teacher.encode(table)
        rows = np.asarray(rows, dtype=np.int64)
        outputs = run_teacher(self.teacher, table, self._encoded.get(table), rows, fields, self.max_tokens)
        logits = outputs.pop("logits")
        if self.format is not None:
            given = unpacked(self.format, [values.numpy() for values in logits], table, rows)
            return {"logits": given, **{name: _as_field(name, values) for name, values in outputs.items()}}
        logits = torch.from_numpy(joined(logits, len(self.teacher.order))) if isinstance(logits, list) else logits
        found = {name: _as_field(name, values) for name, values in outputs.items()}
        return {"logits": logits[:, self.teacher.order], **found}


class FoldReader:
    """Reads each row from the copy of a teacher that was fine-tuned without the row's fold.

    Args:
        copies: of fold 0, 1, …
    """

    def __init__(self, name: str, copies: Sequence[Reader]) -> None:
        self.name, self.copies = name, copies

    @property
    def forwards(self) -> int:
        return sum(copy.forwards for copy in self.copies)

    def read(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Tensor]:
        """See `Reader`; logits only."""
        folds, parts, places = fold_of(table.ids[rows], len(self.copies)), [], []
        units = None if table.units is None else table.units.take(rows)
        for fold in np.unique(folds):
            own = np.flatnonzero(folds == fold)
            places.append(own if units is None else units.of(own))
            parts.append(self.copies[fold].read(table, rows[own], ())["logits"])
        if not parts:
            return self.copies[0].read(table, rows, ())
        return {"logits": torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(places)))]}


class LiveSignals(Pool):
    """Teachers that are run whenever they are asked, on the requested rows only."""

    def __init__(self, teachers: Sequence[Teacher], max_tokens: int = 16384) -> None:
        super().__init__([LiveReader(teacher, max_tokens) for teacher in teachers])


def unpacked(kept: TokenFormat, rows: Any, table: Table, which: Rows) -> TokenOutputs:
    """What a language model says of the units of some rows, from b arrays uint8 [units, bytes].

    Raises:
        SignalError: they are of other units than the rows have.
    """
    assert table.tokens is not None and table.units is not None
    packed = np.concatenate([np.zeros((0, kept.width), np.uint8), *rows])
    gold = table.tokens.gold_of(table.units, which)
    if len(packed) != len(gold):
        raise SignalError(
            f"stored outputs are of {len(packed)} tokens, the rows have {len(gold)}: remove the store's folder"
        )
    return kept.unpack(packed, torch.from_numpy(gold.astype(np.int64)))


def joined(rows: Any, width: int) -> NDArray[np.float32]:
    """b arrays or tensors [words, C] → float32 [U, C]; C = `width` where there are none."""
    none = np.zeros((0, width), np.float32)
    return np.concatenate([none, *(np.asarray(row, dtype=np.float32) for row in rows)])


def _as_field(name: str, values: Any) -> Tensor:
    """A field as `TeacherSignals` holds it: one vector per row or word, or padded tokens."""
    if not isinstance(values, list):
        return torch.as_tensor(values).float()
    rows = [torch.as_tensor(value) for value in values]
    if per_token(name):
        return pad_tokens(rows)
    return torch.cat(rows).float() if rows else torch.zeros(0, 0)


def pad_tokens(rows: list[Tensor]) -> Tensor:
    """b tensors [tokens, H] → float32 [b, T, H], zeros after the real tokens."""
    if not rows:
        return torch.zeros(0, 0, 0)
    return torch.nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True)
