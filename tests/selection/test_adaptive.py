"""One credit with prices: rows, and who asks about them, are the best that the budget can buy."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.selection import KnownRows, StepView
from distilect.selection.adaptive import AdaptiveRows
from distilect.selection.credit import Credit, CreditOptions
from distilect.training.state import from_bytes, to_bytes
from tests.selection.planted import FakeProbe, context_of, planted, without_labels
from tests.selection.test_alignment import groups, with_wrong_labels

ROWS = 240


@dataclass
class Knowing(FakeProbe):
    """A student with logits per row, and what is known of the rows without it; each row has `tokens` of them."""

    tokens: Tensor | None = None

    def known(self, rows: Tensor) -> KnownRows:
        place = {row: i for i, row in enumerate(self.view.keys.tolist())}
        index = torch.tensor([place[row] for row in rows.tolist()])
        tokens = torch.full((len(rows),), 10) if self.tokens is None else self.tokens[index]
        vectors = self.view.vectors
        assert vectors is not None
        return KnownRows(rows, self.view.labels[index], vectors[index], torch.arange(len(rows)), tokens)


def begun(view: StepView, student: Tensor | None = None, tokens: Tensor | None = None, **options: Any) -> AdaptiveRows:
    """At the beginning of epoch 0, with these logits of the student (default: it knows nothing)."""
    selector = AdaptiveRows(**options)
    selector.setup(context_of(view, multi_label=view.multi_label))
    said = torch.zeros_like(view.student) if student is None else student
    selector.begin_epoch(Knowing(view, said, tokens=tokens), 0)
    return selector


def planned(view: StepView, selector: AdaptiveRows, seed: int = 0) -> Tensor:
    """bool [N]: the rows of the plan."""
    found = torch.zeros(len(view.keys), dtype=torch.bool)
    found[torch.from_numpy(selector.plan(view.keys.numpy(), 0, seed))] = True
    return found


# ---- what the budget buys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_no_other_choice_of_the_same_cost_is_worth_more(seed: int) -> None:
    """All choices for eight rows, three each, by brute force."""
    view, _ = groups(40, seed, labelled=30)
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 30, (40,), generator=draws)
    selector = begun(view, tokens=tokens, ratio=0.5, price=0.7)
    few = 8
    labels, both, own = torch.randn(few, generator=draws), torch.rand(few, generator=draws), tokens[:few].double()
    labels, both = labels.double(), labels.double() + both.double()
    selector.worth = lambda rows: (labels, both, own, torch.zeros(few, dtype=torch.bool))  # type: ignore[method-assign]
    rows = selector.plan(view.keys[:few].numpy(), 0, 0)
    asks = selector.decide(replace(view, keys=view.keys[:few]))
    kept = torch.zeros(few, dtype=torch.bool)
    kept[torch.from_numpy(rows)] = True

    def worth_and_cost(choice: tuple[int, ...]) -> tuple[float, float]:
        worth = sum(float((0.0, labels[i], both[i])[c]) for i, c in enumerate(choice))
        return worth, sum(float(own[i]) * (0.0, 1.0, 1.7)[c] for i, c in enumerate(choice))

    ours = tuple(int(kept[i]) * (1 + int(asks[i])) for i in range(few))
    worth, cost = worth_and_cost(ours)
    assert len(rows) == few // 2 and worth > 0
    others = [worth_and_cost(choice) for choice in itertools.product(range(3), repeat=few)]
    assert max(w for w, c in others if c <= cost + 1e-9) == pytest.approx(worth)


def test_rows_that_the_student_has_learned_give_way_to_those_that_it_has_not() -> None:
    view, _ = groups(labelled=ROWS)
    group = view.vectors[:, :4].argmax(1)
    knows = 8.0 * F.one_hot(view.labels, 4) * (group < 2).unsqueeze(1)
    kept = planned(view, begun(view, knows))
    assert float((group[kept] >= 2).double().mean()) > 0.95


def test_rows_whose_label_is_wrong_are_left_out() -> None:
    view, wrong = with_wrong_labels(0.3, 0)
    kept = planned(view, begun(view))
    assert int(kept.sum()) == 300 and float(wrong[kept].double().mean()) < 0.02


def test_of_rows_that_are_alike_the_short_ones_are_trained_on() -> None:
    view, _ = groups(labelled=ROWS)
    tokens = torch.where(torch.arange(ROWS) % 2 == 0, 10, 40)
    kept = planned(view, begun(view, tokens=tokens))
    assert float(kept[::2].double().mean()) > 0.95


def test_teachers_are_asked_about_rows_where_they_are_worth_their_price_and_about_all_where_they_cost_nothing() -> None:
    """In two of four groups the teachers are right and labels are drawn; in the others teachers say nothing."""
    view, _ = groups(600, labelled=600)
    group = view.vectors[:, :4].argmax(1)
    draws = torch.Generator().manual_seed(0)
    wrong = (torch.rand(600, generator=draws) < 0.5) & (group < 2)
    labels = torch.where(wrong, torch.randint(4, (600,), generator=draws), group)
    right = 6.0 * F.one_hot(group, 4) * (group < 2).unsqueeze(1)
    view = replace(view, labels=labels, teachers=right.unsqueeze(1).expand(-1, 3, -1).float())
    selector = begun(view, ratio=1.0, price=0.05)
    planned(view, selector)
    asks = selector.decide(view)
    assert float(asks[wrong].double().mean()) > 0.7 and not asks[group >= 2].any()
    assert selector.asked_share == pytest.approx(float(asks.double().mean()))
    free = begun(view, ratio=1.0)
    planned(view, free)
    assert free.decide(view).all() and free.asked_share == 1.0
    dear = begun(view, ratio=0.5, price=1000.0)
    planned(view, dear)
    assert not dear.decide(view).any()


def test_rows_without_a_label_ask_whatever_it_costs() -> None:
    view, _ = groups(labelled=120)
    selector = begun(view, ratio=1.0, price=1000.0)
    planned(view, selector)
    assert selector.decide(view).tolist() == [False] * 120 + [True] * 120


@pytest.mark.parametrize("kind", ["regression", "multi-label"])
def test_other_kinds_of_task(kind: str) -> None:
    view, _ = groups(kind=kind)
    group = view.vectors[:, :4].argmax(1)
    knows = torch.zeros_like(view.student)
    if kind == "regression":
        knows = torch.where(group < 2, group.float(), 10.0).unsqueeze(1)
    else:
        knows = torch.where((group < 2).unsqueeze(1), 16.0 * F.one_hot(group, 4) - 8.0, 0.0)
    kept = planned(view, begun(view, knows))
    assert float((group[kept] >= 2).double().mean()) > 0.9


# ---- expected credit -------------------------------------------------------------------------------------------------


def test_expected_credit_is_the_real_one_where_a_row_says_what_the_rows_around_it_say() -> None:
    view, _ = groups(labelled=ROWS)
    assert view.teachers is not None and view.vectors is not None
    group = view.vectors[:, :4].argmax(1)
    view = replace(
        view, vectors=F.one_hot(group, 12).float(), teachers=view.teachers[F.one_hot(group, 4).argmax(0)][group]
    )
    view = replace(view, student=torch.randn(4, 4, generator=torch.Generator().manual_seed(1))[group])
    credit = Credit(CreditOptions())
    credit.setup(context_of(view))
    probe = Knowing(view, view.student)
    credit.begin_epoch(probe, 0)
    labels, best = credit.expected(probe.known(view.keys))
    torch.testing.assert_close(labels, credit.of_rows(view), rtol=1e-5, atol=1e-6)
    teachers = credit.of_outputs(view, view.teachers.softmax(-1)).max(1).values
    torch.testing.assert_close(best, teachers, rtol=1e-5, atol=1e-6)
    assert not credit.expected(probe.known(view.keys))[0].isnan().any()
    hidden = Knowing(without_labels(view), view.student)
    assert not credit.expected(hidden.known(view.keys))[0].any()


# ---- invariance ------------------------------------------------------------------------------------------------------


def test_a_plan_depends_on_no_order_of_rows_and_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    view, _ = groups()
    selector = begun(view, price=0.3)
    rows = view.keys.numpy()
    one = rows[selector.plan(rows, 0, 0)]
    asking = selector.asking
    order = np.random.default_rng(0).permutation(ROWS)
    other = rows[order][selector.plan(rows[order], 0, 0)]
    assert set(one) == set(other) and torch.equal(asking, selector.asking)
    monkeypatch.setattr("distilect.selection.adaptive._AT_ONCE", 7)
    assert set(rows[selector.plan(rows, 0, 0)]) == set(one) and torch.equal(asking, selector.asking)


def test_a_resumed_epoch_is_planned_as_before_without_another_look() -> None:
    view, _ = groups(labelled=ROWS)
    selector = begun(view, price=0.3)
    first, asking = planned(view, selector), selector.asking
    other = AdaptiveRows(price=0.3)
    other.setup(context_of(view))
    other.load_state_dict(from_bytes(to_bytes(selector.state_dict())))
    probe = Knowing(view, torch.randn(ROWS, 4))  # the student has changed since
    other.begin_epoch(probe, 0)
    assert torch.equal(planned(view, other), first) and torch.equal(other.asking, asking) and not probe.asked
    other.begin_epoch(probe, 1)
    assert len(probe.asked) == 1 and not torch.equal(planned(view, other), first)


def test_the_students_own_layer_and_looks_within_an_epoch_are_refused() -> None:
    with pytest.raises(
        ValueError, match="before it is chosen: set encoder: backbone, a checkpoint or a teacher's name"
    ):
        AdaptiveRows(encoder="student")
    with pytest.raises(ValueError, match="every is 5, expected 'epoch'"):
        AdaptiveRows(every=5)
    with pytest.raises(ValueError, match="on labelled rows, but there are 0"):
        AdaptiveRows().setup(context_of(without_labels(planted(10)[0])))
