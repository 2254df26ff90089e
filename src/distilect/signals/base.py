"""What teachers say on some rows, whether it was computed once and stored or is computed now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Table

Fields = Sequence[Sequence[str]]


@dataclass(frozen=True)
class TeacherSignals:
    """Signals of K teachers on b rows.

    Attributes:
        logits: float32 [b, K, C] in the task's label order; C = 1 in regression.
        fields: per teacher, name → tensor: `cls.L` and `mean.L` float32 [b, H], `hidden.L` float32 [b, T, H] with the real
            tokens first and zeros behind them.
    """

    logits: Tensor
    fields: list[dict[str, Tensor]] = field(default_factory=list)

    def to(self, device: torch.device) -> TeacherSignals:
        """The same on another device."""
        if self.logits.device == device:
            return self
        moved = [{name: value.to(device) for name, value in one.items()} for one in self.fields]
        return replace(self, logits=self.logits.to(device), fields=moved)


class SignalSource(Protocol):
    """Where signals come from; rows are looked up by their identity, never by position.

    Attributes:
        names: of the teachers, in the order of every K axis.
        forwards: rows that teachers were run on so far, summed over teachers; rows read from a store count nothing.
    """

    names: list[str]

    @property
    def forwards(self) -> int: ...

    @property
    def num_teachers(self) -> int: ...

    def fetch(self, table: Table, rows: NDArray[np.int64], fields: Fields) -> TeacherSignals:
        """Signals on `rows` of `table`; `fields` lists per teacher what is wanted besides logits."""
        ...


class Voice(Protocol):
    """One teacher as a source: `say` gives its logits (in the task's order) and fields for some rows."""

    name: str
    forwards: int

    def say(self, table: Table, rows: NDArray[np.int64], fields: Sequence[str]) -> dict[str, Any]: ...


class Pool:
    """Several voices, stored or live, as one `SignalSource`."""

    def __init__(self, voices: Sequence[Voice]) -> None:
        self.voices = list(voices)
        self.names = [voice.name for voice in voices]

    @property
    def num_teachers(self) -> int:
        return len(self.voices)

    @property
    def forwards(self) -> int:
        return sum(voice.forwards for voice in self.voices)

    def fetch(self, table: Table, rows: NDArray[np.int64], fields: Fields) -> TeacherSignals:
        """See `SignalSource`."""
        said = [voice.say(table, rows, wanted) for voice, wanted in zip(self.voices, fields, strict=True)]
        logits = torch.stack([one.pop("logits") for one in said], dim=1)
        return TeacherSignals(logits, said)
