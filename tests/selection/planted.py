"""A pool in which one teacher is right on each row, and which one can be seen from the row's vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distilect.knowledge.response import response_kl, response_mse
from distilect.selection import SelectionContext, StepView
from tests.selection.views import keys, sample_of

TEACHERS = ("a", "b", "c")


def planted(rows: int = 300, seed: int = 0, *, regression: bool = False) -> tuple[StepView, Tensor]:
    """A view of all rows and the number of each row's right teacher, int64 [N]. The student knows nothing.

    Teachers are equally sure of themselves wherever they are.
    """
    generator = torch.Generator().manual_seed(seed)
    part = torch.randint(3, (rows,), generator=generator)
    right = torch.nn.functional.one_hot(part, 3).bool()
    noise = 0.3 * torch.randn(rows, 6, generator=generator)
    vectors = torch.nn.functional.one_hot(part, 6) + noise
    if regression:
        labels = torch.randn(rows, generator=generator)
        elsewhere = torch.randn(rows, 3, generator=generator)
        teachers = torch.where(right, labels.unsqueeze(1), elsewhere).unsqueeze(-1)
    else:
        labels = torch.randint(4, (rows,), generator=generator)
        wrong = (labels.unsqueeze(1) + torch.randint(1, 4, (rows, 3), generator=generator)) % 4
        teachers = 3.0 * torch.nn.functional.one_hot(torch.where(right, labels.unsqueeze(1), wrong), 4)
    student = torch.zeros(rows, 1 if regression else 4)
    view = StepView(
        rows=keys(rows, seed),
        labels=labels,
        student=student,
        pooled=None,
        teachers=teachers,
        progress=0.0,
        epoch=0,
        step=0,
        seed=seed,
        vectors=vectors,
    )
    return view, part


def context_of(view: StepView, **changes: Any) -> SelectionContext:
    """The context of a training on the rows of a view."""
    labelled = int(view.has_label.sum())
    context = SelectionContext(
        teachers=TEACHERS,
        kinds=("labels", "response"),
        regression=view.regression,
        seed=view.seed,
        num_labelled=labelled,
        num_rows=len(view.keys),
        sample=sample_of(view),
        response=response_mse if view.regression else lambda s, t: response_kl(s, t, 4.0),
    )
    return replace(context, **changes)


def without_labels(view: StepView) -> StepView:
    empty = torch.nan if view.regression else -100
    return replace(view, labels=torch.full_like(view.labels, empty))


@dataclass
class FakeProbe:
    """A student that says of each row what `said` holds; a function of what it was before may stand for its step."""

    view: StepView
    said: Tensor
    validation_logits: Tensor = field(default_factory=lambda: torch.eye(4))
    validation_labels: Tensor = field(default_factory=lambda: torch.tensor([0, 1, 2, 0]))
    asked: list[Tensor] = field(default_factory=list)
    limits: list[int | None] = field(default_factory=list)
    then: Callable[[Tensor], Tensor] = lambda logits: logits

    def logits(self, rows: Tensor) -> Tensor:
        self.asked.append(rows)
        place = {row: i for i, row in enumerate(self.view.keys.tolist())}
        return self.then(self.said[[place[row] for row in rows.tolist()]])

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        self.limits.append(limit)
        return self.validation_logits[:limit], self.validation_labels[:limit]
