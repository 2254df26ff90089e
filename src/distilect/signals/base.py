"""Teacher outputs on some rows, read from the store or computed now: one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Table
from distilect.signals.calibration import Calibration
from distilect.signals.token_signals import on_one_axis

Fields = Sequence[Sequence[str]]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TeacherSignals:
    """Signals of K teachers on b rows.

    Attributes:
        logits: float32 [b, K, C] in the task's label order; C = 1 in regression.
        fields: per teacher, name → tensor: `cls.L` and `mean.L` float32 [b, H], `hidden.L` float32 [b, T, H] with the real
            tokens first and zeros after them. Of a word table `cls.L` and `mean.L` are [u, H], `hidden.L` [b, W, H].
        out_of_fold: as `logits`, of copies of the teachers that were not fine-tuned on the row; None where no teacher has copies.
        candidates: of language models int64 [u, C - 1], the tokens that the classes stand for, the gold one first, -1: none; the last
            class is all other tokens.
        scores: of language models float32 [u, K, 4], `tasks.TOKEN_OUTPUTS`.
    """

    logits: Tensor
    fields: list[dict[str, Tensor]] = field(default_factory=list)
    out_of_fold: Tensor | None = None
    candidates: Tensor | None = None
    scores: Tensor | None = None

    @property
    def judged(self) -> Tensor:
        """[b, K, C]: logits by which selectors judge teachers: of copies that have not seen the row, where there are some."""
        return self.logits if self.out_of_fold is None else self.out_of_fold

    def of_units(self, places: Tensor) -> TeacherSignals:
        """Those of some words, int64 [u] among the rows' words; what is padded per row stays whole."""
        fields = [{name: v[places] if v.ndim == 2 else v for name, v in one.items()} for one in self.fields]
        judged = None if self.out_of_fold is None else self.out_of_fold[places]
        candidates = None if self.candidates is None else self.candidates[places]
        scores = None if self.scores is None else self.scores[places]
        return TeacherSignals(self.logits[places], fields, judged, candidates, scores)

    def to(self, device: torch.device) -> TeacherSignals:
        """The same on another device."""
        if self.logits.device == device:
            return self
        moved = [{name: value.to(device) for name, value in one.items()} for one in self.fields]
        judged = None if self.out_of_fold is None else self.out_of_fold.to(device)
        more = [None if value is None else value.to(device) for value in (self.candidates, self.scores)]
        return TeacherSignals(self.logits.to(device), moved, judged, *more)


class SignalSource(Protocol):
    """Where signals come from. Rows are found by their identity, never by position.

    Attributes:
        names: of the teachers, in the order of every K axis.
        forwards: rows that teachers were run on so far, summed over teachers; rows read from a store do not count.
    """

    names: list[str]

    @property
    def forwards(self) -> int: ...

    @property
    def num_teachers(self) -> int: ...

    def fetch(self, table: Table, rows: Rows, fields: Fields) -> TeacherSignals:
        """Signals on `rows` of `table`; `fields` lists per teacher what is wanted besides logits."""
        ...


class Reader(Protocol):
    """One teacher as a source of its signals."""

    name: str

    @property
    def forwards(self) -> int:
        """Rows that it was run on."""
        ...

    def read(self, table: Table, rows: Rows, fields: Sequence[str]) -> dict[str, Any]:
        """`logits` float32 [b, C] in the task's label order, of a language model `TokenOutputs`; and each field as in `TeacherSignals`."""
        ...


class Pool:
    """The readers of several teachers as one `SignalSource`.

    Attributes:
        calibrations: by name of teacher; the others' logits are as they gave them.
        copies: by name of teacher, readers of its out-of-fold outputs.
        out_of_fold: the student learns from these too.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = list(readers)
        self.names = [reader.name for reader in readers]
        self.calibrations: Mapping[str, Calibration] = {}
        self.copies: Mapping[str, Reader] = {}
        self.out_of_fold = False

    @property
    def num_teachers(self) -> int:
        return len(self.readers)

    @property
    def forwards(self) -> int:
        return sum(reader.forwards for reader in (*self.readers, *self.copies.values()))

    def fetch(self, table: Table, rows: Rows, fields: Fields) -> TeacherSignals:
        """See `SignalSource`."""
        found = [reader.read(table, rows, wanted) for reader, wanted in zip(self.readers, fields, strict=True)]
        if table.tokens is not None:
            outputs = [one.pop("logits") for one in found]
            candidates, on_them = on_one_axis(outputs)
            scores = torch.stack([one.scores() for one in outputs], dim=1)
            return TeacherSignals(on_them, found, candidates=candidates, scores=scores)
        logits = [self._calibrated(name, one.pop("logits")) for name, one in zip(self.names, found, strict=True)]
        if not self.copies:
            return TeacherSignals(torch.stack(logits, dim=1), found)
        judged = [
            self._calibrated(name, self.copies[name].read(table, rows, ())["logits"]) if name in self.copies else own
            for name, own in zip(self.names, logits, strict=True)
        ]
        learned = judged if self.out_of_fold else logits
        return TeacherSignals(torch.stack(learned, dim=1), found, torch.stack(judged, dim=1))

    def _calibrated(self, name: str, logits: Tensor) -> Tensor:
        found: Tensor = self.calibrations[name](logits) if name in self.calibrations else logits
        return found
