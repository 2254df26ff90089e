"""One step of distillation, as the formula of docs/architecture.md:

loss = mean over i of  Σ_m v_m(i) · [ Σ_k w_k(i) · l_m,k(i) ]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distilect.knowledge import StudentOutputs
from distilect.selection import Method, StepView
from distilect.signals import TeacherSignals
from distilect.tasks import has_label, of_candidates

AskTeachers = Callable[[Tensor], TeacherSignals]


@dataclass(frozen=True)
class StepResult:
    """What one evaluation of the formula gives; all but `loss` is detached. Rows are units here: in a word table, words.

    Attributes:
        loss: scalar, the sum over units (the trainer divides by the units of the whole optimiser step).
        losses: float32 [B, M], each kind of knowledge after the teacher weights, before the loss weights; those on teacher outputs
            divided by the share of rows that ask, those on labels by the share of rows that have one.
        teacher_weights: float32 [B, K], 0 on rows that asked no teacher; K = 0 without teachers.
        loss_weights: float32 [B, M].
        asked, trained: bool [B].
        right: float32 [B, K], 1 where the teacher's best class is the gold label, 0 where not, NaN where it was not asked, where
            the row has no label, and in regression. Multi-label: 1 where it is right about every label, at probability 1/2.
    """

    loss: Tensor
    losses: Tensor
    teacher_weights: Tensor
    loss_weights: Tensor
    asked: Tensor
    trained: Tensor
    right: Tensor


def distillation_loss(
    student: StudentOutputs,
    view: StepView,
    method: Method,
    ask: AskTeachers,
    selected: Tensor | None = None,
    labelled_share: float = 1.0,
) -> StepResult:
    """Evaluate the formula on one batch.

    Args:
        student: the forward pass, with gradient.
        view: the same step as selectors may see it.
        method: selectors and kinds of knowledge.
        ask: indexes of units within the batch (int64 [b]) → their teacher outputs.
        selected: bool [B], where rows were chosen before the pass; None: `method.rows` chooses now.
        labelled_share: of the rows of the whole optimiser step, those that have a label.
    """
    # which rows ask, which are trained on at all: d(i)
    selected = method.rows.decide(view) if selected is None else selected
    asked = selected if method.teachers is not None else torch.zeros_like(selected)
    trained = torch.ones_like(selected) if method.rows.trains_rest else selected

    # teacher outputs and teacher weights: w_k(i)
    rows = asked.nonzero().squeeze(1)  # int64 [b]; a GPU is waited for here
    signals, weights = None, view.student.new_zeros(len(rows), 0)
    if method.teachers is not None and len(rows):
        signals = ask(rows)
        weights = method.teachers.decide(view.take(rows, signals.judged)).detach().to(view.student)

    # how far the student is: l_m,k(i), summed over teachers
    losses = _losses(student, view.labels, method, signals, weights, rows, labelled_share)

    # loss weights: v_m(i)
    seen = replace(view, teachers=_of_all(signals, rows, len(asked)))
    loss_weights = method.loss_weights.decide(seen).detach().to(losses).expand_as(losses)
    loss = (loss_weights * losses)[trained].sum()

    of_all = view.student.new_zeros(len(asked), weights.shape[1]).index_copy(0, rows, weights)
    right = torch.full_like(of_all, torch.nan).index_copy(0, rows, _right(view.labels[rows], signals, weights))
    return StepResult(loss, losses.detach(), of_all, loss_weights, asked, trained, right)


def _of_all(signals: TeacherSignals | None, rows: Tensor, count: int) -> Tensor | None:
    """[B, K, C]: the teachers' logits, NaN on rows that did not ask; None where no row did."""
    if signals is None or len(rows) == count:
        return None if signals is None else signals.logits
    logits = signals.logits
    return logits.new_full((count, *logits.shape[1:]), torch.nan).index_copy(0, rows, logits)


def _right(labels: Tensor, signals: TeacherSignals | None, like: Tensor) -> Tensor:
    """[b, K]: see `StepResult.right`."""
    if signals is None or labels.is_floating_point():
        return torch.full_like(like, torch.nan)
    known = has_label(labels).unsqueeze(1)
    if labels.ndim == 2:
        found = ((signals.logits > 0) == (labels == 1).unsqueeze(1)).all(-1).to(like)
    else:
        classes = (
            signals.logits[..., :-1] if of_candidates(labels) else signals.logits
        )  # all other tokens are no class to choose
        found = (classes.argmax(-1) == labels.unsqueeze(1)).to(like)
    return torch.where(known, found, torch.full_like(found, torch.nan))


def _losses(
    student: StudentOutputs,
    labels: Tensor,
    method: Method,
    signals: TeacherSignals | None,
    weights: Tensor,
    rows: Tensor,
    labelled_share: float,
) -> Tensor:
    """[B, M]: each kind's loss per row; 0 where a kind asks teachers and the row did not, and where a row has no label.

    Divided by the share of rows that ask (`RowSelector.asked_share`), or that have a label, so that the mean over all rows is one
    over those.
    """
    columns = []
    asking = student if len(rows) == len(labels) else student.take(rows)
    for kind in method.knowledge:
        if not kind.asks_teachers:
            columns.append(kind(student, None, labels) / labelled_share)
        elif signals is None:
            columns.append(_zeros(student))
        else:
            distances = kind(asking, signals, labels[rows])
            distances = asking.per_unit(distances) if kind.per_row else distances
            per_row = (weights * distances).sum(1) / method.rows.asked_share  # [b, K] → [b]
            columns.append(per_row.new_zeros(len(labels)).index_copy(0, rows, per_row))
    return torch.stack(columns, dim=1)


def _zeros(student: StudentOutputs) -> Tensor:
    """[B] of zeros with a graph: where no row asks, `backward` has to give zero gradients instead of failing."""
    return student.logits.new_zeros(len(student.logits)) + student.logits[:0].sum()
