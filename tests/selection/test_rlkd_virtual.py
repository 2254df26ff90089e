"""RL-KD with virtual steps: what we added to the paper, and what would silently go wrong without these."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from distilect.knowledge.response import response_kl, response_mse
from distilect.selection import StepView, get_preset, normalised_entropy, rlkd_virtual
from distilect.selection.rlkd import bernoulli_entropy
from distilect.selection.rlkd_virtual import (
    VirtualReinforcedTeachers,
    curvature,
    executed_log_probability,
    virtual_step,
)
from distilect.selection.teacher_state import Decisions
from distilect.training.state import from_bytes, to_bytes
from tests.presets import slow
from tests.selection.planted import (
    FakeProbe,
    learn,
    parameters,
    planted,
    policy_of,
    randn,
    selector_for,
    share_right,
    without_labels,
)
from tests.selection.views import make_view, part


def virtual(view: StepView, changes: dict[str, Any] | None = None, **options: Any) -> VirtualReinforcedTeachers:
    """Set up on the rows of a view, by default without a look at any label."""
    selector = selector_for(view, changes, kind=VirtualReinforcedTeachers, **options)
    assert isinstance(selector, VirtualReinforcedTeachers)
    return selector


def plain_response(student, teachers):
    return response_kl(student, teachers, 1.0)


# ---- a step without a model ----------------------------------------------------------------------------------------


def test_a_virtual_step_follows_the_gradient_of_the_weighted_distillation_loss():
    student, teachers, weights = randn(5, 3), randn(5, 2, 3, seed=1), randn(5, 2, seed=2).softmax(1)
    temperature = 2.0
    after = virtual_step(student, teachers, weights, lambda s, t: response_kl(s, t, temperature), 0.25)
    # ∂/∂z T² · KL(p_T ‖ q_T) = T · (q_T - p_T), and its curvature is ½
    gap = (student / temperature).softmax(1).unsqueeze(1) - (teachers / temperature).softmax(2)
    torch.testing.assert_close(after, student - 0.25 / 0.5 * temperature * (weights.unsqueeze(2) * gap).sum(1))
    assert not after.requires_grad


@pytest.mark.parametrize("outputs", [1, 2, 3, 7])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 10.0])
def test_the_curvature_is_the_largest_second_derivative_of_a_loss(outputs, temperature):
    if outputs > 1:
        assert curvature(lambda s, t: response_kl(s, t, temperature), outputs) == 0.5
    assert curvature(response_mse, outputs) == pytest.approx(2 / outputs, rel=1e-5)
    for loss, most in ((lambda s, t: response_kl(s, t, temperature), 0.5), (response_mse, 2 / outputs)):
        found = [
            torch.autograd.functional.hessian(
                lambda z, t=teacher, loss=loss: loss(z[None], t[None, None]).sum(), student
            )
            for student, teacher in zip(3 * randn(20, outputs), randn(20, outputs, seed=1), strict=True)
        ]
        assert max(float(torch.linalg.eigvalsh(h).max()) for h in found) <= most + 1e-5


def test_a_virtual_step_of_one_in_regression_lands_on_the_believed_score():
    teachers = torch.tensor([[[1.0], [5.0]], [[1.0], [5.0]]])
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    after = virtual_step(torch.zeros(2, 1), teachers, weights, response_mse, 1.0)
    assert after.tolist() == [[1.0], [3.0]]
    preset = (
        VirtualReinforcedTeachers().options.step_size
    )  # with a size of 2 for both losses, 3 became 9 on the way from 1
    assert virtual_step(torch.ones(1, 1), torch.full((1, 1, 1), 3.0), torch.ones(1, 1), response_mse, preset) == 3.0


@pytest.mark.parametrize("size", [0.1, 0.7, 1.0])
def test_no_step_of_at_most_one_overshoots_what_the_teachers_say(size):
    """In regression and between two classes: the student stays on its side of the teacher. Between more: the loss never rises."""
    weights = torch.ones(200, 1)
    student, teacher = 4 * randn(200, 1), 4 * randn(200, 1, seed=1)
    after = virtual_step(student, teacher[:, None], weights, response_mse, size)
    assert ((after - teacher) * (student - teacher).sign() >= -1e-5).all()
    for temperature in (1.0, 4.0):

        def kl(s, t, temperature=temperature):
            return response_kl(s, t, temperature)

        student, teacher = 4 * randn(200, 2), 4 * randn(200, 2, seed=1)
        after = virtual_step(student, teacher[:, None], weights, kl, size)
        before, now = ((logits - teacher) @ torch.tensor([1.0, -1.0]) for logits in (student, after))
        assert (before * now >= -1e-4).all()
        student, teachers = 4 * randn(200, 5), 4 * randn(200, 3, 5, seed=1)
        mixed = randn(200, 3, seed=2).softmax(1)
        losses = [
            (mixed * kl(logits, teachers)).sum(1)
            for logits in (student, virtual_step(student, teachers, mixed, kl, size))
        ]
        assert (losses[1] <= losses[0] + 1e-4).all()


def test_a_virtual_step_holds_no_noise_from_other_rows():
    student, teachers, weights = randn(6, 3), randn(6, 2, 3, seed=1), randn(6, 2, seed=2).softmax(1)
    whole = virtual_step(student, teachers, weights, plain_response, 0.5)
    alone = torch.cat(
        [
            virtual_step(student[i : i + 1], teachers[i : i + 1], weights[i : i + 1], plain_response, 0.5)
            for i in range(6)
        ]
    )
    torch.testing.assert_close(whole, alone)


def test_a_virtual_step_works_where_gradients_are_switched_off():
    with torch.no_grad():
        after = virtual_step(torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1, 1), response_mse, 1.0)
    assert after.tolist() == [[1.0]]


def test_a_virtual_step_towards_a_teacher_that_rules_a_class_out_gives_no_nan():
    teachers = torch.tensor([[[0.0, -torch.inf, 0.0]]])
    after = virtual_step(torch.zeros(1, 3), teachers, torch.ones(1, 1), plain_response, 0.5)
    assert torch.isfinite(after).all() and after[0, 1] < after[0, 0]


# ---- what the policy learns from -----------------------------------------------------------------------------------


def test_the_executed_log_probability_counts_the_fallback():
    """By enumeration: all draws that end in the same teachers."""
    z = torch.tensor([-0.4, 0.3, -1.0]).double()
    p = torch.sigmoid(z)
    ends: dict[tuple[bool, ...], float] = {}
    for drawn in itertools.product((False, True), repeat=3):
        chosen = drawn if any(drawn) else (False, True, False)
        probability = math.prod(float(p[k] if on else 1 - p[k]) for k, on in enumerate(drawn))
        ends[chosen] = ends.get(chosen, 0.0) + probability
    likeliest = torch.tensor([[False, True, False]]).expand(len(ends), 3)
    found = executed_log_probability(z.expand(len(ends), 3), torch.tensor(list(ends)), likeliest).exp()
    assert len(ends) == 7 and found.tolist() == pytest.approx(list(ends.values()))
    assert float(found.sum()) == pytest.approx(1.0)


def test_credit_counts_the_fallback_of_the_moment_of_acting():
    """By the time of the update another teacher may be likelier, and draws broke ties: 22 % of a first pass were taken for draws."""
    view = make_view(60)
    selector = virtual(view, update_every=1000)
    selector.decide(view)  # an untrained policy: all teachers are equally likely
    (acted,) = selector.pending.parts
    assert acted.likeliest.sum(1).eq(1).all() and (acted.likeliest.sum(0) > 5).all()
    z = torch.tensor([2.0, 0.0, -2.0]).expand(60, 3).clone().requires_grad_()  # of the moment of the update
    selector.objective(z, acted, torch.ones(60)).backward()
    fallback = (acted.actions == acted.likeliest).all(1)
    bonus = torch.autograd.grad(rlkd_virtual.ENTROPY_BONUS * bernoulli_entropy(z).mean(), z)[0]
    slope = 60 * (z.grad - bonus)
    expected = acted.actions.float() - torch.sigmoid(z.detach())
    expected[fallback] *= (~acted.likeliest[fallback]).float()
    assert fallback.sum() > 10
    torch.testing.assert_close(slope, expected, atol=1e-5, rtol=0)


def test_the_fallback_is_kept_with_the_decision_until_the_update():
    view = make_view(40)
    selector = virtual(view, update_every=1000)
    selector.decide(view)
    (acted,) = selector.pending.parts
    selector.learn(FakeProbe(view, view.student))
    policy_of(selector).bias.data[:] = torch.tensor([5.0, 0.0, -5.0])
    kept = selector.history.join()
    assert torch.equal(kept.likeliest, acted.likeliest[torch.argsort(acted.keys)])


def test_an_entropy_bonus_keeps_the_policy_undecided(monkeypatch):
    monkeypatch.setattr(VirtualReinforcedTeachers, "weight_decay", 0.0)
    view = make_view(60)
    found = []
    for bonus in (0.0, 0.5):
        monkeypatch.setattr(rlkd_virtual, "ENTROPY_BONUS", bonus)
        selector = virtual(view)
        selector.decide(view)
        policy_of(selector).bias.data.fill_(1.5)
        learn(selector, view, epochs=40, reward=lambda now, weights: torch.tensor(0.0))
        found.append(float(policy_of(selector).bias.detach().mean()))
    assert found[0] == 1.5 and abs(found[1]) < 1.0


def test_weight_decay_pulls_the_policy_back(monkeypatch):
    monkeypatch.setattr(rlkd_virtual, "ENTROPY_BONUS", 0.0)
    monkeypatch.setattr(VirtualReinforcedTeachers, "weight_decay", 1.0)
    view = make_view(60)
    selector = virtual(view)
    selector.decide(view)
    policy_of(selector).bias.data.fill_(1.5)
    learn(selector, view, epochs=40, reward=lambda now, weights: torch.tensor(0.0))
    assert float(policy_of(selector).bias.detach().max()) < 1.0


@pytest.mark.parametrize("reward", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, *slow(2, 3, 4)])
def test_it_finds_them_by_virtual_steps(seed, reward):
    view, which = planted(seed=seed)
    selector = virtual(view, reward=reward)
    probe = FakeProbe(view, view.student)
    for epoch in range(20):
        selector.decide(replace(view, epoch=epoch))
        selector.learn(probe)
    assert selector.updates == 200 and not probe.asked
    assert share_right(selector, view, which) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_them_in_its_own_warm_up_with_the_student_fixed(seed):
    view, which = planted(seed=seed)
    selector = virtual(view, policy_rows=4096, policy_updates=200)
    probe = FakeProbe(view, view.student)
    selector.begin_epoch(probe, 0)
    assert selector.updates == 200 and len(probe.asked) == 1
    assert share_right(selector, view, which) >= 0.95


def test_it_learns_from_few_labels_for_all_rows():
    """The policy learns from labelled rows only and chooses for the others from what it sees of them."""
    view, which = planted(400, seed=1)
    labels = view.labels.clone()
    labels[100:] = -100
    view = replace(view, labels=labels)
    selector = virtual(view, hide=None, batch_size=8)
    probe = FakeProbe(view, view.student)
    for epoch in range(40):
        selector.decide(replace(view, epoch=epoch))
        selector.learn(probe)
    rest = part(view, torch.arange(100, 400))
    assert share_right(selector, rest, which[100:]) >= 0.9


def test_the_row_baseline_of_virtual_steps_is_the_step_towards_all_teachers():
    view = make_view(20)
    selector = virtual(view, update_every=1000)
    selector.decide(view)
    selector.learn(FakeProbe(view, view.student))
    decisions = selector.history.join()
    everyone = decisions.actions.all(1)
    assert everyone.any() and not everyone.all()
    assert not decisions.reward[everyone].any() and decisions.reward[~everyone].all()


def test_virtual_passes_differ_in_their_draws(monkeypatch):
    view = make_view(100)
    passes: list[Decisions] = []
    update = VirtualReinforcedTeachers.update

    def spy(self: VirtualReinforcedTeachers, decisions: Decisions | None) -> None:
        assert decisions is not None
        passes.append(decisions)
        update(self, decisions)

    monkeypatch.setattr(VirtualReinforcedTeachers, "update", spy)
    selector = virtual(view, hide=0.5, policy_rows=100, policy_updates=12)
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    assert len(passes) == 3 and all(len(decisions) == 100 for decisions in passes)
    for one, other in ((0, 1), (1, 2)):
        assert not torch.equal(passes[one].actions, passes[other].actions)
        assert not torch.equal(passes[one].own, passes[other].own)  # other labels are hidden
    for decisions in passes:  # a gain over the step towards all teachers: else the policy learns how difficult a row is
        everyone = decisions.actions.all(1)
        assert everyone.any() and not decisions.reward[everyone].any() and decisions.reward[~everyone].all()


@pytest.mark.parametrize("seed", range(3))
def test_regression_finds_them_by_squared_errors(seed):
    view, which = planted(600, seed=seed, regression=True)
    selector = virtual(view)
    for epoch in range(20):
        selector.decide(replace(view, epoch=epoch))
        selector.learn(FakeProbe(view, view.student))
    assert torch.isfinite(parameters(selector)).all()
    assert share_right(selector, view, which) >= 0.9


@pytest.mark.parametrize("seed", [0, *slow(1, 2, 3, 4)])
@pytest.mark.parametrize("step_size", [0.25, 1.0])
def test_in_regression_the_good_teacher_is_preferred_to_the_poor_one(seed, step_size):
    """With a step that overshoots, the poor teacher was rewarded: weights .27 and .73 (dev Pearson .605 and .14)."""
    rows, generator = 600, torch.Generator().manual_seed(seed)
    labels = 3 + torch.randn(rows, generator=generator)
    noise = torch.randn(rows, 2, generator=generator) * torch.tensor([0.4, 1.5])
    teachers = (labels.unsqueeze(1) + noise).unsqueeze(-1)
    view = make_view(rows, teachers=2, regression=True, seed=seed)
    view = replace(view, labels=labels, teachers=teachers, student=torch.full((rows, 1), 3.0))
    selector = virtual(view, {"teachers": ("good", "poor")}, step_size=step_size, policy_rows=4096, policy_updates=300)
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    weights = selector.decide(without_labels(view)).mean(0)
    assert weights[0] > 0.6


# ---- rewards that are known for all teachers -----------------------------------------------------------------------


EXACT = ("alignment", "likelihood")


def begun(view: StepView, reward: str, **options: Any) -> VirtualReinforcedTeachers:
    """After its warm-up, with the student fixed."""
    selector = virtual(view, hide=None, reward=reward, policy_rows=4096, policy_updates=400, batch_size=64, **options)
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    return selector


@pytest.mark.parametrize("reward", EXACT)
@pytest.mark.parametrize("regression", [False, *slow(True)])
def test_exact_rewards_find_the_right_teachers_from_few_labels(reward, regression):
    view, which = planted(400, seed=1, regression=regression)
    labels = view.labels.clone()
    labels[150:] = torch.nan if regression else -100
    view = replace(view, labels=labels)
    rest = part(view, torch.arange(150, 400))
    assert share_right(begun(view, reward), rest, which[150:]) >= 0.85


def test_rows_without_labels_teach_the_policy_by_the_labels_around_them():
    """Of three teachers that are as good as each other on labelled rows, one says elsewhere what the labels around a row are."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(4, (300,), generator=generator)
    vectors = torch.nn.functional.one_hot(group, 8) + 0.1 * torch.randn(300, 8, generator=generator)
    labelled = torch.arange(300).unsqueeze(1) < 100
    right = torch.where(labelled, torch.rand(300, 3, generator=generator) < 0.5, torch.tensor([True, False, False]))
    said = torch.where(right, group.unsqueeze(1), (group.unsqueeze(1) + 1) % 4)
    labels = torch.where(labelled[:, 0], group, -100)
    teachers = 4.0 * torch.nn.functional.one_hot(said, 4)
    view = replace(planted(300)[0], labels=labels, teachers=teachers, vectors=vectors)
    rest = part(view, torch.arange(100, 300))
    weights = {reward: begun(view, reward).decide(without_labels(rest))[:, 0].mean() for reward in EXACT}
    assert weights["alignment"] > 0.6 and weights["likelihood"] < 0.5


def test_the_objective_of_the_likelihood_is_the_mixtures():
    view = make_view(20, unlabelled=(3,))
    selector = virtual(view, reward="likelihood")
    decisions, z, _ = selector.act(view)
    z = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    shares = torch.sigmoid(z) / torch.sigmoid(z).sum(1, keepdim=True)
    known = view.has_label
    mixed = (shares.unsqueeze(2) * view.teachers.softmax(-1)).sum(1)[known]
    expected = mixed[torch.arange(19), view.labels[known]].log().sum() / 20
    torch.testing.assert_close(selector.objective(z, decisions, torch.zeros(20)), expected)


def test_rows_without_labels_count_as_far_as_the_labels_around_a_row_agree_with_its_own():
    view = make_view(20, unlabelled=tuple(range(3, 20)))
    selector = virtual(view, reward="alignment")
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    decisions, z, _ = selector.act(view)
    z = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0))

    def reach(trust: float) -> tuple[float, float]:
        """Mean gradients on labelled and on other rows, without that of the entropy."""
        selector.trust, at = trust, z.clone().requires_grad_()
        (selector.objective(at, decisions, z[:, 0]) - 0.1 * bernoulli_entropy(at).mean()).backward()
        return float(at.grad[:3].abs().sum()), float(at.grad[3:].abs().sum())

    few, none = reach(0.0)
    assert few > 0 and none == pytest.approx(0.0, abs=1e-7)
    half, other = reach(1.0)
    assert half == pytest.approx(few / 2, rel=1e-4) and other > 0


@pytest.mark.slow
def test_trust_is_high_where_neighbours_share_labels_and_0_where_they_do_not():
    shared, which = planted(300)
    labels = which.clone()
    wrong = (labels.unsqueeze(1) + torch.randint(1, 4, (300, 3), generator=torch.Generator().manual_seed(1))) % 4
    right = torch.nn.functional.one_hot(which, 3).bool()
    said = 3.0 * torch.nn.functional.one_hot(torch.where(right, labels.unsqueeze(1), wrong), 4)
    assert begun(replace(shared, labels=labels, teachers=said), "alignment").trust > 0.6
    assert begun(shared, "alignment").trust < 0.15


def test_an_exact_reward_survives_a_resume():
    view, _ = planted(100)
    selector = begun(view, "alignment")
    other = virtual(view, hide=None, reward="alignment", policy_rows=4096, policy_updates=400, batch_size=64)
    other.load_state_dict(from_bytes(to_bytes(selector.state_dict())))
    probe = FakeProbe(view, view.student)
    for each in (selector, other):
        each.decide(view)
        each.learn(probe)
        each.begin_epoch(probe, 1)
    torch.testing.assert_close(other.decide(view), selector.decide(view))


def test_credit_needs_a_frozen_encoder():
    for encoder in ("student", None):
        with pytest.raises(ValueError, match=f"got encoder: {encoder}: set encoder: backbone"):
            VirtualReinforcedTeachers(reward="alignment", encoder=encoder)


# ---- weights and options -------------------------------------------------------------------------------------------


def test_teachers_weigh_by_their_probabilities():
    view = make_view(60, unlabelled=tuple(range(30)))
    selector = virtual(view)
    selector.decide(view)
    bias = torch.tensor([-1.0, 0.0, 2.0])
    policy_of(selector).bias.data[:] = bias
    expected = torch.sigmoid(bias) / torch.sigmoid(bias).sum()
    torch.testing.assert_close(selector.decide(view), expected.expand(60, 3))


def test_a_policy_that_wants_nobody_leaves_no_row_without_teachers():
    view = make_view(20)
    selector = virtual(view)
    selector.decide(view)
    policy_of(selector).bias.data.fill_(-200.0)
    torch.testing.assert_close(selector.decide(view), torch.full((20, 3), 1 / 3))


def test_the_state_holds_each_teachers_entropy():
    view = make_view(20)
    common, own = VirtualReinforcedTeachers().builder(view, view.has_label)
    assert common.shape == (20, 5) and own.shape == (20, 3, 4 + 1 + 1 + 1)
    torch.testing.assert_close(own[:, :, -1], normalised_entropy(view.teachers))


def test_the_preset_is_the_selector_with_its_defaults():
    assert get_preset("rlkd").teachers == "reinforced-virtual"
    wanted = {
        "reward": 1,
        "share": 1.0,
        "warmup_epochs": 0,
        "batch_size": 128,
        "step_size": 1.0,
        "policy_updates": 2000,
    }
    wanted |= {"state": "per_teacher", "encoder": "backbone", "pooling": "cls", "kd_over": "pool", "baseline": "mean"}
    wanted |= {"update_every": "epoch", "learning_rate": 0.01, "policy_rows": 4096, "gamma": 0.5}
    assert VirtualReinforcedTeachers().options.model_dump() == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reward": 3},
            "reward is 3, expected one of 1, 2, alignment, likelihood",
        ),  # it would cancel against the row's baseline
        ({"step_size": -1.0}, "step_size is -1.0, expected a number above 0"),
        ({"policy_updates": 0}, "policy_updates is 0, expected a whole number from 1"),
        ({"share": -0.1}, "share is -0.1, expected a number from 0 to 1"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1, expected 0 or more"),
    ],
)
def test_bad_options_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        VirtualReinforcedTeachers(**options)
