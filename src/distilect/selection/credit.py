"""Credit: the first-order effect of what a row learns on the loss of labelled rows that it does not learn from (ours).

At the student's output layer, z = W h + b, gradients factor exactly. With cross-entropy losses (KL to a teacher at temperature 1, or to a
label) a row i that learns from an output q has the gradient (p_s(i) - q) ⊗ (h_i, 1), a credit row j has (p_s(j) - y_j) ⊗ (h_j, 1), and

    ⟨g_q(i), g_j⟩ = ⟨p_s(i) - q, p_s(j) - y_j⟩ · κ(i, j),    κ(i, j) = ⟨h_i, h_j⟩ + 1

A small step along -g_q(i) therefore lowers the mean loss of the credit rows by the step's size times ⟨q - p_s(i), d_i⟩, where
d_i = mean over j of κ(i, j) (y_j - p_s(j)): the way row i's outputs have to move. One product of B × M numbers serves all teachers and
takes no backward pass. A kernel of a frozen encoder, κ = max(0, cos)³, replaces the exact one where the student's own layer does not
know yet which rows are alike.

In a multi-label task p and y are per label; in a regression p is the score.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.options import Count, Share
from distilect.selection.base import Needs
from distilect.selection.teacher_state import predictions
from distilect.selection.view import CreditRows, Encoder, KnownRows, Probe, SelectionContext, StepView
from distilect.tasks import has_label

LIMIT = 1024  # credit rows, at most
POWER = 3  # of the cosine between vectors of a frozen encoder


class CreditOptions(Part):
    """How credit is measured."""

    encoder: str = Field(
        "backbone",
        description="which rows count as alike. backbone (the pre-trained model that the student was cut from), a checkpoint, or a "
        "teacher's name: by vectors of this frozen encoder; student: by what the student's output layer reads, the exact product of gradients",
    )
    pooling: Literal["cls", "mean"] = Field(
        "mean", description="the frozen encoder's last layer at the classification token, or its mean over tokens"
    )
    rows: CreditRows = Field(
        "train",
        description="labelled rows on which the effect is measured. train: those of train, each row's own label left out; "
        "validation: half of the validation split, whose other half then chooses the checkpoint",
    )
    every: Literal["epoch"] | Count = Field(
        "epoch",
        description="optimiser steps between two looks at these rows, or epoch; a look is a pass without gradient over at most 1,024 rows",
    )
    smoothing: Share = Field(
        1.0,
        description="share of the rows' errors that a look keeps from earlier looks. 0: the latest errors alone; 1: those of the "
        "student before training, which has learned from none of these rows",
    )


# ---- closed forms --------------------------------------------------------------------------------------------------


def head_kernel(rows: Tensor, others: Tensor) -> Tensor:
    """⟨h_i, h_j⟩ + 1, exact for an output layer with a bias; [B, H], [M, H] → [B, M]."""
    return rows @ others.T + 1


def encoder_kernel(rows: Tensor, others: Tensor) -> Tensor:
    """max(0, cos)³; [B, D], [M, D] → [B, M]."""
    return (F.normalize(rows, dim=-1) @ F.normalize(others, dim=-1).T).clamp_min(0) ** POWER


def targets(labels: Tensor, outputs: int) -> Tensor:
    """Labels in the form of `predictions`, float32 [n, C]; 0 where a row has none."""
    known = has_label(labels)
    if labels.ndim == 2:
        found = labels.float()
    elif labels.is_floating_point():
        found = labels.unsqueeze(1)
    else:
        found = F.one_hot(labels.clamp_min(0), outputs).float()
    return torch.where(known.unsqueeze(1), found, torch.zeros_like(found))


def directions(kernel: Tensor, errors: Tensor) -> Tensor:
    """d_i = Σ_j κ(i, j) (y_j - p_s(j)) / Σ_j |κ(i, j)|; [B, M], [M, C] → [B, C]. So is the mean of other values around a row.

    The divisor is a row's own: it changes no order of teachers, and makes d_i an estimate of the row's own y - p_s. 0 where no credit row is
    near.
    """
    total = kernel.abs().sum(1, keepdim=True)
    return kernel @ errors / torch.where(total > 0, total, torch.ones_like(total))


def credit(outputs: Tensor, student: Tensor, direction: Tensor, *, regression: bool) -> Tensor:
    """⟨q - p_s(i), d_i⟩, [B, K].

    A regression has no bound on q, and the first order would prefer whoever exaggerates most. The second order of its squared
    error is known: - ½ (q - p_s)² is added, so that the best q is p_s + d.

    Args:
        outputs: q, [B, K, C]; student: p_s, [B, C]; direction: d, [B, C].
    """
    step = outputs - student.unsqueeze(1)
    found = (step * direction.unsqueeze(1)).sum(-1)
    return found - (step**2).sum(-1) / 2 if regression else found


# ---- looks at the credit rows --------------------------------------------------------------------------------------


class Credit:
    """The credit rows as the student was when somebody last looked, and what follows for the rows of a step.

    Args:
        options: see `CreditOptions`.

    Attributes:
        errors: y_j - p_s(j), float64 [M, C], on the CPU; None before the first look.
        features: what the output layer read of them, [M, H]; None with a frozen encoder.
    """

    def __init__(self, options: CreditOptions) -> None:
        self.options, self.exact = options, options.encoder == "student"
        self.errors: Tensor | None = None
        self.features: Tensor | None = None
        self.begun, self.steps = -1, 0

    @property
    def needs(self) -> Needs:
        encoder = None if self.exact else Encoder(self.options.encoder, self.options.pooling)
        return Needs(encoder=encoder, features=self.exact, labels=True, credit=self.options.rows)

    def setup(self, context: SelectionContext) -> None:
        self.regression = context.regression
        self.sample = (context.credit or context.sample)(LIMIT, labelled=True)
        if len(self.sample.keys) < 2:
            raise ValueError(
                f"measures the effect on labelled rows, but there are {len(self.sample.keys)}: expected labels in train and validation"
            )
        self.said = predictions(self.sample.teachers, context.multi_label)  # [M, K, C]
        self.gold = targets(self.sample.labels, self.said.shape[-1])

    # ---- when it looks ---------------------------------------------------------------------------------------------

    def begin_epoch(self, probe: Probe, epoch: int) -> bool:
        """Look, unless the run was resumed within this epoch; whether it did."""
        new, self.begun = epoch > self.begun, max(epoch, self.begun)
        due = self.errors is None or self.options.every == "epoch"
        return new and due and self.look(probe)

    def end_step(self, probe: Probe) -> bool:
        """Look where it is time to; whether it did."""
        self.steps += 1
        every = self.options.every
        return every != "epoch" and self.steps % every == 0 and self.look(probe)

    def look(self, probe: Probe) -> bool:
        """Run the credit rows; not where nothing would change."""
        if self.errors is not None and self.options.smoothing == 1 and not self.exact:
            return False
        logits, self.features = probe.credit(self.sample.keys)
        now = (self.gold - predictions(logits.unsqueeze(1), self.sample.labels.ndim == 2)[:, 0]).double()
        self.errors = now if self.errors is None else torch.lerp(now, self.errors, self.options.smoothing)
        return True

    # ---- the rows of a step ----------------------------------------------------------------------------------------

    def directions(self, view: StepView) -> Tensor:
        """d, float64 [B, C]; double, so that no cut of a batch changes a choice. A row's own label is left out."""
        assert self.errors is not None
        rows = view.features if self.exact else view.vectors
        assert rows is not None
        return self._directions(rows.double(), view.keys)

    def _directions(self, rows: Tensor, keys: Tensor) -> Tensor:
        assert self.errors is not None
        return directions(self._kernel(rows, keys), self.errors.to(rows))

    def _kernel(self, rows: Tensor, keys: Tensor) -> Tensor:
        """κ without a row's own label, [B, M]."""
        others = self.features if self.exact else self.sample.vectors
        assert others is not None
        kernel = (head_kernel if self.exact else encoder_kernel)(rows, others.to(rows))
        return kernel.masked_fill(keys.unsqueeze(1) == self.sample.keys.to(keys.device), 0.0)

    def of_labels(self, view: StepView) -> Tensor:
        """Credit of learning from the row's label instead of from the teachers' mean output, ⟨y - p̄, d⟩; float64 [B], 0 without a
        label or teachers."""
        assert view.teachers is not None
        said = predictions(view.teachers, view.multi_label).mean(1)
        gold = targets(view.labels, said.shape[-1])
        labels, teachers = self.of_outputs(view, torch.stack([gold, said], dim=1)).unbind(1)
        return torch.where(view.has_label, labels - teachers, 0.0).nan_to_num(0.0)

    def of_rows(self, view: StepView) -> Tensor:
        """Credit of learning from the row's label; of a row without one from p_s + d, the outputs that its label is expected to
        be: ‖d‖². float64 [B]."""
        student, found = self._student(view), self.directions(view)
        gold = targets(view.labels, student.shape[-1]).double()
        gold = torch.where(view.has_label.unsqueeze(1), gold, student + found)
        return credit(gold.unsqueeze(1), student, found, regression=self.regression)[:, 0]

    def of_outputs(self, view: StepView, outputs: Tensor, *, own: bool = False) -> Tensor:
        """Credit of learning from some outputs; q [B, K, C] → float64 [B, K].

        Args:
            own: labelled rows are their own credit rows: d = y - p_s.
        """
        student, found = self._student(view), self.directions(view)
        if own:
            gold = targets(view.labels, student.shape[-1]).double()
            found = torch.where(view.has_label.unsqueeze(1), gold - student, found)
        return credit(outputs.double(), student, found, regression=self.regression)

    def expected(self, known: KnownRows) -> tuple[Tensor, Tensor]:
        """Credit of the label, and of the best teacher, on units on which nothing was run; float64 [n] each, the first one 0 without a label.

        The student's output on the credit rows around a unit stands for its output there, and what the best teacher of each of these rows
        is worth stands for what it would be worth.
        """
        assert self.errors is not None and known.vectors is not None
        kernel = self._kernel(known.vectors.double(), known.keys)
        best = self.of_teachers_here().max(1, keepdim=True).values
        student, direction, teachers = (directions(kernel, v) for v in (self.gold - self.errors, self.errors, best))
        gold = targets(known.labels, student.shape[-1]).double()
        labels = credit(gold.unsqueeze(1), student, direction, regression=self.regression)[:, 0]
        return torch.where(has_label(known.labels), labels, 0.0), teachers[:, 0]

    def _student(self, view: StepView) -> Tensor:
        return predictions(view.student.unsqueeze(1), view.multi_label)[:, 0].double()

    def of_teachers_here(self) -> Tensor:
        """Credit of the teachers on the credit rows themselves, each row without its own label; float64 [M, K]."""
        return self._here(self.said)

    def of_labels_here(self) -> Tensor:
        """Credit of the labels against the teachers' mean output on the credit rows, as `of_labels`; float64 [M]."""
        labels, teachers = self._here(torch.stack([self.gold, self.said.mean(1)], dim=1)).unbind(1)
        return labels - teachers

    def trust(self) -> float:
        """How far the credit that teachers have by the labels around a credit row agrees with that by its own label: their
        correlation, 0 at least."""
        assert self.errors is not None
        around = self._here(self.said)
        own = credit(self.said.double(), self.gold.double() - self.errors, self.errors, regression=self.regression)
        one, two = ((found - found.mean(1, keepdim=True)).flatten() for found in (around, own))
        return max(0.0, float(F.cosine_similarity(one, two, dim=0)))

    def _here(self, outputs: Tensor) -> Tensor:
        assert self.errors is not None
        own = self.features if self.exact else self.sample.vectors
        assert own is not None
        found = self._directions(own.double(), self.sample.keys)
        student = self.gold.double() - self.errors
        return credit(outputs.double(), student, found, regression=self.regression)

    # ---- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"errors": self.errors, "features": self.features, "counts": [self.begun, self.steps]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.errors, self.features = state["errors"], state["features"]
        self.begun, self.steps = (int(n) for n in state["counts"])
