"""What DynamicKD remembers of rows: recent scores, or each row's last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilect.selection.buffers import Buffer, Observations


@dataclass
class Scores(Observations):
    """Scores of rows: keys int64 [n], values float32 [n]."""

    keys: Tensor
    values: Tensor


class Recent:
    """The scores of the last `size` rows, up to the step before this one.

    Attributes:
        buffer: the scores of this step; they count from the next one on.
        values: float32 [n], the scores that count.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.values = torch.empty(0)
        self.buffer = Buffer(Scores)

    def end_step(self) -> None:
        """Take the buffer in, in the order of row identities: however the step was cut, the result is the same."""
        step = self.buffer.take()
        if step is not None:
            ordered = step.values[torch.argsort(step.keys, stable=True)]
            self.values = torch.cat([self.values.to(ordered), ordered])[-self.size :]

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


class Stored:
    """Each row's last score, by identity; 12 bytes a row.

    Attributes:
        buffer: the scores of this epoch; they count from the next one on.
        known: the scores that count, keys ascending, on the CPU.
    """

    def __init__(self) -> None:
        self.known = Scores(torch.empty(0, dtype=torch.int64), torch.empty(0))
        self.buffer = Buffer(Scores)
        self._quantiles: dict[tuple[float, ...], Tensor] = {}  # those of a million rows take long

    def __len__(self) -> int:
        return len(self.known)

    def at(self, keys: Tensor) -> Tensor:
        """float32 [n], NaN for a row that has no score yet."""
        if not len(self.known):
            return torch.full((len(keys),), torch.nan, device=keys.device)
        wanted = keys.cpu()
        place = torch.searchsorted(self.known.keys, wanted).clamp_max(len(self.known) - 1)
        return torch.where(self.known.keys[place] == wanted, self.known.values[place], torch.nan).to(keys.device)

    def quantiles(self, *shares: float) -> Tensor:
        """float32 [n]: the scores that these shares of all rows are below."""
        if shares not in self._quantiles:
            self._quantiles[shares] = quantiles(self.known.values, shares)
        return self._quantiles[shares]

    def put(self, scores: Scores) -> None:
        """Replace the scores of some rows; of equal texts the higher one counts, whatever their order."""
        new = scores.to("cpu")
        new = new.take(torch.argsort(new.values, descending=True, stable=True))
        both = Scores.join([new, self.known])
        _, first = np.unique(both.keys.numpy(), return_index=True)  # of equal keys the first: the new, higher one
        self.known = both.take(torch.from_numpy(first))
        self._quantiles = {}

    def end_epoch(self) -> None:
        """Take the buffer in."""
        epoch = self.buffer.take()
        if epoch is not None:
            self.put(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"known": self.known.tensors(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known, self._quantiles = Scores(**state["known"]), {}
        self.buffer.load_state_dict(state["buffer"])


def quantiles(values: Tensor, shares: Sequence[float]) -> Tensor:
    """float32, one per share. numpy: torch's own takes 16 million values at most."""
    found = np.quantile(values.cpu().numpy(), list(shares))
    return torch.as_tensor(found, dtype=torch.float32, device=values.device)
