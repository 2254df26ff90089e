"""What selectors keep between steps: observations of rows until they learn from them, and running means for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound="Observations")


@dataclass
class Observations:
    """Base of dataclasses whose fields are all tensors with rows as their first axis."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self: S, index: Tensor) -> S:
        """Some of the rows: `index` int64 [n] or bool [N]."""
        return type(self)(*(value[index] for value in self.tensors().values()))

    def to(self: S, device: torch.device | str) -> S:
        """The same on another device."""
        return type(self)(*(value.to(device) for value in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """By field name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def join(cls: type[S], parts: Sequence[S]) -> S:
        """All rows of the parts, one part after the other, on the device of the last one: what was loaded is on the CPU."""
        columns = [[getattr(part, f.name) for part in parts] for f in fields(cls)]
        return cls(*(torch.cat([value.to(column[-1].device) for value in column]) for column in columns))


class Buffer(Generic[S]):
    """Observations that wait until a selector learns from them.

    With several ranks the trainer synchronises the buffers that `Selector.buffers` returns before each `learn`: what the other
    ranks observed is added, in the order of ranks, so that every rank learns the same from the whole step.

    Args:
        kind: the class of the observations.
    """

    def __init__(self, kind: type[S]) -> None:
        self.kind = kind
        self.parts: list[S] = []
        self.synchronised = 0  # so many of the parts, the first ones, are of all ranks already

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def add(self, part: S) -> None:
        """Append the observations of some rows."""
        self.parts.append(part)

    def join(self) -> S:
        """All observations so far, which stay in the buffer; there must be some."""
        return self.kind.join(self.parts)

    def take(self) -> S | None:
        """All observations so far; the buffer is empty afterwards. None where there are none."""
        found = self.join() if self.parts else None
        self.clear()
        return found

    def clear(self) -> None:
        """Forget all observations."""
        self.parts, self.synchronised = [], 0

    def fresh(self) -> dict[str, Tensor]:
        """Field by field, what only this rank has observed; {} where it has observed nothing new."""
        parts = self.parts[self.synchronised :]
        return self.kind.join(parts).tensors() if parts else {}

    def synchronise(self, ranks: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        """Replace what is fresh by what each rank gave as fresh, in their order."""
        del self.parts[self.synchronised :]
        self.parts += [self.kind(**one).to(device) for one in ranks if one]
        self.synchronised = len(self.parts)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.join().tensors() if self.parts else None}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.parts = [] if state["rows"] is None else [self.kind(**state["rows"]).to(device)]
        self.synchronised = len(self.parts)  # checkpoints are written after a synchronisation


@dataclass
class Averages:
    """Running means of named values, kept as tensors so that no step waits for the device; `pop` reads and resets."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float | Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, count: float | Tensor = 1.0) -> None:
        """Add `value`, a sum over `count` things."""
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0.0) + count

    def pop(self) -> dict[str, float]:
        """Name → mean since the last call; names that counted nothing are left out."""
        counts = {name: float(count) for name, count in self.counts.items()}
        values = {name: float(total) / counts[name] for name, total in self.sums.items() if counts[name]}
        self.sums, self.counts = {}, {}
        return values

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
