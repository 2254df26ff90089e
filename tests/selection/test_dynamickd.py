"""DynamicKD's uncertainty and its three arms, against closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilect.config import MethodConfig
from distilect.data import Window
from distilect.errors import MethodError
from distilect.selection import (
    Passes,
    PlannedRows,
    StepView,
    TeacherSelector,
    build_method,
    build_teacher_selector,
    row_uniform,
)
from distilect.selection.dynamickd import (
    UncertainRows,
    UncertainTeachers,
    UncertainWeights,
    confidence,
    entropy,
    hats,
    margin,
)
from distilect.selection.dynamickd_regression import distance, relative, spread
from distilect.selection.dynamickd_rows import UncertainRowsPlan
from distilect.selection.registry import ROWS
from distilect.selection.uncertainty_memory import Recent, Scores, Stored, quantiles
from distilect.training.state import load_state, save_state
from distilect.training.step import distillation_loss
from tests.knowledge.making import layout, student_outputs, take, teacher_signals
from tests.selection.views import keys, make_context, make_view, part

KINDS = ("labels", "response", "feature")


def logits_of(*probabilities: float) -> Tensor:
    """[1, C] with these probabilities; 0 is -inf."""
    return torch.tensor([probabilities]).log()


def logits_with(u: Tensor) -> Tensor:
    """[B, 2] whose normalised entropy is `u`, by bisection on p in [1/2, 1]."""
    low, high = torch.full_like(u.double(), 0.5), torch.ones(len(u), dtype=torch.float64)
    for _ in range(60):
        p = (low + high) / 2
        h = (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)
        low, high = torch.where(h > u, p, low), torch.where(h > u, high, p)
    return torch.stack([p, 1 - p], 1).log().float()


def view_with(u: Tensor, teachers: int = 2, seed: int = 0, **more: Any) -> StepView:
    """A view whose rows have these uncertainties."""
    return replace(make_view(len(u), teachers, 2, seed=seed, **more), student=logits_with(u))


def random_u(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.98 + 0.01


@dataclass
class FakeProbe:
    """Gives every row the logits that `outputs` has for it, and notes which rows were run."""

    keys: Tensor
    outputs: Tensor  # [N, C]
    ran: list[tuple[Tensor, Passes]] = field(default_factory=list)

    def run(self, keys: Tensor, passes: Passes) -> Tensor:
        self.ran.append((keys, passes))
        place = [self.keys.tolist().index(key) for key in keys.tolist()]
        return self.outputs[place].expand(passes.count, -1, -1)

    def run_rows(self, keys: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        return self.run(keys, passes), torch.arange(len(keys))

    def logits(self, keys: Tensor) -> Tensor:
        return self.run(keys, Passes())[0]

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        raise AssertionError("nobody asked for it")


def through_file(selector: Any, fresh: Any, path: Any) -> Any:
    """`fresh` in the state that `selector` has, by way of a checkpoint's file."""
    save_state(selector.state_dict(), path / "state.safetensors")
    fresh.load_state_dict(load_state(path / "state.safetensors"))
    return fresh


# ---- uncertainty ---------------------------------------------------------------------------------------------------


def test_the_scores_are_their_closed_forms():
    logits = logits_of(0.5, 0.3, 0.2)
    h = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2)) / math.log(3)
    assert float(entropy(logits)) == pytest.approx(h, rel=1e-6)
    assert float(margin(logits)) == pytest.approx(1 - (0.5 - 0.3), rel=1e-6)
    assert float(confidence(logits)) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_equal_logits_are_uncertain_and_one_hot_ones_certain(classes):
    equal, one_hot = torch.zeros(1, classes), torch.full((1, classes), -torch.inf)
    one_hot[0, 1] = 3.0
    assert float(entropy(equal)) == pytest.approx(1) and float(entropy(one_hot)) == 0
    assert float(margin(equal)) == 1 and float(margin(one_hot)) == 0
    assert float(confidence(equal)) == pytest.approx(1 - 1 / classes) and float(confidence(one_hot)) == 0


@pytest.mark.parametrize("score", [entropy, margin, confidence])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_of_zero_and_huge_logits_give_no_nan(score, dtype):
    """PITFALLS 27: p log p is NaN at p = 0, and a sort of NaN is anything."""
    largest = torch.finfo(dtype).max
    rows = [[0.0, -torch.inf, -torch.inf], [largest, 0.0, -largest], [6e4, 6e4, -6e4], [1e-7, 0.0, 0.0]]
    found = score(torch.tensor(rows).to(dtype))
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    assert found[0] == found[1] == 0 and float(found[3]) == pytest.approx(float(score(torch.zeros(1, 3))))


@pytest.mark.parametrize("score", [entropy, margin, confidence])
def test_scores_are_detached(score):
    """PITFALLS 26."""
    assert not score(torch.randn(4, 3, requires_grad=True)).requires_grad


def test_spread_is_the_standard_deviation_over_passes():
    scores = torch.tensor([[[1.0], [2.0]], [[3.0], [2.0]]])  # two passes, two rows
    assert spread(scores).tolist() == [1.0, 0.0]
    logits = torch.stack([logits_of(0.8, 0.2), logits_of(0.4, 0.6)])
    assert float(spread(logits)) == pytest.approx(0.2, rel=1e-5)


def test_distance_is_from_the_mean_of_the_teachers_and_1_half_at_the_median():
    teachers = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    d = distance(torch.tensor([[5.0], [-1.0]]), teachers)
    assert d.tolist() == [3.0, 1.0]
    assert relative(d, torch.tensor([1.0])).tolist() == [0.75, 0.5]
    assert relative(torch.zeros(2), torch.zeros(1)).tolist() == [0.0, 0.0]  # a student like its teachers: no NaN


# ---- what is remembered --------------------------------------------------------------------------------------------


def test_recent_scores_count_from_the_next_step_on_and_the_oldest_are_forgotten():
    memory = Recent(4)
    memory.buffer.add(Scores(torch.tensor([5, 1]), torch.tensor([0.5, 0.1])))
    assert not len(memory.values)
    memory.end_step()
    for step in ([3, 4], [9, 7]):
        memory.buffer.add(Scores(torch.tensor(step), torch.tensor(step) / 10))
        memory.end_step()
    torch.testing.assert_close(memory.values, torch.tensor([0.3, 0.4, 0.7, 0.9]))
    torch.testing.assert_close(quantiles(memory.values, [0.5, 0.0]), torch.tensor([0.55, 0.3]))


def test_recent_scores_do_not_depend_on_how_a_step_was_cut():
    rows, scores, whole, cut = keys(30), random_u(30), Recent(100), Recent(100)
    whole.buffer.add(Scores(rows, scores))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    for some in order.split(7):
        cut.buffer.add(Scores(rows[some], scores[some]))
    whole.end_step(), cut.end_step()
    assert torch.equal(whole.values, cut.values)


def test_stored_scores_are_found_by_identity_and_change_between_epochs_only():
    memory, rows = Stored(), keys(50)
    assert memory.at(rows).isnan().all()
    memory.put(Scores(rows[:40], torch.arange(40) / 40))
    memory.buffer.add(Scores(rows[[3, 45]], torch.tensor([9.0, 8.0])))
    assert float(memory.at(rows[[3]])) == pytest.approx(3 / 40) and memory.at(rows[[45]]).isnan()
    memory.end_epoch()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([torch.arange(40) / 40, torch.full((10,), torch.nan)])
    expected[3], expected[45] = 9.0, 8.0
    torch.testing.assert_close(memory.at(rows[order]), expected[order], equal_nan=True)


def test_of_equal_texts_the_higher_score_is_stored_in_whatever_order_they_came():
    for scores in ([0.2, 0.7, 0.5], [0.5, 0.2, 0.7]):
        memory = Stored()
        memory.put(Scores(torch.tensor([4, 4, 4]), torch.tensor(scores)))
        assert memory.at(torch.tensor([4])).tolist() == pytest.approx([0.7])


def test_quantiles_of_stored_scores_follow_new_scores():
    memory = Stored()
    memory.put(Scores(torch.arange(3), torch.tensor([0.0, 0.5, 1.0])))
    assert memory.quantiles(0.5).tolist() == [0.5]
    memory.put(Scores(torch.arange(3), torch.tensor([0.0, 0.1, 0.2])))
    assert memory.quantiles(0.5).tolist() == pytest.approx([0.1])


# ---- arm 1: which teacher ------------------------------------------------------------------------------------------


def arm_1(teachers: int = 2, **options: Any) -> UncertainTeachers:
    """Ready; teacher-(K-1) is the smallest in `make_context`."""
    selector = UncertainTeachers(**options)
    selector.setup(make_context(teachers))
    return selector


def begun(selector: UncertainTeachers | UncertainRows | UncertainRowsPlan, rows: Tensor, u: Tensor) -> FakeProbe:
    """Let an epoch begin in which the rows of train have these uncertainties."""
    probe = FakeProbe(rows, logits_with(u))
    selector.begin_epoch(probe, 0)
    return probe


def test_every_teacher_selector_of_it_is_one():
    assert isinstance(UncertainTeachers(), TeacherSelector)


def test_soft_weights_of_two_teachers_are_u_and_1_minus_u():
    u = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(hats(u, 2), torch.stack([u, 1 - u], 1))


def test_soft_weights_of_three_teachers_lie_between_two_neighbours():
    found = hats(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), 3)
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(expected).float())


@given(st.integers(1, 7), st.integers(0, 100))
def test_soft_weights_sum_to_1_and_are_shared_by_two_teachers_at_most(count, seed):
    weights = hats(random_u(50, seed), count)
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    assert (weights >= 0).all() and int((weights > 0).sum(1).max()) <= 2


def test_soft_instance_is_the_rows_own_entropy():
    u = random_u(20)
    weights = arm_1(mode="soft-instance").decide(view_with(u))
    torch.testing.assert_close(weights, torch.stack([1 - u, u], 1), atol=1e-5, rtol=0)  # teacher-1 is small


def test_soft_is_the_mean_over_the_batch_as_published_or_over_what_is_remembered():
    u, rows = random_u(20), keys(20)
    weights = arm_1(mode="soft", by="batch").decide(view_with(u))
    torch.testing.assert_close(weights[:, 1], u.mean().expand(20), atol=1e-5, rtol=0)
    selector = arm_1(mode="soft")
    begun(selector, rows, u)
    few = selector.decide(view_with(torch.full((3,), 0.9)))
    torch.testing.assert_close(few[:, 1], u.mean().expand(3), atol=1e-5, rtol=0)


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["batch", "epoch"]))
@settings(max_examples=60)
def test_hard_parts_are_disjoint_and_cover_the_batch(size, teachers, by):
    """PITFALLS 28: a half of one row is empty, and gives no NaN."""
    u = random_u(size, seed=size)
    selector = arm_1(teachers, by=by, order=[f"teacher-{k}" for k in range(teachers)])
    begun(selector, keys(size), u)
    weights = selector.decide(view_with(u, teachers))
    assert set(weights.flatten().tolist()) <= {0.0, 1.0} and (weights.sum(1) == 1).all()
    place = weights.argmax(1)
    if by == "batch":
        bounds = [k * size // teachers for k in range(teachers + 1)]
        assert place.bincount(minlength=teachers).tolist() == np.diff(bounds).tolist()
    for k in range(teachers - 1):  # whoever has a smaller teacher is at least as uncertain
        if (place <= k).any() and (place > k).any():
            assert u[place <= k].min() >= u[place > k].max()


def test_the_published_split_gives_the_smaller_half_of_an_odd_batch_to_the_small_teacher():
    weights = arm_1(by="batch").decide(view_with(torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3])))
    assert weights[:, 1].tolist() == [1, 0, 0, 1, 0]
    assert arm_1(by="batch").decide(view_with(torch.tensor([0.99]))).tolist() == [[1.0, 0.0]]


def test_over_an_epoch_exactly_half_of_the_rows_has_either_teacher():
    u, selector = random_u(100), arm_1()
    begun(selector, keys(100), u)
    weights = selector.decide(view_with(u))
    assert weights.sum(0).tolist() == [50, 50]
    assert set(u.topk(50).indices.tolist()) == set(weights[:, 1].nonzero().flatten().tolist())


@pytest.mark.parametrize("mode", ["hard", "soft", "soft-instance"])
@pytest.mark.parametrize("teachers", [2, 3])
def test_weights_depend_on_neither_order_nor_batch(mode, teachers):
    """PITFALLS 30."""
    u = random_u(60)
    view, selector = view_with(u, teachers), arm_1(teachers, mode=mode)
    begun(selector, keys(60), u)
    whole = selector.decide(view)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    parts = [selector.decide(part(view, some)) for some in order.split(7)]
    assert torch.equal(torch.cat(parts), whole[order])


def test_a_choice_by_epoch_is_that_of_the_rows_last_score_until_the_next_epoch():
    rows, u = keys(10), torch.linspace(0.05, 0.95, 10)
    selector = arm_1()
    probe = begun(selector, rows, u)
    assert len(probe.ran) == 1 and len(probe.ran[0][0]) == 10
    turned = view_with(u.flip(0))
    assert selector.decide(turned)[:, 1].tolist() == [0] * 5 + [1] * 5  # still by the scores before the epoch
    selector.begin_epoch(probe, 0)  # resumed within it
    assert selector.decide(turned)[:, 1].tolist() == [0] * 5 + [1] * 5
    selector.begin_epoch(probe, 1)
    assert selector.decide(view_with(u))[:, 1].tolist() == [1] * 5 + [0] * 5
    assert len(probe.ran) == 1  # what was seen in the epoch is enough


def test_the_first_scores_have_dropout_on_as_those_of_the_steps_have():
    selector = arm_1()
    assert begun(selector, keys(6), random_u(6)).ran[0][1] == Passes(1, dropout=True)
    assert selector.needs.passes is None  # later scores come from the training pass, for free


def test_teachers_are_ordered_by_size_then_quality_or_as_told():
    context = replace(make_context(3), teacher_sizes=(300, 100, 100), validation_scores=(0.1, 0.9, 0.8))
    certain, uncertain = torch.tensor([0.0, 0.5, 1.0]), ()
    for order, expected in (
        ("size", [0, 1, 2]),
        ("quality", [1, 2, 0]),
        (["teacher-0", "teacher-1", "teacher-2"], [2, 1, 0]),
    ):
        selector = UncertainTeachers(mode="soft-instance", order=order)
        selector.setup(context)
        found = selector.decide(view_with(certain, 3)).argmax(1).tolist()
        assert found == expected, (order, uncertain)


def test_an_order_that_cannot_be_known_is_refused_with_what_to_do():
    context = make_context(3)
    with pytest.raises(ValueError, match="size of teacher-1 is not known: set order: quality, or order: names"):
        UncertainTeachers().setup(replace(context, teacher_sizes=(5, 0, 7)))
    with pytest.raises(ValueError, match="order: quality needs a validation split"):
        UncertainTeachers(order="quality").setup(replace(context, validation_scores=()))
    with pytest.raises(ValueError, match="expected every teacher once: teacher-0, teacher-1, teacher-2"):
        UncertainTeachers(order=["teacher-0", "teacher-1"]).setup(context)
    lone = UncertainTeachers()
    lone.setup(replace(make_context(1), teacher_sizes=()))
    assert lone.decide(view_with(random_u(4), 1)).tolist() == [[1.0]] * 4


@pytest.mark.parametrize("mode", ["hard", "soft", "soft-instance"])
@pytest.mark.parametrize("by", ["epoch", "batch"])
def test_in_regression_the_distance_from_the_teachers_stands_for_uncertainty(mode, by):
    view = make_view(40, 2, regression=True)
    selector = UncertainTeachers(mode=mode, by=by)
    selector.setup(make_context(2, regression=True))
    rows = make_view(64, 2, seed=1, regression=True).keys  # of the context's sample
    selector.begin_epoch(FakeProbe(rows, torch.zeros(64, 1)), 0)
    weights = selector.decide(view)
    torch.testing.assert_close(weights.sum(1), torch.ones(40))
    d = (view.student - view.teachers.mean(1)).abs().squeeze(1)
    small = weights[:, 1]
    if mode == "soft":
        assert len(small.unique()) == 1 and 0.2 < float(small[0]) < 0.8
    else:  # the further away, the more weight has the small teacher
        assert (small[d.argsort()].diff() >= 0).all() and float(small.min()) < 0.3 < 0.6 < float(small.max())
    if mode == "soft-instance" and by == "batch":
        torch.testing.assert_close(small, d / (d + d.median().new_tensor(np.median(d.numpy()))))


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_resumed_teacher_selector_goes_on_as_if_it_had_never_stopped(mode, tmp_path):
    u, rows = random_u(80), keys(80)
    selector = arm_1(mode=mode)
    probe = begun(selector, rows, u)
    selector.decide(part(view_with(u.flip(0)), torch.arange(40)))
    selector.learn(probe)
    again = through_file(selector, arm_1(mode=mode), tmp_path)
    for epoch in (0, 1):
        for one in (selector, again):
            one.begin_epoch(probe, epoch)
        view = view_with(random_u(80, seed=3 + epoch))
        assert torch.equal(selector.decide(view), again.decide(view))
        assert selector.health() == pytest.approx(again.health())


def test_the_teachers_health_has_mean_and_threshold():
    selector = arm_1()
    begun(selector, keys(4), torch.tensor([0.2, 0.4, 0.6, 0.8]))
    selector.decide(view_with(torch.tensor([0.1, 0.3, 0.3, 0.1])))
    assert selector.health() == pytest.approx({"uncertainty/mean": 0.2, "uncertainty/threshold": 0.5}, abs=1e-5)
    assert selector.health() == {}


# ---- arm 2: which rows ---------------------------------------------------------------------------------------------


def arm_2(name: str = "uncertainty", regression: bool = False, **options: Any) -> Any:
    selector = ROWS[name](**options)
    selector.setup(make_context(2, regression=regression))
    return selector


@pytest.mark.parametrize("score", ["entropy", "margin", "confidence"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.5, 0.99])
def test_the_most_uncertain_rows_of_a_batch_are_chosen_and_never_none(score, reverse, ratio):
    """PITFALLS 28: int(r·B) is 0 for a small batch, and the mean over nothing NaN."""
    view = make_view(33, 2, 5)
    chosen = arm_2(ratio=ratio, score=score, reverse=reverse).decide(view)
    values = {"entropy": entropy, "margin": margin, "confidence": confidence}[score](view.student)
    order = values.argsort(descending=not reverse)
    count = max(1, int(ratio * 33))
    assert set(chosen.nonzero().flatten().tolist()) == set(order[:count].tolist())
    assert arm_2(ratio=ratio, score=score).decide(part(view, torch.tensor([4]))).tolist() == [True]


def test_a_share_that_floating_point_makes_a_little_less_is_not_cut():
    assert int(0.29 * 100) == 28
    assert int(arm_2(ratio=0.29).decide(make_view(100)).sum()) == 29


def test_random_choices_have_the_same_counts_and_are_drawn_anew_each_epoch():
    selector = arm_2(ratio=0.25, score="random")
    chosen = [selector.decide(make_view(200, epoch=epoch)) for epoch in range(8)]
    assert all(int(c.sum()) == 50 for c in chosen)
    assert float(torch.stack(chosen).any(0).float().mean()) > 0.8  # 1 - 0.75^8; the same rows would give 0.25
    assert torch.equal(selector.decide(make_view(200)), chosen[0])


@pytest.mark.parametrize("options", [{}, {"score": "random"}, {"reverse": True}])
def test_a_choice_within_a_batch_does_not_depend_on_the_order_of_its_rows(options):
    for student in (None, torch.zeros(60, 4)):  # all rows tie: the order must not break it
        view = make_view(60) if student is None else replace(make_view(60), student=student)
        selector = arm_2(ratio=0.3, **options)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
        assert torch.equal(selector.decide(part(view, order)), selector.decide(view)[order])


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("options", [{}, {"score": "random"}, {"reverse": True}])
def test_whole_rows_are_ranked_and_chosen_with_all_of_their_words(how, options):
    rows = keys(20, seed=3)[torch.arange(60) % 20]  # a row's words need not stand side by side: ranks join their parts
    view = replace(make_view(60), rows=rows)
    selector = arm_2(ratio=0.3, whole_rows=how, **options)
    chosen = selector.decide(view)
    of_row = chosen.reshape(3, 20)
    assert (of_row == of_row[0]).all() and int(of_row[0].sum()) == 6
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.equal(selector.decide(view.take(order, None)), chosen[order])
    if "score" not in options:
        u = entropy(view.student).reshape(3, 20)
        u = u.mean(0) if how == "mean" else u.amax(0)
        assert set(of_row[0].nonzero().flatten().tolist()) == set((-u if options else u).topk(6).indices.tolist())
    alone = arm_2(ratio=0.3, **options)  # where rows are units the option changes nothing
    assert torch.equal(selector.decide(replace(view, rows=None)), alone.decide(view))


def test_what_becomes_of_the_rest_and_what_it_needs():
    labels, skip, plan = (arm_2(name, ratio=0.1) for name in ("uncertainty", "uncertainty-skip", "uncertainty-plan"))
    assert labels.trains_rest and not labels.before_step and labels.needs.passes is None
    assert not isinstance(labels, PlannedRows)
    assert not skip.trains_rest and skip.before_step and skip.asked_share == 1
    assert skip.needs.passes == Passes()  # a pass of its own may as well be without dropout
    dropout = arm_2(score="spread")  # scored before the step: then the choice is over all of its parts
    assert dropout.needs.passes == Passes(4, dropout=True) and dropout.before_step and dropout.trains_rest
    assert labels.compares and not skip.compares and not dropout.compares
    assert isinstance(plan, PlannedRows) and not plan.trains_rest and not plan.before_step
    assert plan.needs.passes is None and plan.planned(40) == 4 and plan.planned(3) == 1
    for free in ({"score": "random"}, {"ratio": 1.0}):
        assert arm_2("uncertainty-skip", **free).needs.passes is None


def test_nothing_is_chosen_away_at_ratio_1():
    for name in ("uncertainty", "uncertainty-skip", "uncertainty-plan"):
        assert arm_2(name, ratio=1.0).decide(make_view(9)).all()
    assert arm_2(ratio=1.0, name="uncertainty-plan").plan(keys(9).numpy(), 0, 0).tolist() == list(range(9))


# ---- plans


def plans(selector: UncertainRowsPlan, rows: Tensor, windows: int = 1, epoch: int = 0) -> list[np.ndarray]:
    """The plans of an epoch's windows."""
    if windows == 1:
        return [selector.plan(rows.numpy(), epoch, 7)]
    planned = selector.planned(len(rows))
    full = planned // windows
    sizes = [full] * (windows - 1) + [planned - full * (windows - 1)]
    return [selector.plan(rows.numpy(), epoch, 7, Window(n, windows, size)) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_plan_is_of_the_most_uncertain_rows_of_all(reverse):
    rows, u = keys(100), random_u(100)
    selector = arm_2(ratio=0.2, name="uncertainty-plan", reverse=reverse)
    probe = begun(selector, rows, u)
    (plan,) = plans(selector, rows)
    assert plan.tolist() == sorted(u.topk(20, largest=not reverse).indices.tolist())
    assert len(probe.ran) == 1 and len(probe.ran[0][0]) == 100


def test_a_plan_is_of_rows_not_of_positions():
    rows, u = keys(100), random_u(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    found = []
    for index in (torch.arange(100), order):
        selector = arm_2(ratio=0.2, name="uncertainty-plan", refresh=1)
        begun(selector, rows[index], u[index])
        found.append([set(rows[index][plan].tolist()) for plan in plans(selector, rows[index], windows=2)])
    assert found[0] == found[1]


def test_a_windows_pool_is_all_that_its_plan_looks_at_and_another_one_each_epoch():
    rows, u = keys(200), random_u(200)
    selector = arm_2(ratio=0.25, name="uncertainty-plan", refresh=1)
    probe = begun(selector, rows, u)
    pools = []
    for epoch in (0, 1):
        selector.begin_epoch(probe, epoch)
        plan, _ = plans(selector, rows, windows=2, epoch=epoch)
        ran = {row: number for number, row in enumerate(rows.tolist())}
        pool = [ran[row] for row in probe.ran[-2][0].tolist()]
        assert len(pool) == 100 and set(plan) <= set(pool)
        assert sorted(plan) == sorted(np.array(pool)[u[pool].topk(25).indices.numpy()])
        pools.append(set(pool))
    assert 35 < len(pools[0] & pools[1]) < 65  # 50 expected


def test_windows_of_an_epoch_share_the_rows_among_them():
    rows, u = keys(103), random_u(103)
    selector = arm_2(ratio=0.3, name="uncertainty-plan", refresh=2)
    probe = begun(selector, rows, u)
    found = plans(selector, rows, windows=4)
    assert sum(map(len, found)) == selector.planned(103) == 31
    assert len(np.unique(np.concatenate(found))) == 31
    looked = torch.cat([ran for ran, _ in probe.ran])
    assert len(looked) == len(looked.unique()) == 103  # each row is scored once per epoch


def test_windows_at_ratio_1_are_all_rows_once():
    rows = keys(40)
    found = plans(arm_2(ratio=1.0, name="uncertainty-plan", refresh=2), rows, windows=3)
    assert sorted(np.concatenate(found)) == list(range(40))


def test_random_plans_need_no_student_and_differ_by_window():
    rows, selector = keys(100), arm_2(ratio=0.2, name="uncertainty-plan", score="random", refresh=1)
    one, two = plans(selector, rows, windows=2)
    assert set(one) != set(two) and len(one) == len(two) == 10


def test_rounds_ask_a_share_in_all_and_every_epoch_has_all_that_were_chosen():
    rows, u = keys(100), random_u(100)
    selector = arm_2(ratio=0.2, name="uncertainty-rounds", rounds=2)
    probe = begun(selector, rows, u)
    first, second, third = (selector.plan(rows.numpy(), epoch, 7) for epoch in (0, 1, 2))
    assert len(first) == len(second) == len(third) == 20
    assert len(np.unique(first)) == 10 and len(probe.ran) == 1  # the first ten are drawn, without a look at the student
    rest = np.setdiff1d(np.arange(100), first)
    assert len(probe.ran[0][0]) == 90
    added = rest[u[rest].topk(10).indices.numpy()]
    assert sorted(second) == sorted(third) == sorted([*np.unique(first), *added])


def test_rounds_repeat_rows_evenly_and_ask_equal_texts_once(tmp_path):
    rows = keys(60)
    rows[30:] = rows[:30]
    options: dict[str, Any] = {"ratio": 0.25, "name": "uncertainty-rounds", "rounds": 3}
    selector = arm_2(**options)
    begun(selector, rows, random_u(30).repeat(2))
    counts = [np.bincount(selector.plan(rows.numpy(), epoch, 7), minlength=60) for epoch in range(2)]
    assert [int((count > 0).sum()) for count in counts] == [5, 10]
    assert set(counts[0][counts[0] > 0]) == {3} and set(counts[1][counts[1] > 0]) == {1, 2}
    again = through_file(selector, arm_2(**options), tmp_path)
    later = FakeProbe(rows, logits_with(random_u(30, seed=5).repeat(2)))
    for one in (selector, again):
        one.begin_epoch(later, 1)
        assert np.array_equal(np.bincount(one.plan(rows.numpy(), 1, 7), minlength=60), counts[1])
    assert not later.ran
    following = [one.plan(rows.numpy(), 2, 7).tolist() for one in (selector, again)]
    assert following[0] == following[1] and len(set(following[0])) == 15
    control = arm_2(**{**options, "score": "random"})
    probe = begun(control, rows, random_u(60))
    assert len(set(control.plan(rows.numpy(), 2, 7).tolist())) == 15 and not probe.ran


def test_a_plan_is_the_same_when_a_run_is_resumed_within_it(tmp_path):
    rows, u = keys(60), random_u(60)
    options: dict[str, Any] = {"ratio": 0.3, "name": "uncertainty-plan", "refresh": 1}
    selector = arm_2(**options)
    begun(selector, rows, u)
    *_, third = plans(selector, rows, windows=3)
    assert "uncertainty/score" in selector.health()
    again = through_file(selector, arm_2(**options), tmp_path)
    later = FakeProbe(rows, logits_with(random_u(60, seed=5)))  # the student has learned in the meantime
    window = Window(2, 3, 6)
    for one in (selector, again):
        one.begin_epoch(later, 0)
        assert one.plan(rows.numpy(), 0, 7, window).tolist() == third.tolist()
    assert not later.ran  # this window was scored before it was saved
    assert not again.health()  # and its score reported
    following = [one.plan(rows.numpy(), 1, 7, Window(1, 3, 6)).tolist() for one in (selector, again)]
    assert following[0] == following[1] and len(later.ran) == 2


# ---- regression and refusals


def test_in_regression_the_spread_over_dropout_passes_chooses():
    selector = arm_2(regression=True, ratio=0.25)
    assert selector.needs.passes == Passes(4, dropout=True)
    view = make_view(40, regression=True)
    chosen = selector.decide(view)
    expected = view.passes[Passes(4, dropout=True)].squeeze(-1).std(0, unbiased=False).topk(10).indices
    assert set(chosen.nonzero().flatten().tolist()) == set(expected.tolist())


def test_a_student_without_dropout_has_no_spread_and_says_so():
    selector = arm_2(score="spread")
    view = replace(make_view(6), passes={Passes(4, dropout=True): torch.ones(4, 6, 4)})
    with pytest.raises(MethodError, match=r"no dropout: set train\.dropout above 0"):
        selector.decide(view)


@pytest.mark.parametrize("score", ["entropy", "margin", "confidence"])
def test_scores_of_classes_are_refused_in_regression_with_what_to_use(score):
    with pytest.raises(ValueError, match=f"score is {score}, but a regression has no classes: use score: spread"):
        arm_2(regression=True, score=score)
    assert arm_2(regression=True, score="random").decide(make_view(8, regression=True)).sum() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "ratio is 0"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"score": "entrop"}, "Did you mean 'entropy'"),
        ({"score": "lc"}, "score is 'lc'"),  # offered by the released scripts, and never existed
        ({"rest": "skip"}, "unknown option 'rest'"),  # a selector each
        ({"name": "uncertainty-plan", "refresh": 0}, "refresh is 0"),
        ({"name": "uncertainty-plan", "refresh": "step"}, "refresh is 'step'"),
        ({"refresh": 5}, "unknown option 'refresh'"),  # of a plan only
    ],
)
def test_options_that_do_not_exist_or_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        arm_2(**options)


def test_the_rows_health_has_their_share_and_scores():
    selector = arm_2(ratio=0.5)
    selector.decide(view_with(torch.tensor([0.2, 0.4, 0.6, 0.8])))
    expected = {"rows/selected": 0.5, "uncertainty/score": 0.5, "uncertainty/score_selected": 0.7}
    assert selector.health() == pytest.approx(expected, abs=1e-5)


# ---- arm 3: which knowledge ----------------------------------------------------------------------------------------


def arm_3(regression: bool = False, kinds: tuple[str, ...] = KINDS, **options: Any) -> UncertainWeights:
    selector = UncertainWeights(**options)
    selector.setup(make_context(2, kinds, regression=regression))
    return selector


def test_certain_rows_copy_outputs_and_uncertain_ones_internals():
    u = random_u(20)
    view, ones = view_with(u), torch.ones(20)
    for strategy, inner in (("uncertainty", u), ("uncertainty-r", 1 - u), ("none", torch.full((20,), 0.5))):
        expected = torch.stack([ones, 1 - inner, inner], 1)
        torch.testing.assert_close(arm_3(strategy=strategy).decide(view), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", ["uncertainty", "uncertainty-r", "none"])
def test_all_strategies_weigh_outputs_and_internals_1_together(strategy):
    """PITFALLS 14: the released static weights are on another scale than its dynamic ones."""
    weights = arm_3(strategy=strategy, share=0.3).decide(make_view(30))
    torch.testing.assert_close(weights[:, 1:].sum(1), torch.ones(30))


def test_static_weights_have_a_share_of_their_own_and_kinds_their_factors():
    weights = arm_3(strategy="none", share=0.2, weights={"feature": 4.0, "labels": 0.5}).decide(make_view(3))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.8, 0.8]]).expand(3, 3))


def test_all_kinds_of_internals_follow_u_in_whatever_order():
    kinds = ("relation", "response", "similarity", "labels")
    u = random_u(5)
    weights = arm_3(kinds=kinds).decide(view_with(u))
    torch.testing.assert_close(weights, torch.stack([u, 1 - u, u, torch.ones(5)], 1), atol=1e-5, rtol=0)


def test_loss_weights_depend_on_neither_order_nor_batch():
    view, selector = make_view(50), arm_3()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    whole = selector.decide(view)
    assert torch.equal(torch.cat([selector.decide(part(view, o)) for o in order.split(9)]), whole[order])


def test_in_regression_the_loss_weights_go_by_the_distance_from_the_teachers_where_they_were_asked():
    view, selector = make_view(20, 2, regression=True), arm_3(regression=True)
    teachers = view.teachers.clone()
    teachers[:5] = torch.nan
    d = (view.student - teachers.mean(1)).abs().squeeze(1)
    weights = selector.decide(replace(view, teachers=teachers))
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights[5:, 2], d[5:] / (d[5:] + np.median(d[5:].numpy())))
    selector.learn(FakeProbe(view.keys, view.student))
    again = selector.decide(part(view, torch.tensor([7])))  # against the rows before, not against itself
    torch.testing.assert_close(again[0, 2], weights[7, 2])
    assert torch.isfinite(selector.decide(replace(view, teachers=None))).all()


def test_a_method_without_internals_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"method copies labels, response: add knowledge.*or use loss_weights: fixed"):
        arm_3(kinds=("labels", "response"))
    with pytest.raises(ValueError, match="weights name"):
        arm_3(weights={"relation": 2.0})
    for wrong in ({"strategy": "uncertain"}, {"share": 1.2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            UncertainWeights(**wrong)


def test_resumed_loss_weights_have_the_same_median(tmp_path):
    selector, view = arm_3(regression=True), make_view(30, 2, regression=True)
    selector.decide(view)
    selector.learn(FakeProbe(view.keys, view.student))
    again = through_file(selector, arm_3(regression=True), tmp_path)
    other = make_view(9, 2, seed=4, regression=True)
    assert torch.equal(selector.decide(other), again.decide(other))
    assert selector.health() == pytest.approx(again.health())


# ---- in the formula ------------------------------------------------------------------------------------------------

LENGTHS = (5, 3, 1, 4, 2, 5, 2, 3)


def evaluated(config: MethodConfig, labels: Tensor, lengths: tuple[int, ...] = LENGTHS) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    selector = build_teacher_selector(config)
    method = build_method(config, layout((3, 8), [(6, 8), (4, 8)]), selector)
    for one in method.selectors.values():
        one.setup(make_context(2, method.kinds))
    student, signals = student_outputs(lengths), teacher_signals(lengths, [(6, 8), (4, 8)])
    student.logits.requires_grad_()
    view = replace(make_view(len(lengths), 2, 4), labels=labels, student=student.logits.detach(), teachers=None)
    return distillation_loss(student, view, method, lambda rows: take(signals, rows)), student, signals


@pytest.mark.parametrize(
    "config",
    [
        MethodConfig(name="dynamic-teacher", teachers={"name": "dynamic", "mode": "soft", "by": "batch"}),
        MethodConfig(name="dynamic-teacher", teachers={"name": "dynamic", "mode": "soft-instance"}),
        MethodConfig(name="dynamic-objective"),
        MethodConfig(name="dynamic-objective", loss_weights={"name": "uncertainty", "strategy": "uncertainty-r"}),
    ],
    ids=["soft", "soft-instance", "objective", "objective-r"],
)
def test_the_student_cannot_lower_its_loss_by_moving_its_uncertainty(config):
    """PITFALLS 26: the gradient is that of the losses under weights that are plain numbers."""
    result, student, signals = evaluated(config, torch.randint(4, (8,)))
    found = torch.autograd.grad(result.loss, student.logits)[0]
    again, other, _ = evaluated(config, torch.randint(4, (8,)))

    def kl(k: int) -> Tensor:
        target = (signals.logits[:, k] / 4).log_softmax(-1)
        log_p = (other.logits / 4).log_softmax(-1)
        return 16 * torch.nn.functional.kl_div(log_p, target, reduction="none", log_target=True).sum(-1)

    w, v = again.teacher_weights.detach(), again.loss_weights.detach()
    by_hand = (v[:, 1] * (w[:, 0] * kl(0) + w[:, 1] * kl(1))).sum()
    gradient = torch.autograd.grad(by_hand, other.logits)[0]
    result, student, _ = evaluated(
        config, torch.full((8,), -100)
    )  # without labels only the response reaches the logits
    found = torch.autograd.grad(result.loss, student.logits)[0]
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize(
    ("rows", "ratio", "count"),
    [(8, 0.5, 4), (16, 0.1, 1), (5, 0.1, 1), (1, 0.1, 1), (15, 0.5, 7), (10, 0.29, 2), (3, 1.0, 3)],
)
def test_the_loss_on_teacher_outputs_is_a_mean_over_the_rows_that_ask_as_published(rows, ratio, count):
    """Over max(1, ⌊r·B⌋) rows. Divided by r·B it was .625 of that at B = 16 and r = .1, twice it at B = 5, ten times at B = 1."""
    config = MethodConfig(
        name="dynamic-data",
        teachers={"name": "single", "teacher": 0},
        loss_weights={"name": "fixed", "weights": {"response": 1.0, "labels": 1.0}},
        rows={"name": "uncertainty", "ratio": ratio},
    )
    labels = torch.randint(4, (rows,), generator=torch.Generator().manual_seed(1))
    result, student, signals = evaluated(config, labels, (LENGTHS * 2)[:rows])
    logits = student.logits.detach()
    ce = torch.nn.functional.cross_entropy(logits, labels)
    kl = 16 * torch.nn.functional.kl_div(
        (logits / 4).log_softmax(-1), (signals.logits[:, 0] / 4).log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    chosen = entropy(logits).topk(count).indices
    assert result.loss.item() / rows == pytest.approx(float(ce + kl[chosen].mean()), rel=1e-5)
    assert result.asked.sum() == count and result.trained.all()


def test_rows_that_are_left_out_are_not_in_the_mean_over_those_that_stay():
    skip = arm_2("uncertainty-skip", ratio=0.1)
    skip.decide(make_view(16))
    assert skip.asked_share == 1


def test_row_draws_that_break_ties_are_a_stream_of_their_own():
    draws = [row_uniform(keys(1000), 3, 0, stream) for stream in ("ties", "rows", "plan", "sample")]
    correlations = np.corrcoef(torch.stack(draws).numpy()) - np.eye(4)
    assert np.abs(correlations).max() < 0.15
