"""A pool in which one teacher is right on each row, and which one can be seen from the row's vector; and selectors that learn it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distilect.knowledge.response import response_kl, response_mse
from distilect.selection import SelectionContext, StepView
from distilect.selection.rlkd import Policy, ReinforcedTeachers
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
        keys=keys(rows, seed),
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
    """A student whose logits of each row are those of `said`; a function of them may stand for its step."""

    view: StepView
    said: Tensor
    validation_logits: Tensor = field(default_factory=lambda: torch.eye(4))
    validation_labels: Tensor = field(default_factory=lambda: torch.tensor([0, 1, 2, 0]))
    asked: list[Tensor] = field(default_factory=list)
    limits: list[int | None] = field(default_factory=list)
    progress: float = 0.0
    then: Callable[[Tensor], Tensor] = lambda logits: logits

    def logits(self, rows: Tensor) -> Tensor:
        self.asked.append(rows)
        place = {row: i for i, row in enumerate(self.view.keys.tolist())}
        return self.then(self.said[[place[row] for row in rows.tolist()]])

    def credit(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.logits(rows), None

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        self.limits.append(limit)
        return self.validation_logits[:limit], self.validation_labels[:limit]


# ---- RL-KD's selectors ---------------------------------------------------------------------------------------------

# acts and learns from the first step, from every labelled row
EAGER: dict[str, Any] = {"warmup_epochs": 0, "policy_rows": 0, "share": 1.0, "update_every": 1, "batch_size": 32}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def selector_for(
    view: StepView,
    changes: dict[str, Any] | None = None,
    hide: float | None = 1.0,
    kind: type[ReinforcedTeachers] = ReinforcedTeachers,
    **options: Any,
) -> ReinforcedTeachers:
    """Set up on the rows of a view, by default without a look at any label; `changes` of the context."""
    selector = kind(**(EAGER | options))
    selector.setup(context_of(view, **(changes or {})))
    if hide is not None:
        selector.hide = hide
    return selector


def policy_of(selector: ReinforcedTeachers) -> Policy:
    assert selector.policy is not None
    return selector.policy


def parameters(selector: ReinforcedTeachers) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in policy_of(selector).parameters()])


def probabilities(selector: ReinforcedTeachers, view: StepView) -> Tensor:
    """σ(z) [B, K] without labels."""
    _, z, _ = selector.act(without_labels(view))
    return torch.sigmoid(z)


def gold_reward(view: StepView, weights: Tensor) -> Tensor:
    """[B], by row identity: log of the probability that the believed teachers give the label; minus the squared error."""
    assert view.teachers is not None
    if view.regression:
        reward = -(((weights * view.teachers.squeeze(-1)).sum(1) - view.labels) ** 2)
    else:
        believed = (weights.unsqueeze(2) * view.teachers.softmax(-1)).sum(1)
        reward = believed[torch.arange(len(view.labels)), view.labels].log()
    return reward[torch.argsort(view.keys)]


def give(selector: ReinforcedTeachers, reward: Tensor) -> None:
    """Rewards of the decisions since the last call, in the order of their row identities; float32 [n] or a single value."""
    selector.measure = lambda decisions, probe: reward.expand(len(decisions)).clone()  # type: ignore[method-assign]
    selector.learn(FakeProbe(planted(1)[0], torch.zeros(0)))


def learn(
    selector: ReinforcedTeachers,
    view: StepView,
    epochs: int,
    reward: Callable[[StepView, Tensor], Tensor] = gold_reward,
) -> None:
    """All rows as one batch in each epoch; the selector cuts them into its own updates."""
    for epoch in range(epochs):
        now = replace(view, epoch=epoch)
        give(selector, reward(now, selector.decide(now)))


def share_right(selector: ReinforcedTeachers, view: StepView, which: Tensor) -> float:
    """On how many rows without their label the most probable teacher is the right one."""
    asked = replace(view, epoch=99)
    return float((probabilities(selector, asked).argmax(1) == which).double().mean())
