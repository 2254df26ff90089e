"""RL-KD: what the policy must find out, and what would silently go wrong without these."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from distilect.selection.reinforced import (
    Policy,
    ReinforcedTeachers,
    StateBuilder,
    bernoulli_entropy,
    executed_log_probability,
    log_probability,
    reward_1,
    reward_2,
    sample_actions,
)
from torch import Tensor

from distilect.knowledge.labels import label_loss
from distilect.knowledge.response import response_kl
from distilect.selection import StepView, TrainingSample, reinforced
from distilect.selection.base import Encoder, normalised_entropy, row_uniform, step_uniform
from distilect.selection.rewards import virtual_step
from distilect.selection.static import RandomSingle, UniformTeachers
from distilect.training.state import load_state, save_state
from tests.selection.planted import FakeProbe, context_of, planted, without_labels
from tests.selection.views import keys, make_context, make_view, part

# acts and learns from the first step, from every labelled row, without looking at the label
EAGER: dict[str, Any] = {"warmup_epochs": 0, "policy_warmup": "none", "share": 1.0, "hide": 1.0, "update_every": 1}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def selector_for(view: StepView, changes: dict[str, Any] | None = None, **options: Any) -> ReinforcedTeachers:
    """Set up on the rows of a view; `changes` of the context."""
    selector = ReinforcedTeachers(**(EAGER | options))
    selector.setup(context_of(view, **(changes or {})))
    return selector


def policy_of(selector: ReinforcedTeachers) -> Policy:
    assert selector.policy is not None
    return selector.policy


def parameters(selector: ReinforcedTeachers) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in policy_of(selector).parameters()])


def probabilities(selector: ReinforcedTeachers, view: StepView) -> Tensor:
    """σ(z) [B, K] with the label block hidden."""
    nothing = torch.zeros(len(view.keys), dtype=torch.bool)
    return torch.sigmoid(policy_of(selector)(selector.builder(view, nothing))).detach()


def history_of(selector: ReinforcedTeachers) -> reinforced.Decisions:
    return reinforced.Decisions.join(selector.history)


def gold_reward(view: StepView, weights: Tensor) -> Tensor:
    """[B], by row identity: log of the probability that the believed teachers give the label; minus the squared error."""
    assert view.teachers is not None
    if view.regression:
        reward = -(((weights * view.teachers.squeeze(-1)).sum(1) - view.labels) ** 2)
    else:
        believed = (weights.unsqueeze(2) * view.teachers.softmax(-1)).sum(1)
        reward = believed[torch.arange(len(view.labels)), view.labels].log()
    return reward[torch.argsort(view.keys)]


def learn(
    selector: ReinforcedTeachers,
    view: StepView,
    epochs: int,
    reward: Callable[[StepView, Tensor], Tensor] = gold_reward,
) -> None:
    """All rows as one batch in each epoch; the selector cuts them into its own updates."""
    for epoch in range(epochs):
        now = replace(view, epoch=epoch)
        selector.observe(reward(now, selector.decide(now)))


def share_right(selector: ReinforcedTeachers, view: StepView, which: Tensor) -> float:
    """On how many rows without their label the teacher with the largest weight is the right one."""
    asked = replace(without_labels(view), epoch=99)
    selector.weighing = "probabilities"
    return float((selector.weights(asked).argmax(1) == which).double().mean())


# ---- action and policy ---------------------------------------------------------------------------------------------


def test_the_derivative_of_the_log_probability_is_the_action_minus_its_probability():
    """PAPERS 1.12: ∂ log π / ∂z = a - σ(z)."""
    z = 3 * randn(50, 4).double().requires_grad_()
    z.retain_grad()
    actions = randn(50, 4, seed=1) > 0
    log_probability(z, actions).sum().backward()
    torch.testing.assert_close(z.grad, actions.double() - torch.sigmoid(z.detach()), rtol=0, atol=1e-15)


def test_the_log_probability_is_that_of_independent_actions():
    z, actions = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[True, False]])  # σ = 1/2, 3/4
    assert float(log_probability(z, actions)) == pytest.approx(math.log(1 / 2 * 1 / 4))
    assert torch.isfinite(log_probability(torch.tensor([[-200.0, 200.0]]), ~actions)).all()


def test_the_executed_log_probability_counts_the_fallback():
    """By enumeration: all draws that end in the same teachers."""
    z = torch.tensor([-0.4, 0.3, -1.0]).double()
    p = torch.sigmoid(z)
    ends: dict[tuple[bool, ...], float] = {}
    for drawn in itertools.product((False, True), repeat=3):
        chosen = drawn if any(drawn) else (False, True, False)
        probability = math.prod(float(p[k] if on else 1 - p[k]) for k, on in enumerate(drawn))
        ends[chosen] = ends.get(chosen, 0.0) + probability
    found = executed_log_probability(z.expand(len(ends), 3), torch.tensor(list(ends))).exp()
    assert len(ends) == 7 and found.tolist() == pytest.approx(list(ends.values()))
    assert float(found.sum()) == pytest.approx(1.0)


def test_actions_are_drawn_with_the_policys_probabilities():
    z = torch.tensor([-1.0, 0.5, 4.0]).expand(20_000, 3)
    actions, empty = sample_actions(z, keys(20_000), seed=3, epoch=1)
    drawn = actions[~empty].double().mean(0)
    p = torch.sigmoid(z[0].double())
    expected = (p - 0) / (1 - (1 - p).prod())  # given that some action is on
    torch.testing.assert_close(drawn, expected, atol=0.015, rtol=0)
    assert float(empty.double().mean()) == pytest.approx(float((1 - p).prod()), abs=0.003)
    both = actions[~empty].double()
    assert float((both[:, 0] * both[:, 1]).mean()) == pytest.approx(float(p[0] * p[1]), abs=0.015)  # independent


def test_actions_change_with_epoch_and_seed_and_with_nothing_else():
    z, rows = torch.zeros(300, 3), keys(300)
    first = sample_actions(z, rows, seed=0, epoch=0)[0]
    assert torch.equal(first, sample_actions(z, rows, seed=0, epoch=0)[0])
    for seed, epoch in ((1, 0), (0, 1)):
        assert (first != sample_actions(z, rows, seed=seed, epoch=epoch)[0]).double().mean() > 0.3


def test_an_empty_selection_falls_back_to_the_most_probable_teacher():
    z = torch.tensor([-30.0, -20.0, -40.0]).expand(50, 3)
    actions, empty = sample_actions(z, keys(50), seed=0, epoch=0)
    assert empty.all() and actions.tolist() == [[False, True, False]] * 50


def test_the_fallback_of_an_untrained_policy_favours_no_teacher():
    """By position alone the first of two teachers would get 5/8 of the weight before anything is learned."""
    rows = 20_000
    actions, empty = sample_actions(torch.zeros(rows, 2), keys(rows), seed=0, epoch=0)
    assert float(empty.double().mean()) == pytest.approx(0.25, abs=0.01)
    share = (actions.double() / actions.sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(share, torch.full((2,), 0.5).double(), atol=0.01, rtol=0)


def test_fallbacks_are_counted():
    view = make_view(40)
    selector = selector_for(view)
    selector.decide(view)  # builds the policy
    selector.health()
    policy_of(selector).bias.data[:] = torch.tensor([-30.0, -20.0, -40.0])
    weights = selector.decide(view)
    assert weights.tolist() == [[0.0, 1.0, 0.0]] * 40
    health = selector.health()
    assert health["policy/empty"] == 1.0 and health["policy/teachers_per_row"] == 1.0
    assert health["policy/p_b"] == pytest.approx(0.0, abs=1e-8)


def test_each_teacher_has_its_own_weights_unless_they_are_shared():
    state = randn(5, 3, 7)
    own, shared = Policy(3, 7, shared=False), Policy(3, 7, shared=True)
    assert own.weight.shape == (3, 7) and shared.weight.shape == (1, 7)
    for policy in (own, shared):
        assert not policy(state).any()  # σ = ½ before it has learned
        torch.nn.init.normal_(policy.weight, generator=torch.Generator().manual_seed(0))
        by_hand = torch.stack([state[:, k] @ policy.weight[k % len(policy.weight)] for k in range(3)], dim=1)
        torch.testing.assert_close(policy(state), by_hand + policy.bias)
    swapped = state.flip(1)
    torch.testing.assert_close(shared(swapped), shared(state).flip(1))


def test_entropy_is_in_bits_per_row():
    assert bernoulli_entropy(torch.zeros(2, 3)).tolist() == pytest.approx([3.0, 3.0])
    z = torch.tensor([[80.0, -80.0, 1e4]], requires_grad=True)
    entropy = bernoulli_entropy(z)
    entropy.sum().backward()
    assert float(entropy.detach()) == pytest.approx(0.0, abs=1e-6) and torch.isfinite(z.grad).all()


# ---- identities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 10])
def test_all_teachers_selected_is_uniform_bit_for_bit(count):
    view = make_view(30, teachers=count)
    names = tuple(f"t{k}" for k in range(count))
    selector = selector_for(view, {"teachers": names})
    selector.decide(view)
    policy_of(selector).bias.data.fill_(60.0)
    assert torch.equal(selector.decide(view), UniformTeachers().decide(view))


def test_warm_up_is_uniform_bit_for_bit_and_nothing_is_learned_from_it():
    view = make_view(30)
    selector = selector_for(view, warmup_epochs=2)
    for epoch in (0, 1):
        assert torch.equal(selector.weights(replace(view, epoch=epoch)), UniformTeachers().decide(view))
        selector.learn(FakeProbe(view, view.student))
    assert selector.policy is None and not selector.history and not selector.health()
    weights = selector.weights(replace(view, epoch=2))
    assert not torch.equal(weights, UniformTeachers().decide(view)) and selector.pending


def test_one_hot_actions_per_batch_are_random_single(monkeypatch):
    view = make_view(9)
    selector = selector_for(view)

    def one_hot(z: Tensor, rows: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        chosen = (step_uniform((1,), seed, step, "teachers").expand(len(z)) * z.shape[1]).long()
        return torch.nn.functional.one_hot(chosen, z.shape[1]).bool(), torch.zeros(len(z), dtype=torch.bool)

    monkeypatch.setattr(reinforced, "sample_actions", one_hot)
    for step in range(12):
        now = replace(view, step=step)
        assert torch.equal(selector.decide(now), RandomSingle().decide(now))


def test_selected_teachers_weigh_equally_or_by_probability():
    view = make_view(60, unlabelled=tuple(range(30)))
    mask, by_probability = selector_for(view), selector_for(view, weights="probabilities")
    bias = torch.tensor([-1.0, 0.0, 2.0])
    for selector in (mask, by_probability):
        selector.decide(view)
        policy_of(selector).bias.data[:] = bias
    values = mask.decide(view)
    assert {round(float(x), 4) for x in values.flatten()} <= {0.0, 0.3333, 0.5, 1.0}
    mixed = by_probability.decide(view)
    # rows that the policy learns from follow their sampled mask, else the reward would say nothing about the action
    assert torch.equal(mixed[30:], values[30:])
    expected = torch.sigmoid(bias) / torch.sigmoid(bias).sum()
    torch.testing.assert_close(mixed[:30], expected.expand(30, 3))


# ---- the state -----------------------------------------------------------------------------------------------------

NOTHING, ALL = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)


def fitted(view: StepView, form="per_teacher", scale="standardise", features=(), encoder="backbone") -> StateBuilder:
    builder = StateBuilder(form, scale, features, encoder)
    index = torch.arange(len(view.keys))
    builder.fit(TrainingSample(view.keys[index], view.labels, view.teachers, view.vectors))
    return builder


def test_the_state_is_the_rows_vector_then_each_teachers_probabilities_loss_and_whether_it_is_seen():
    view = make_view()
    state = fitted(view, scale="none")(view, ALL)
    assert state.shape == (12, 3, 5 + 4 + 1 + 1)
    torch.testing.assert_close(state[:, :, :5], view.vectors.unsqueeze(1).expand(12, 3, 5) / 1.0)
    torch.testing.assert_close(state[:, :, 5:9], view.teachers.softmax(-1))
    for k in range(3):
        torch.testing.assert_close(state[:, k, 9], label_loss(view.teachers[:, k], view.labels))
    assert (state[:, :, 10] == 1).all()


def test_the_hidden_label_block_is_empty_and_marked():
    view = make_view()
    seen, hidden = fitted(view)(view, ALL), fitted(view)(view, NOTHING)
    assert not hidden[:, :, 9:].any() and seen[:, :, 9].any()
    torch.testing.assert_close(seen[:, :, :9], hidden[:, :, :9])


def test_blocks_are_standardised_and_have_unit_size_whatever_their_width():
    view = make_view(4000)
    state = fitted(view)(view, torch.ones(4000, dtype=torch.bool))
    for block in (state[:, 0, :5], state[:, 0, 5:9], state[:, 0, 9:10]):
        assert float(block.mean()) == pytest.approx(0.0, abs=0.02)
        assert float((block**2).sum(1).mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("block", ["vectors", "teachers"])
@pytest.mark.parametrize("regression", [False, True])
def test_a_block_that_is_a_thousand_times_larger_gives_the_same_state(block, regression):
    """PAPERS 1.3: unscaled, one block swamps the others."""
    view = make_view(regression=regression)
    if block == "teachers" and not regression:
        pytest.skip("probabilities have their scale")
    loud = replace(view, **{block: 1000 * getattr(view, block)})
    states = [fitted(v)(v, NOTHING) for v in (view, loud)]
    torch.testing.assert_close(states[0], states[1], atol=1e-4, rtol=0)


def test_an_outlier_does_not_decide_alone():
    view = make_view()
    builder = fitted(view)
    vectors = view.vectors.clone()
    vectors[0] = 1e6
    state = builder(replace(view, vectors=vectors), ALL)
    assert float(state[0, 0, :5].abs().max()) == pytest.approx(4 / 5**0.5)


@pytest.mark.parametrize("scale", ["standardise", "layernorm", "none"])
@pytest.mark.parametrize("form", ["per_teacher", "joint"])
def test_certain_teachers_give_no_nan(scale, form):
    """A cross-entropy of 10,000, and a teacher that rules the label out."""
    view = make_view()
    for worst in (-1e4, -torch.inf):
        teachers = torch.full_like(view.teachers, worst)
        teachers[:, :, 0] = 0.0
        extreme = replace(view, teachers=teachers, student=1e4 * view.student)
        features = ("kl", "student_entropy", "teacher_entropy")
        for fit_on in (view, extreme):
            state = fitted(fit_on, form, scale, features)(extreme, ALL)
            assert torch.isfinite(state).all() and float(state.abs().max()) < 100


def test_layernorm_scales_each_block_of_a_row_by_itself():
    view = make_view()
    state = fitted(view, scale="layernorm")(view, ALL)
    for block in (state[:, 0, :5], state[:, 1, 5:9]):
        torch.testing.assert_close(block.mean(1), torch.zeros(12), atol=1e-6, rtol=0)
        torch.testing.assert_close((block**2).sum(1), torch.ones(12), atol=0.02, rtol=0)
    torch.testing.assert_close(state[:, 0, 9], label_loss(view.teachers[:, 0], view.labels))


def test_layernorm_leaves_something_of_a_regressions_single_score():
    view = make_view(regression=True)
    state = fitted(view, scale="layernorm")(view, ALL)
    torch.testing.assert_close(state[:, :, 5], view.teachers.squeeze(-1))


def test_in_regression_the_state_holds_scores_and_squared_errors_of_any_size():
    view = make_view(regression=True)
    view = replace(view, teachers=50 * view.teachers)  # squared errors of thousands
    state = fitted(view, scale="none")(view, ALL)
    torch.testing.assert_close(state[:, :, 5:6], view.teachers)
    torch.testing.assert_close(state[:, :, 6], (view.teachers.squeeze(-1) - view.labels.unsqueeze(1)) ** 2)


def test_the_joint_state_holds_all_teachers_and_is_the_same_for_each():
    view = make_view()
    single, joint = fitted(view)(view, ALL), fitted(view, form="joint")(view, ALL)
    assert joint.shape == (12, 3, 5 + 3 * 6)
    assert torch.equal(joint[:, 0], joint[:, 2])
    torch.testing.assert_close(joint[:, 0, 5:], single[:, :, 5:].flatten(1))


def test_features_that_depend_on_the_student_are_what_they_say():
    view = make_view()
    features = ("teacher_entropy", "kl", "student_entropy")
    state = fitted(view, features=features)(view, ALL)[:, :, -3:]  # in the order of the list
    torch.testing.assert_close(state[:, :, 0], normalised_entropy(view.teachers))
    torch.testing.assert_close(state[:, :, 1], torch.log1p(response_kl(view.student, view.teachers, 1.0)))
    torch.testing.assert_close(state[:, :, 2], normalised_entropy(view.student).unsqueeze(1).expand(12, 3))
    scores = make_view(regression=True)
    said, mean = scores.teachers.squeeze(-1), scores.teachers.squeeze(-1).mean(1, keepdim=True)
    state = fitted(scores, features=features)(scores, ALL)[:, :, -3:]
    torch.testing.assert_close(state[:, :, 0], torch.log1p((said - mean) ** 2))
    torch.testing.assert_close(state[:, :, 1], torch.log1p((said - scores.student) ** 2))
    torch.testing.assert_close(state[:, :, 2], torch.log1p((scores.student - mean) ** 2).expand(12, 3))


def test_the_vector_is_the_chosen_encoders_whatever_else_the_view_holds():
    """Another selector of the method may have asked for the student's vector, or for a frozen encoder's."""
    view = make_view()
    frozen = fitted(view)(view, ALL)
    assert torch.equal(frozen, fitted(view)(replace(view, pooled=None), ALL))
    own = fitted(view, encoder="student")(view, ALL)
    assert own.shape == (12, 3, 6 + 6)
    assert torch.equal(own, fitted(view, encoder="student")(replace(view, vectors=None), ALL))
    torch.testing.assert_close((own[:, 0, :6] ** 2).sum(1), torch.ones(12), atol=1e-3, rtol=0)
    bare = fitted(view, encoder=None)(view, ALL)
    assert bare.shape == (12, 3, 6) and torch.equal(bare, frozen[:, :, 5:])


def test_a_state_is_rebuilt_from_what_was_saved(tmp_path):
    view = make_view()
    builder, again = fitted(view), StateBuilder("per_teacher", "standardise", (), "backbone")
    save_state(builder.state_dict(), tmp_path / "state")
    again.load_state_dict(load_state(tmp_path / "state"))
    assert torch.equal(builder(view, ALL), again(view, ALL))


# ---- what the policy learns from -----------------------------------------------------------------------------------


def test_a_constant_reward_moves_nothing_when_there_is_a_baseline():
    """PAPERS 1.12, 2: and without one it does."""
    view, _ = planted(100)
    for baseline, moves in (("mean", False), ("row", False), ("none", True)):
        selector = selector_for(view, baseline=baseline)
        learn(selector, view, epochs=5, reward=lambda now, weights: torch.tensor(-2.3))
        assert selector.updates == 5 * 4
        assert bool(parameters(selector).any()) == moves


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sampled_actions_become_likelier_by_a_reward_and_unlikelier_by_a_penalty(sign):
    """PITFALLS 32: a loss without the log-probability of the sampled action has its optimum at uniform."""
    view = make_view(16)
    selector = selector_for(view, baseline="none", normalise=False, batch_size=16)
    actions = selector.decide(view) > 0
    selector.observe(torch.tensor(sign))
    z = torch.logit(probabilities(selector, view).double())
    change = log_probability(z, actions) - log_probability(torch.zeros_like(z), actions)
    assert float(sign * change.mean()) > 0 and float((sign * change > 0).double().mean()) > 0.8


@pytest.mark.parametrize("credit", ["drawn", "executed"])
def test_an_update_follows_the_policy_gradient(credit):
    """Adam's first step is the learning rate times the sign of Σ_i advantage_i · (a_ik - σ_k) · F(s_ik)."""
    view = make_view(16)
    selector = selector_for(view, normalise=False, batch_size=16, learning_rate=0.01, credit=credit)
    selector.decide(view)
    selector.pending = []
    bias = torch.tensor([-0.5, 0.7, 0.2])
    policy_of(selector).bias.data[:] = bias
    actions, reward = selector.decide(view) > 0, randn(16, seed=3)
    selector.observe(reward[torch.argsort(view.keys)])
    slope = actions.float() - torch.sigmoid(bias)
    if credit == "executed":  # alone, the likeliest teacher may be the fallback
        slope[actions.sum(1) == 1, 1] *= (~actions[actions.sum(1) == 1, 1]).float()
    state = selector.builder(view, torch.zeros(16, dtype=torch.bool))
    gradient = ((reward - reward.mean())[:, None, None] * slope.unsqueeze(2) * state).mean(0)
    clear = gradient.abs() > 1e-4
    assert clear[:, :9].sum() > 24 and not clear[:, 9:].any()  # the label block was hidden
    moved = policy_of(selector).weight.data
    torch.testing.assert_close(moved[clear], 0.01 * gradient.sign()[clear])
    assert not moved[:, 9:].any()


def test_advantages_are_standard_scores_of_the_rewards():
    selector, reward = ReinforcedTeachers(), 5 * randn(200) - 40
    by_hand = (reward - reward.mean()) / reward.std(unbiased=False)
    torch.testing.assert_close(selector._advantage(reward), by_hand, atol=1e-4, rtol=0)
    plain = ReinforcedTeachers(baseline="none", normalise=False)
    assert torch.equal(plain._advantage(reward), reward)


def test_an_entropy_bonus_keeps_the_policy_undecided():
    view = make_view(60)
    found = []
    for bonus in (0.0, 0.5):
        selector = selector_for(view, entropy_bonus=bonus)
        selector.decide(view)
        policy_of(selector).bias.data.fill_(1.5)
        learn(selector, view, epochs=40, reward=lambda now, weights: torch.tensor(0.0))
        found.append(float(policy_of(selector).bias.detach().mean()))
    assert found[0] == 1.5 and abs(found[1]) < 1.0


def test_weight_decay_pulls_the_policy_back():
    view = make_view(60)
    selector = selector_for(view, weight_decay=1.0)
    selector.decide(view)
    policy_of(selector).bias.data.fill_(1.5)
    learn(selector, view, epochs=40, reward=lambda now, weights: torch.tensor(0.0))
    assert float(policy_of(selector).bias.detach().max()) < 1.0


@pytest.mark.parametrize(("every", "learned"), [(1, [1, 2, 3, 4, 4]), (3, [0, 0, 3, 3, 3]), ("epoch", [0, 0, 0, 0, 4])])
def test_the_policy_is_updated_every_step_or_every_so_many_or_every_epoch(every, learned):
    view = make_view(10)
    selector = selector_for(view, update_every=every, batch_size=10)
    probe, updates = FakeProbe(view, view.student), []
    for _ in range(4):
        selector.decide(view)
        selector.learn(probe)
        updates.append(selector.updates)
    selector.begin_epoch(probe, 1)
    assert [*updates, selector.updates] == learned
    assert sum(len(part) for part in selector.history) == (10 if every == 3 else 0)


def test_a_history_is_learned_from_in_batches_of_the_given_size():
    view = make_view(50)
    for size, updates in ((50, 1), (32, 2), (8, 7)):
        selector = selector_for(view, batch_size=size)
        learn(selector, view, epochs=1)
        assert selector.updates == updates


# ---- what the policy must find out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_policy_finds_the_teacher_that_is_right_on_each_part_of_the_inputs(seed):
    """The identity test: 200 updates at the default learning rate, judged on rows whose label cannot be seen."""
    view, which = planted(seed=seed)
    selector = selector_for(view)
    learn(selector, view, epochs=20)
    assert selector.updates == 200
    assert share_right(selector, view, which) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_with_rewards_shuffled_among_rows_it_finds_nothing(seed):
    """The control. Shuffled among all rows: within a small batch, its mean reward still tells something of its actions."""
    view, which = planted(seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def shuffled(now: StepView, weights: Tensor) -> Tensor:
        return gold_reward(now, weights)[torch.randperm(len(now.rows), generator=generator)]

    selector = selector_for(view)
    learn(selector, view, epochs=20, reward=shuffled)
    assert selector.updates == 200
    assert share_right(selector, view, which) < 0.7


@pytest.mark.parametrize("reward", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_them_by_virtual_steps(seed, reward):
    view, which = planted(seed=seed)
    selector = selector_for(view, reward=reward, measure="virtual")
    probe = FakeProbe(view, view.student)
    for epoch in range(20):
        selector.weights(replace(view, epoch=epoch))
        selector.learn(probe)
    assert selector.updates == 200 and not probe.asked
    assert share_right(selector, view, which) >= 0.95


@pytest.mark.parametrize("baseline", ["mean", "row"])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_them_by_looking_at_the_student_after_its_step(seed, baseline):
    """A student that is drawn towards the teachers that it was told to believe."""
    view, which = planted(seed=seed)
    selector = selector_for(view, baseline=baseline)
    for epoch in range(20):
        now = replace(view, epoch=epoch)
        after = virtual_step(now.student, now.teachers, selector.decide(now), selector.response, 0.5)
        selector.learn(FakeProbe(now, after))
    assert share_right(selector, view, which) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_them_in_its_own_warm_up_with_the_student_fixed(seed):
    view, which = planted(seed=seed)
    selector = selector_for(view, policy_warmup="virtual", policy_updates=200)
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
    selector = selector_for(view, hide=None, measure="virtual", batch_size=8)
    probe = FakeProbe(view, view.student)
    for epoch in range(40):
        selector.weights(replace(view, epoch=epoch))
        selector.learn(probe)
    rest = part(view, torch.arange(100, 400))
    assert share_right(selector, rest, which[100:]) >= 0.9


@pytest.mark.parametrize("options", [{}, {"state": "joint"}, {"shared": True}, {"encoder": None}])
@pytest.mark.parametrize("regression", [False, True])
def test_a_planted_oracle_is_believed_and_the_others_are_not(regression, options):
    """PAPERS 1.12, 3: one teacher always right, others random. With shared weights its label block has to tell."""
    view, _ = planted(regression=regression)
    oracle = torch.nn.functional.one_hot(torch.ones_like(view.keys), 3).bool()
    if regression:
        teachers = torch.where(oracle, view.labels.unsqueeze(1), randn(300, 3)).unsqueeze(-1)
    else:
        guesses = torch.randint(4, (300, 3), generator=torch.Generator().manual_seed(0))
        said = torch.where(oracle, view.labels.unsqueeze(1), guesses)
        teachers = 3.0 * torch.nn.functional.one_hot(said, 4)
    view = replace(view, teachers=teachers)
    selector = selector_for(view, hide=0.0, learning_rate=0.05, **options)
    learn(selector, view, epochs=40)
    believed = selector.weights(replace(view, epoch=99)).mean(0)
    assert float(believed[1]) > (0.6 if options.get("shared") else 0.9)
    if not options.get("shared"):
        state = selector.builder(view, torch.ones(300, dtype=torch.bool))
        found = torch.sigmoid(policy_of(selector)(state)).detach().mean(0)
        assert float(found[1]) > 0.9 and float(found[[0, 2]].max()) < 0.1


@pytest.mark.parametrize("measure", ["step", "virtual"])
@pytest.mark.parametrize("seed", range(3))
def test_regression_finds_them_by_squared_errors(seed, measure):
    view, which = planted(600, seed=seed, regression=True)
    selector = selector_for(view, measure=measure)
    for epoch in range(20):
        now = replace(view, epoch=epoch)
        after = virtual_step(now.student, now.teachers, selector.decide(now), selector.response, 0.5)
        selector.learn(FakeProbe(now, after))
    assert torch.isfinite(parameters(selector)).all()
    assert share_right(selector, view, which) >= 0.9


# ---- rewards of a step ---------------------------------------------------------------------------------------------


def rewarded(view: StepView, probe: FakeProbe, **options: Any) -> reinforced.Decisions:
    """The decisions of one step and their rewards."""
    selector = selector_for(view, **({"update_every": 1000} | options))
    selector.decide(view)
    selector.learn(probe)
    return history_of(selector)


def test_rewards_are_those_of_the_student_after_its_step():
    view = make_view(20)
    order = torch.argsort(view.keys)
    labels, teachers = view.labels[order], view.teachers[order]
    for said in (view.student, randn(20, 4, seed=5)):
        probe, after = FakeProbe(view, said), said[order]
        assert torch.equal(rewarded(view, probe, reward=1).reward, reward_1(after, labels))
        pool = reward_2(after, labels, teachers, lambda s, t: response_kl(s, t, 4.0))
        torch.testing.assert_close(rewarded(view, probe, reward=2).reward, pool)
        assert [len(rows) for rows in probe.asked] == [20, 20]


def test_the_row_baseline_is_the_same_rows_reward_before_the_step():
    view = make_view(20)
    order, after = torch.argsort(view.keys), randn(20, 4, seed=5)
    found = rewarded(view, FakeProbe(view, after), reward=1, baseline="row").reward
    gain = reward_1(after, view.labels) - reward_1(view.student, view.labels)
    torch.testing.assert_close(found, gain[order])


def test_the_row_baseline_of_virtual_steps_is_the_step_towards_all_teachers():
    view = make_view(20)
    decisions = rewarded(view, FakeProbe(view, view.student), reward=1, baseline="row", measure="virtual")
    everyone = decisions.actions.all(1)
    assert everyone.any() and not everyone.all()
    assert not decisions.reward[everyone].any() and decisions.reward[~everyone].all()


def test_only_a_share_of_the_labelled_rows_is_measured_always_the_same_ones_of_an_epoch():
    view = make_view(2000)
    probe = FakeProbe(view, view.student)
    found = rewarded(view, probe, share=0.3)
    assert len(found) == len(probe.asked[0]) == pytest.approx(600, abs=70)
    drawn = row_uniform(view.keys, view.seed, view.epoch, "reward") < 0.3
    assert torch.equal(found.rows, view.keys[drawn].sort().values)
    assert not rewarded_or_none(view, share=0.0)


def rewarded_or_none(view: StepView, **options: Any) -> list[reinforced.Decisions]:
    selector = selector_for(view, **options)
    selector.decide(view)
    selector.learn(FakeProbe(view, view.student))
    return selector.history


@pytest.mark.parametrize("reward", [1, 2, 3])
@pytest.mark.parametrize("kd_over", ["pool", "selected"])
@pytest.mark.parametrize("measure", ["step", "virtual"])
def test_the_reward_does_not_contain_the_policys_probabilities(monkeypatch, reward, kd_over, measure):
    """PITFALLS 31: it would learn to favour the teacher nearest to the student. Same actions, other probabilities."""
    view = make_view(30)
    actions = randn(30, 3, seed=8) > 0
    actions[:, 0] |= ~actions.any(1)
    fixed = dict(zip(view.keys.tolist(), actions, strict=True))

    def given(z: Tensor, rows: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        return torch.stack([fixed[row] for row in rows.tolist()]), torch.zeros(len(z), dtype=torch.bool)

    monkeypatch.setattr(reinforced, "sample_actions", given)
    found = []
    for bias in ([0.0, 0.0, 0.0], [3.0, -2.0, 0.5]):
        selector = selector_for(view, reward=reward, kd_over=kd_over, measure=measure, update_every=1000)
        selector.decide(view)
        selector.pending = []
        policy_of(selector).bias.data[:] = torch.tensor(bias)
        selector.decide(view)
        selector.learn(FakeProbe(view, randn(30, 4, seed=5)))
        found.append(history_of(selector).reward)
    assert torch.equal(*found)


def test_over_the_pool_the_action_reaches_the_reward_through_the_student_alone():
    """PITFALLS 31: with the published mean over selected teachers, the choice itself changes the reward."""
    view = make_view(40)
    probe = FakeProbe(view, randn(40, 4, seed=5))
    for kd_over, same in (("pool", True), ("selected", False)):
        one, other = (rewarded(replace(view, epoch=e), probe, kd_over=kd_over) for e in (0, 1))
        assert not torch.equal(one.actions, other.actions)
        assert torch.equal(one.reward, other.reward) == same


def test_reward_3_looks_at_the_validation_rows_every_so_many_steps_and_never_at_others():
    view = make_view(20)
    probe = FakeProbe(view, view.student)  # right on 3 of its 4 held-out rows
    selector = selector_for(view, reward=3, gamma=0.25, evaluate_every=3, evaluate_rows=64, update_every=1000)
    looks = []
    for _ in range(7):
        selector.decide(view)
        selector.learn(probe)
        looks.append(len(probe.limits))
    assert looks == [1, 1, 1, 2, 2, 2, 3] and set(probe.limits) == {64}
    own = rewarded(view, probe, reward=2).reward
    torch.testing.assert_close(selector.history[0].reward, 0.25 * own + 0.75 * 0.75)


def test_reward_3_does_not_look_while_the_student_warms_up():
    view = make_view(20)
    probe = FakeProbe(view, view.student)
    selector = selector_for(view, reward=3, warmup_epochs=1)
    selector.decide(view)
    selector.learn(probe)
    assert not probe.limits


def test_reward_3_needs_rows_validation_of_train():
    view = make_view(20)
    with pytest.raises(ValueError, match=r"reward: 3 needs rows held out of train: set data\.validation_size"):
        selector_for(view, {"validation_labels": torch.zeros(0).numpy()}, reward=3)


# ---- schedule ------------------------------------------------------------------------------------------------------


def test_the_policys_warm_up_is_one_pass_with_all_teachers_over_labelled_rows(monkeypatch):
    view = make_view(100, unlabelled=(3, 5))
    learned: list[reinforced.Decisions] = []
    learn_from = ReinforcedTeachers._learn

    def spy(self: ReinforcedTeachers) -> None:
        learned.extend(self.history)
        learn_from(self)

    monkeypatch.setattr(ReinforcedTeachers, "_learn", spy)
    selector = selector_for(view, policy_warmup="ones", warmup_epochs=1, reward=1)
    probe = FakeProbe(view, view.student)
    selector.begin_epoch(probe, 0)
    assert not learned
    for _ in range(2):  # the second time as if the run was resumed within the epoch
        selector.begin_epoch(probe, 1)
        (pass_,) = learned
        assert len(pass_) == len(probe.asked[0]) == 98 and pass_.actions.all()
    known = view.has_label[torch.argsort(view.keys)]
    order = torch.argsort(view.keys)[known]
    assert torch.equal(pass_.reward, reward_1(view.student[order], view.labels[order]))
    assert selector.updates == 4 and len(probe.asked) == 1
    assert selector.moments.seen == 0  # rewards of real steps have another scale


def test_a_warm_up_uses_at_most_so_many_rows_and_whole_passes_over_them():
    view = make_view(100)
    for options, updates in (
        ({"policy_warmup": "ones", "policy_rows": 40, "policy_updates": 18}, 2),
        ({"policy_warmup": "virtual", "policy_rows": 40, "policy_updates": 17}, 18),
        ({"policy_warmup": "none"}, 0),
    ):
        selector = selector_for(view, **options)
        probe = FakeProbe(view, view.student)
        selector.begin_epoch(probe, 0)
        assert selector.updates == updates and [len(rows) for rows in probe.asked] == [40] * (updates > 0)


def test_virtual_passes_differ_in_their_draws():
    view = make_view(100)
    selector = selector_for(view, policy_warmup="virtual", hide=0.5)
    actions = []
    for number in range(3):
        seen = replace(view, epoch=-1 - number)
        actions.append((selector._warm_up_decisions(seen).actions, selector._visible(seen)))
    for one, other in ((0, 1), (1, 2)):
        assert not torch.equal(actions[one][0], actions[other][0])
        assert not torch.equal(actions[one][1], actions[other][1])


def test_without_any_label_there_is_nothing_to_learn_from_and_nothing_breaks():
    view = make_view(30, unlabelled=tuple(range(30)))
    selector = selector_for(view, policy_warmup="ones", reward=3)
    probe = FakeProbe(view, view.student)
    selector.begin_epoch(probe, 0)
    weights = selector.decide(view)
    selector.learn(probe)
    torch.testing.assert_close(weights.sum(1), torch.ones(30))
    assert selector.updates == 0 and not probe.asked and not probe.limits


# ---- rows without labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regression", [False, True])
def test_rows_without_a_label_are_never_learned_from(regression):
    view = make_view(30, unlabelled=tuple(range(12)), regression=regression)
    selector = selector_for(view, update_every=1000)
    selector.decide(view)
    assert set(selector.pending[0].rows.tolist()) == set(view.keys[12:].tolist())
    probe = FakeProbe(view, view.student)
    selector.learn(probe)
    assert set(history_of(selector).rows.tolist()) == set(view.keys[12:].tolist())
    assert torch.isfinite(history_of(selector).reward).all()
    assert set(probe.asked[0].tolist()) == set(view.keys[12:].tolist())


@pytest.mark.parametrize("regression", [False, True])
def test_a_hidden_label_changes_no_decision_and_a_visible_one_may(regression):
    view = make_view(200, regression=regression)
    other = replace(view, labels=view.labels.roll(1))
    for hide, same in ((1.0, True), (0.0, False)):
        selector = selector_for(view, hide=hide)
        selector.decide(view)
        torch.nn.init.normal_(policy_of(selector).weight, generator=torch.Generator().manual_seed(0))
        assert torch.equal(selector.decide(view), selector.weights(other)) == same


def test_a_row_without_a_label_is_decided_like_one_whose_label_is_hidden():
    view = make_view(200)
    selector = selector_for(view, hide=1.0)
    selector.decide(view)
    torch.nn.init.normal_(policy_of(selector).weight, generator=torch.Generator().manual_seed(0))
    assert torch.equal(selector.decide(view), selector.weights(without_labels(view)))


def test_as_many_labels_are_hidden_as_rows_have_none():
    whole, gaps = make_view(3000), make_view(3000, unlabelled=tuple(range(750)))
    assert selector_for(whole, hide=None)._visible(whole).all()
    visible = selector_for(gaps, hide=None)._visible(gaps)
    assert not visible[:750].any() and float(visible[750:].double().mean()) == pytest.approx(0.75, abs=0.03)
    again = selector_for(gaps, hide=None)._visible(replace(gaps, epoch=1))[750:]
    same = 0.75**2 + 0.25**2  # drawn anew each epoch
    assert float((visible[750:] == again).double().mean()) == pytest.approx(same, abs=0.03)


# ---- invariance ----------------------------------------------------------------------------------------------------


def splits(rows: int) -> list[list[Tensor]]:
    """One batch; the same rows in another order; cut into parts of unequal sizes."""
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(5))
    return [[torch.arange(rows)], [shuffled], list(shuffled.split(17)), list(torch.arange(rows).split(1))]


@pytest.mark.parametrize(
    "options", [{}, {"measure": "virtual", "baseline": "row"}, {"state": "joint", "features": ["kl"]}]
)
@pytest.mark.parametrize("every", [1, "epoch"])
def test_batch_split_and_row_order_change_neither_choices_nor_what_is_learned(options, every):
    """DESIGN, invariance 1: a step's parts may come in any order and number."""
    view = make_view(60, unlabelled=(1, 7))
    found = []
    for parts in splits(60):
        selector = selector_for(view, update_every=every, hide=0.5, share=0.7, **options)
        probe, chosen = FakeProbe(view, randn(60, 4, seed=5)), []
        for epoch in range(4):
            selector.begin_epoch(probe, epoch)
            weights = torch.zeros(60, 3)
            for index in parts:
                weights[index] = selector.weights(replace(part(view, index), epoch=epoch))
            selector.learn(probe)
            chosen.append(weights)
        found.append((torch.stack(chosen), parameters(selector), probabilities(selector, view)))
    assert found[0][1].any()
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_a_shuffled_history_teaches_the_same():
    """Between two updates the order of the steps does not matter either."""
    view = make_view(60)
    found = []
    for order in (range(6), reversed(range(6))):
        selector = selector_for(view, update_every=6, batch_size=16)
        for number in order:
            selector.decide(part(view, torch.arange(10 * number, 10 * number + 10)))
            selector.observe(randn(10, seed=number))
        assert selector.updates == 4
        found.append(parameters(selector))
    torch.testing.assert_close(*found, atol=1e-7, rtol=0)


# ---- saving --------------------------------------------------------------------------------------------------------


def steps(selector: ReinforcedTeachers, view: StepView, numbers: range) -> Tensor:
    """Four steps of ten rows per epoch, with another student and another held-out score each; the weights."""
    chosen = []
    for number in numbers:
        probe = FakeProbe(view, randn(40, 4, seed=number), validation_logits=randn(4, 4, seed=number))
        if number % 4 == 0 or number == numbers.start:
            selector.begin_epoch(probe, number // 4)
        index = torch.arange(10) + 10 * (number % 4)
        chosen.append(selector.weights(replace(part(view, index), epoch=number // 4)))
        selector.learn(probe)
    return torch.cat(chosen)


@pytest.mark.parametrize(
    "options",
    [
        {"update_every": "epoch"},
        {"update_every": 3, "reward": 3, "evaluate_every": 4},
        {"update_every": 1, "policy_warmup": "virtual", "policy_updates": 2},
        {"warmup_epochs": 1, "policy_warmup": "ones", "entropy_bonus": 0.1, "weight_decay": 0.1},
        {"update_every": "epoch", "state": "joint"},
    ],
)
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_selector_that_was_saved_and_read_has_the_same_future(tmp_path, options, at):
    """PITFALLS 33: policy, optimiser, history, moments and counts; at the end of an epoch and within one."""
    view = make_view(40, unlabelled=(0,))
    whole, first, second = (selector_for(view, hide=None, **options) for _ in range(3))
    steps(whole, view, range(at))
    steps(first, view, range(at))
    save_state({"selector": first.state_dict()}, tmp_path / "state")
    second.load_state_dict(load_state(tmp_path / "state")["selector"])
    assert torch.equal(steps(whole, view, range(at, 14)), steps(second, view, range(at, 14)))
    assert parameters(whole).any() and torch.equal(parameters(whole), parameters(second))
    assert whole.health() == second.health() and whole.moments.state_dict() == second.moments.state_dict()


@pytest.mark.parametrize(
    "part_of_state", ["policy", "optimizer", "builder", "moments", "history", "averages", "counts"]
)
def test_every_part_of_the_saved_state_matters(part_of_state):
    """So that the test before cannot pass with a part that is never read."""
    view = make_view(40, unlabelled=(0,))
    selector, fresh = (selector_for(view, hide=None, update_every=3, entropy_bonus=0.1) for _ in range(2))
    steps(fresh, view, range(1))
    steps(selector, view, range(8))
    saved, other = selector.state_dict(), fresh.state_dict()
    if part_of_state == "builder":
        other["builder"] = {name: value + 1 for name, value in saved["builder"].items()}
    futures = []
    for state in (saved, saved | {part_of_state: other[part_of_state]}):
        again = selector_for(view, hide=None, update_every=3, entropy_bonus=0.1)
        again.load_state_dict(copy.deepcopy(state))
        steps(again, view, range(8, 14))
        futures.append((again.health(), parameters(again).tolist()))
    assert futures[0] != futures[1]


# ---- health --------------------------------------------------------------------------------------------------------


def test_health_is_reported_by_stable_names_and_starts_anew_when_read():
    view = make_view(40)
    selector = selector_for(view)
    learn(selector, view, epochs=2)
    health = selector.health()
    names = {"policy/entropy", "policy/teachers_per_row", "policy/empty", "policy/p_a", "policy/p_b", "policy/p_c"}
    assert set(health) == names | {"reward/mean", "reward/baseline", "reward/std"}
    assert 0.9 < health["policy/entropy"] <= 1.0 and 1 <= health["policy/teachers_per_row"] <= 3
    assert health["reward/mean"] == pytest.approx(health["reward/baseline"], abs=0.2) and health["reward/std"] > 0
    assert selector.health() == {}


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "per-teacher"}, "state is 'per-teacher', expected one of per_teacher, joint.*Did you mean"),
        ({"pooling": "max"}, "pooling is 'max', expected one of cls, mean"),
        ({"scale": "standardize"}, "scale is 'standardize', expected one of .*Did you mean 'standardise'"),
        ({"features": ["kl", "entropy"]}, "features is 'entropy', expected one of kl, student_entropy"),
        ({"features": "kl"}, r"features is 'kl', expected a list such as \[kl\]"),
        ({"weights": "soft"}, "weights is 'soft', expected one of mask, probabilities"),
        ({"reward": 4}, "reward is 4, expected one of 1, 2, 3"),
        ({"kd_over": "all"}, "kd_over is 'all', expected one of pool, selected"),
        ({"measure": "steps"}, "measure is 'steps', expected one of step, virtual"),
        ({"baseline": "rows"}, "baseline is 'rows', expected one of none, mean, row"),
        ({"policy_warmup": "one"}, "policy_warmup is 'one', expected one of ones, virtual, none"),
        ({"update_every": 0}, "update_every is 0, expected 'epoch' or a number of steps"),
        ({"update_every": "batch"}, "update_every is 'batch', expected 'epoch' or a number of steps"),
        ({"gamma": 1.5}, "gamma is 1.5, expected a number from 0 to 1"),
        ({"share": -0.1}, "share is -0.1, expected a number from 0 to 1"),
        ({"hide": 2}, "hide is 2, expected a number from 0 to 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"step_size": -1.0}, "step_size is -1.0, expected a number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, expected 0 or more"),
        ({"entropy_bonus": -0.1}, "entropy_bonus is -0.1, expected 0 or more"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1, expected 0 or more"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1"),
        ({"evaluate_every": 0}, "evaluate_every is 0, expected a whole number from 1"),
        ({"evaluate_rows": 0}, "evaluate_rows is 0, expected a whole number from 1"),
        ({"policy_updates": 0}, "policy_updates is 0, expected a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number from 1"),
        ({"policy_rows": 0}, "policy_rows is 0, expected a whole number from 1"),
        ({"state": "joint", "shared": True}, "the same state: expected shared: false"),
        ({"encoder": "student", "policy_warmup": "ones"}, "needs a frozen encoder: expected policy_warmup: none"),
        ({"reward": 3, "baseline": "row"}, "baseline: row cancels the held-out score"),
    ],
)
def test_bad_options_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        ReinforcedTeachers(**options)


def test_the_encoder_is_asked_for_by_name_or_is_the_student():
    assert ReinforcedTeachers().encoder == Encoder("backbone", "cls")
    assert ReinforcedTeachers(encoder="some/model", pooling="mean").encoder == Encoder("some/model", "mean")
    for encoder, pooled in ((None, False), ("student", True)):
        selector = ReinforcedTeachers(encoder=encoder)
        assert selector.encoder is None and selector.wants_pooled == pooled
    assert ReinforcedTeachers(encoder="student").policy_warmup == "none"
    assert ReinforcedTeachers().policy_warmup == "ones"


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"state": "joint"},
        {"shared": True},
        {"scale": "layernorm"},
        {"scale": "none"},
        {"features": ["kl"]},
        {"weights": "probabilities"},
        {"reward": 1},
        {"reward": 3},
        {"kd_over": "selected"},
        {"measure": "virtual"},
        {"baseline": "none"},
        {"baseline": "row"},
        {"normalise": False},
        {"update_every": 2},
        {"update_every": "epoch"},
        {"entropy_bonus": 0.1},
        {"hide": 0.5},
        {"policy_warmup": "ones"},
        {"policy_warmup": "virtual", "policy_updates": 4},
        {"encoder": None},
        {"encoder": "student"},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)
def test_every_option_runs_and_the_policy_moves(options, regression):
    view = make_view(40, unlabelled=(2,), regression=regression)
    selector = selector_for(view, **options)
    probe = FakeProbe(view, randn(*view.student.shape, seed=6))
    if regression:
        probe.validation_logits, probe.validation_labels = randn(4, 1), randn(4, seed=1)
    for epoch in range(3):
        selector.begin_epoch(probe, epoch)
        weights = selector.weights(replace(view, epoch=epoch))
        selector.learn(probe)
        torch.testing.assert_close(weights.sum(1), torch.ones(40))
        assert torch.isfinite(weights).all() and (weights >= 0).all()
    selector.begin_epoch(probe, 3)
    assert torch.isfinite(parameters(selector)).all() and parameters(selector).any()


def test_all_that_is_saved_of_a_decision_is_taken_and_joined():
    """A field that `take` or `join` forgot would pair a row with another row's action."""
    view = make_view(20)
    selector = selector_for(view, update_every=1000)
    for index in torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(7):
        selector.decide(part(view, index))
    joined = reinforced.Decisions.join(selector.pending)
    order = torch.argsort(view.keys)
    for field in fields(joined):
        if hasattr(view, field.name):
            assert torch.equal(getattr(joined, field.name), getattr(view, field.name)[order]), field.name


@pytest.mark.parametrize("options", [{}, {"state": "joint"}, {"encoder": None}, {"features": ["kl"]}])
def test_what_all_teachers_share_is_kept_once_and_the_state_is_the_same(options):
    """A history of an epoch would hold the row's vector once per teacher."""
    view = make_view(20)
    selector = selector_for(view, update_every=1000, **options)
    selector.decide(view)
    (decisions,) = selector.pending
    state = selector.builder(view, torch.zeros(20, dtype=torch.bool))
    assert torch.equal(decisions.state, state)
    width = {"joint": state.shape[2]}.get(options.get("state", ""), 0 if "encoder" in options else 5)
    assert decisions.common.shape == (20, width) and decisions.own.shape == (20, 3, state.shape[2] - width)


def test_a_student_that_only_warms_up_is_refused_instead_of_being_uniform():
    selector = ReinforcedTeachers(warmup_epochs=2, encoder=None)
    with pytest.raises(ValueError, match=r"warmup_epochs is 2, but the student trains for 1.5.*warmup_epochs: 0"):
        selector.setup(replace(make_context(), epochs=1.5))
    selector.setup(replace(make_context(), epochs=2.5))
