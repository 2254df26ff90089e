"""The supervised gate: a classifier of the best teacher, fitted on labelled rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from distilect.selection import Encoder, Needs, StepView, gate
from distilect.selection.gate import GateTeachers
from tests.selection.planted import context_of, planted, without_labels
from tests.selection.views import make_view, part


def gate_for(view: StepView, **options: Any) -> GateTeachers:
    found = GateTeachers(**options)
    found.setup(context_of(view))
    return found


def halves(view: StepView) -> tuple[StepView, StepView]:
    rows = torch.arange(len(view.keys))
    return part(view, rows[::2]), part(view, rows[1::2])


def always(view: StepView, best: list[int]) -> StepView:
    """Teachers of which row i's best one is best[i]."""
    right = torch.nn.functional.one_hot(torch.tensor(best), 3).bool()
    said = torch.where(right, view.labels.unsqueeze(1), (view.labels.unsqueeze(1) + 1) % 4)
    return replace(view, teachers=3.0 * torch.nn.functional.one_hot(said, 4))


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_right_teacher_of_rows_that_it_was_not_fitted_on_without_their_labels(seed, regression):
    view, which = planted(400, seed=seed, regression=regression)
    fitted, others = halves(view)
    weights = gate_for(fitted).decide(without_labels(others))
    assert float((weights.argmax(1) == which[1::2]).double().mean()) >= 0.95
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert (weights >= 0).all() and float(weights.max(1).values.min()) < 0.9  # soft


def test_a_rows_label_changes_nothing_once_the_gate_is_fitted():
    view, _ = planted(100)
    fitted = gate_for(view)
    assert torch.equal(fitted.decide(view), fitted.decide(replace(view, labels=view.labels.roll(1))))


def test_a_teacher_that_is_always_the_best_gets_everything():
    view = make_view(60)
    weights = gate_for(always(view, [1] * 60)).decide(view)
    assert weights.tolist() == [[0.0, 1.0, 0.0]] * 60


def test_a_teacher_that_is_never_the_best_gets_nothing():
    view = make_view(60)
    weights = gate_for(always(view, [0, 2] * 30)).decide(view)
    assert not weights[:, 1].any() and weights[:, [0, 2]].all()
    torch.testing.assert_close(weights.sum(1), torch.ones(60))


@pytest.mark.parametrize("rare", [1, 2, 3, 4])
def test_teachers_that_are_rarely_the_best_do_not_stop_the_fit(rare):
    """With fewer of them than folds nothing can be held out."""
    view = make_view(40)
    weights = gate_for(always(view, [2] * rare + [0] * (40 - rare))).decide(view)
    assert torch.isfinite(weights).all() and weights[:, 2].all()
    torch.testing.assert_close(weights.sum(1), torch.ones(40))


def test_two_rows_are_enough():
    weights = gate_for(always(make_view(2), [0, 1])).decide(make_view(5))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))


def test_without_any_label_it_says_what_it_needs():
    with pytest.raises(ValueError, match="needs labelled rows to be fitted on: expected labels in train"):
        gate_for(make_view(5, unlabelled=tuple(range(5))))


def test_it_is_fitted_on_labelled_rows_only_and_at_most_so_many(monkeypatch):
    view, _ = planted(200)
    labels = view.labels.clone()
    labels[50:] = -100
    some = replace(view, labels=labels)
    scaled = gate_for(some).builder
    alone = GateTeachers()
    alone.builder = scaled  # the scale is taken from all rows, labelled or not
    alone.builder.fit = lambda sample: None  # type: ignore[method-assign]
    alone.setup(context_of(part(view, torch.arange(50))))
    assert torch.equal(gate_for(some).decide(view), alone.decide(view))
    asked: list[tuple[int, bool]] = []
    context = context_of(view)

    def sample(limit: int, labelled: bool = False) -> Any:
        asked.append((limit, labelled))
        return context.sample(limit, labelled=labelled)

    monkeypatch.setattr(gate, "LIMIT", 70)
    GateTeachers().setup(replace(context, sample=sample))
    assert asked == [(70, False), (70, True)]


def test_two_fits_are_equal_and_a_rows_weights_depend_on_it_alone():
    view, _ = planted(150)
    gates = [gate_for(view), gate_for(view)]
    whole = gates[0].decide(view)
    assert torch.equal(whole, gates[1].decide(view))
    index = torch.randperm(150, generator=torch.Generator().manual_seed(0))[:40]
    torch.testing.assert_close(gates[0].decide(part(view, index)), whole[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoder", ["backbone", None])
@pytest.mark.parametrize("regression", [False, True])
def test_every_state_gives_shares(encoder, regression):
    view = make_view(60, regression=regression)
    weights = gate_for(view, encoder=encoder).decide(view)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(60))


def test_vectors_that_another_selector_asked_for_are_left_alone():
    view = make_view(60)
    fitted = gate_for(view, encoder=None)
    assert torch.equal(fitted.decide(view), fitted.decide(replace(view, vectors=None, pooled=None)))


def test_teachers_that_rule_classes_out_give_no_nan():
    view = make_view(60)
    teachers = torch.full_like(view.teachers, -torch.inf)
    teachers.scatter_(2, torch.randint(4, (60, 3, 1), generator=torch.Generator().manual_seed(0)), 0.0)
    view = replace(view, teachers=teachers)
    assert torch.isfinite(gate_for(view).decide(view)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "student"}, "before the student learns: expected a frozen encoder"),
        ({"pooling": "max"}, "pooling is 'max', expected one of cls, mean"),
        ({"pooled": "mean"}, "unknown option 'pooled'.*Did you mean 'pooling'"),
    ],
)
def test_bad_options_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        GateTeachers(**options)


def test_it_keeps_all_teachers_and_asks_for_its_encoder():
    assert GateTeachers().kept is None and not GateTeachers().narrows
    assert GateTeachers(pooling="mean").needs == Needs(encoder=Encoder("backbone", "mean"), labels=True)
    assert GateTeachers(encoder=None).needs == Needs(labels=True)
