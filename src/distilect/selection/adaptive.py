"""Rows, teachers and labels by one credit, with prices: what is spent goes where the credit per operation is highest (ours).

Credit (`credit.py`) is the first-order fall of the loss of labelled rows by what a row learns. Let g(i) be that of row i's label and G(i) ≥ g(i)
that of the better of label and teachers. Training the student on the row's t(i) tokens costs t(i); asking the teachers about them costs
π t(i) more. There are three choices for a row: it is left out (worth 0, costs 0), it learns from its label (g, t), or it asks too (G, (1 + π) t).
Given a budget, the best choices maximise Σ worth − λ Σ cost, with λ, the worth of the last operation that the budget pays for:

    train on i   iff   max(g / t, G / ((1 + π) t)) ≥ λ
    ask about i  iff   (G − g) / (π t) > λ

which is the exact solution of that knapsack for the budget that belongs to λ. What a chosen row then learns is decided by the same credit, from
the real outputs: teacher weights and label weights are those of `alignment.py`.

Assumptions: the first order; credit adds up over rows, though two rows that are alike teach the same; and as neither student nor teachers were
run on a row when it is chosen, the credit rows around it stand for it (`Credit.expected`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distilect.data import Window
from distilect.options import Ratio, Share, ZeroOrMore
from distilect.selection.base import PlannedRows
from distilect.selection.buffers import Averages
from distilect.selection.credit import Credit, CreditOptions
from distilect.selection.dynamickd import ranked
from distilect.selection.view import KnownRows, Probe, SelectionContext, StepView
from distilect.tasks import has_label

_AT_ONCE = 8192  # rows whose products with the credit rows are held in memory


class AdaptiveRows(PlannedRows):
    """The rows of an epoch with the highest credit per operation; those of them for which it pays ask the teachers.

    The number of rows is fixed (`ratio`), as every epoch has the same steps; λ is the credit per token of the last one. Rows that do not ask
    learn from their labels. Choices belong to (epoch, row): batches, accumulation and ranks change none.
    """

    name = "adaptive"
    trains_rest = True  # of the planned rows

    class Options(CreditOptions):
        """Of `rows: {name: adaptive, …}`."""

        every: Literal["epoch"] = Field("epoch", description="a plan is made at the beginning of an epoch, from a look")
        smoothing: Share = Field(
            0.0,
            description="as for the teachers' credit, but by the latest errors alone: which rows are left to learn changes, whom to believe does not",
        )
        ratio: Ratio = Field(0.5, description="share of the rows that an epoch is trained on: max(1, round(ratio · N))")
        price: ZeroOrMore = Field(
            0.0,
            description="π, what asking all teachers about a row costs, as a multiple of training the student on it: about "
            "Σ teacher parameters / (3 · student parameters) for teachers that are run live. 0: outputs are stored, and all planned rows ask",
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.encoder == "student":
            raise ValueError(
                "encoder: student needs a pass over every row before it is chosen: set encoder: backbone, a checkpoint or a teacher's name"
            )
        self.credit = Credit(self.options)
        self.needs = self.credit.needs
        self.averages = Averages()
        self.probe: Probe | None = None
        self.asking: Tensor | None = None  # int64 [n], ascending: units of the plan that ask; None: all do

    def setup(self, context: SelectionContext) -> None:
        self.credit.setup(context)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.probe = probe
        self.credit.begin_epoch(probe, epoch)

    def planned(self, num_rows: int) -> int:
        return max(1, round(self.options.ratio * num_rows))

    def plan(self, keys: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        rows, price = torch.from_numpy(keys), self.options.price
        labels, both, tokens, silent = self.worth(rows)
        density = torch.where(
            silent, both / ((1 + price) * tokens), torch.maximum(labels / tokens, both / ((1 + price) * tokens))
        )
        chosen = ranked(rows, density, seed, epoch)[: self.planned(len(rows))]
        margin = density[chosen[-1]].clamp_min(0.0)  # λ
        asks = silent | (both - labels > margin * price * tokens)
        self._note(rows[chosen], asks[chosen])
        self.averages.add("credit/margin", margin)
        return np.sort(chosen.numpy())

    def _note(self, rows: Tensor, asks: Tensor) -> None:
        """Keep which units of the planned rows ask, and their share."""
        self.asking, self.asked_share = None, 1.0
        if not self.options.price:
            return
        assert self.probe is not None
        found, count = [], 0
        for part, own in zip(rows.split(_AT_ONCE), asks.split(_AT_ONCE), strict=True):
            known = self.probe.known(part)
            found.append(known.keys[own[known.row]])
            count += len(known.keys)
        self.asking = torch.cat(found).sort().values
        self.asked_share = max(len(self.asking), 1) / count

    def worth(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of rows (int64 [n], identities): g and G, float64 [n], sums over a row's units; tokens, float64 [n]; and whether a row has no label,
        bool [n]."""
        assert self.probe is not None, "plan was called before begin_epoch: there is no student whose errors count"
        parts = [self._worth(self.probe.known(part)) for part in rows.split(_AT_ONCE)]
        labels, both, tokens, silent = (torch.cat(column) for column in zip(*parts, strict=True))
        return labels, both, tokens, silent

    def _worth(self, known: KnownRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        known_label = has_label(known.labels)
        labels, best = self.credit.expected(known)
        both = torch.where(known_label, torch.maximum(labels, best), best)
        per_row = torch.zeros(3, len(known.tokens), dtype=torch.float64)
        per_row.index_add_(1, known.row, torch.stack([labels, both, known_label.double()]))
        return per_row[0], per_row[1], known.tokens.double(), per_row[2] == 0

    def decide(self, view: StepView) -> Tensor:
        if self.asking is None:
            return torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)
        return torch.isin(view.keys, self.asking.to(view.keys.device))

    def health(self) -> dict[str, float]:
        """credit/margin: λ, credit per token of the last row of the plan; rows/asked, which is logged anyway, is the share that asks."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"credit": self.credit.state_dict(), "averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.credit.load_state_dict(state["credit"])
        self.averages.load_state_dict(state["averages"])
