"""Teachers, labels and rows weighed by their credit: by how far a step in their direction lowers the loss of other labelled rows.

Ours, not from a paper; the credit itself is derived in `credit.py`. Nothing is learned and nothing is sampled: a look at the credit rows,
once per epoch, gives the first-order effect of every teacher and label on every row.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from distilect.options import AboveZero, Share
from distilect.selection.base import LossWeights, TeacherSelector
from distilect.selection.buffers import Averages
from distilect.selection.credit import Credit, CreditOptions
from distilect.selection.dynamickd import RankedRows
from distilect.selection.rewards import mixture_loss
from distilect.selection.static import teacher_logits
from distilect.selection.teacher_state import predictions
from distilect.selection.view import Probe, SelectionContext, StepView

# temperatures that are tried, in standard deviations of the credit; the largest one leaves all teachers nearly alike
TEMPERATURES = torch.logspace(-1.5, 1.5, 13, dtype=torch.float64)


class AlignmentTeachers(TeacherSelector):
    """w = softmax_k(credit_k(i) / τ): a row learns from the teachers towards which a step lowers the loss of the credit rows.

    credit_k(i) = ⟨p_k(i) - p_s(i), d_i⟩ (`credit.py`). It needs no label of the row. τ is chosen at each look: the one with which the
    weighted teachers predict the labels of the credit rows best, each without its own. A pool of equals, or credit that says nothing, thus
    ends near equal weights.
    """

    name = "alignment"

    class Options(CreditOptions):
        """Of `teachers: {name: alignment, …}`."""

        temperature: AboveZero | None = Field(
            None, description="τ; default: chosen at each look, by the labels of the credit rows"
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.credit = Credit(self.options)
        self.needs = self.credit.needs
        self.temperature = 0.0
        self.averages = Averages()

    def setup(self, context: SelectionContext) -> None:
        self.multi_label = context.multi_label
        self.credit.setup(context)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.credit.begin_epoch(probe, epoch):
            self.temperature = self.options.temperature or self.chosen()

    def learn(self, probe: Probe) -> None:
        if self.credit.end_step(probe):
            self.temperature = self.options.temperature or self.chosen()

    def chosen(self) -> float:
        """τ with which the weighted teachers predict the labels of the credit rows best; 0 where all teachers have equal credit."""
        found, sample = self.credit.of_teachers_here(), self.credit.sample
        spread = float((found - found.mean(1, keepdim=True)).std())
        losses = [
            float(mixture_loss((found / (t * spread)).softmax(1), sample.teachers, sample.labels).mean())
            for t in TEMPERATURES
            if spread > 0
        ]
        return spread * float(TEMPERATURES[losses.index(min(losses))]) if losses else 0.0

    def decide(self, view: StepView) -> Tensor:
        teachers = teacher_logits(view)
        batch, count, _ = teachers.shape
        if not self.temperature:
            return torch.full((batch, count), 1.0 / count, device=teachers.device)
        found = self.credit.of_outputs(view, predictions(teachers, view.multi_label))
        weights = (found / self.temperature).softmax(1)
        self.averages.add("credit/gain", (weights * found).sum() - found.mean(1).sum(), batch)
        return weights.float()

    def health(self) -> dict[str, float]:
        """credit/gain: how much more credit the weighted teachers have than their mean."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "averages": self.averages.state_dict()}
        return {"credit": self.credit.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.credit.load_state_dict(state["credit"])
        self.temperature = float(state["temperature"])
        self.averages.load_state_dict(state["averages"])


class AlignmentWeights(LossWeights):
    """A row's label and its teachers share the row by their credit, so that a wrong label loses weight.

    v_labels = (1 - α) e^g / ((1 - α) e^g + α) and v_response = 1 - v_labels, with g = ⟨y_i - p̄(i), d_i⟩ / (τ s): the credit of the label
    against that of the teachers' mean output p̄; s is its standard deviation over the credit rows. Rows without a label or without
    teachers have the weights 1 - α and α; every other kind of knowledge weighs 1.
    """

    name = "alignment"

    class Options(CreditOptions):
        """Of `loss_weights: {name: alignment, …}`."""

        alpha: Share = Field(0.5, description="v_response where label and teachers have equal credit")
        temperature: AboveZero = Field(
            0.5, description="τ, in standard deviations of the credit; small values decide between label and teachers"
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.credit = Credit(self.options)
        self.needs = self.credit.needs
        self.spread = 0.0
        self.averages = Averages()

    def setup(self, context: SelectionContext) -> None:
        if not {"labels", "response"} <= set(context.kinds):
            raise ValueError(
                f"weighs labels against teacher outputs, but the method copies {', '.join(context.kinds)}: add knowledge: {{labels: {{}}, "
                "response: {}}, or use loss_weights: fixed"
            )
        self.kinds = context.kinds
        self.credit.setup(context)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.credit.begin_epoch(probe, epoch):
            self.spread = float(self.credit.of_labels_here().std())

    def learn(self, probe: Probe) -> None:
        if self.credit.end_step(probe):
            self.spread = float(self.credit.of_labels_here().std())

    def decide(self, view: StepView) -> Tensor:
        gain = torch.zeros(len(view.keys), dtype=torch.float64, device=view.student.device)
        if view.teachers is not None and self.spread > 0:
            gain = self.credit.of_labels(view) / self.spread
        self.averages.add("credit/label", gain.sum(), view.has_label.sum())
        share = torch.sigmoid(
            gain / self.options.temperature + torch.logit(torch.tensor(1 - self.options.alpha, dtype=gain.dtype))
        )
        columns = {"labels": share, "response": 1 - share}
        return torch.stack([columns.get(kind, torch.ones_like(share)) for kind in self.kinds], dim=1).float()

    def health(self) -> dict[str, float]:
        """credit/label: the labels' credit against the teachers', in standard deviations; the weights are logged as knowledge/v_KIND."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        own = {"spread": self.spread, "averages": self.averages.state_dict()}
        return {"credit": self.credit.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.credit.load_state_dict(state["credit"])
        self.spread = float(state["spread"])
        self.averages.load_state_dict(state["averages"])


class AlignedRows(RankedRows):
    """The rows of each batch from which learning helps the credit rows most ask the teachers; the others learn from their labels.

    A row's score is ⟨y_i - p_s(i), d_i⟩, the credit of its label, and ‖d_i‖² without one. It falls as the student learns the row. A row whose
    label is wrong has a low score. The rival of uncertainty: `method: {name: dynamic-data, rows: alignment}`.
    """

    name = "alignment"
    measure = "credit"

    class Options(CreditOptions, RankedRows.Options):
        """Of `rows: {name: alignment, …}`."""

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.credit = Credit(self.options)
        self.needs = self.credit.needs
        self.compares = self.options.ratio < 1

    def setup(self, context: SelectionContext) -> None:
        self.credit.setup(context)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.credit.begin_epoch(probe, epoch)

    def learn(self, probe: Probe) -> None:
        self.credit.end_step(probe)

    def scores(self, view: StepView) -> Tensor:
        return self.credit.of_rows(view).float()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"credit": self.credit.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.credit.load_state_dict(state["credit"])
