"""RL-KD: what the policy must find out, and what would silently go wrong without these."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distilect.knowledge.response import response_kl
from distilect.selection import Encoder, Needs, StepView, get_preset, rlkd, rlkd_virtual, row_uniform, step_uniform
from distilect.selection.rlkd import (
    Policy,
    ReinforcedTeachers,
    bernoulli_entropy,
    log_probability,
    reward_1,
    reward_2,
    sample_actions,
)
from distilect.selection.rlkd_virtual import VirtualReinforcedTeachers, virtual_step
from distilect.selection.static import RandomSingle, UniformTeachers
from distilect.selection.teacher_state import Decisions, whole
from distilect.training.state import load_state, save_state
from tests.presets import slow
from tests.selection.planted import (
    FakeProbe,
    context_of,
    give,
    gold_reward,
    learn,
    parameters,
    planted,
    policy_of,
    probabilities,
    randn,
    selector_for,
    share_right,
    without_labels,
)
from tests.selection.views import keys, make_context, make_view, part

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


def test_actions_are_drawn_with_the_policys_probabilities():
    z = torch.tensor([-1.0, 0.5, 4.0]).expand(20_000, 3)
    actions, _, empty = sample_actions(z, keys(20_000), seed=3, epoch=1)
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
    actions, likeliest, empty = sample_actions(z, keys(50), seed=0, epoch=0)
    assert empty.all() and actions.tolist() == [[False, True, False]] * 50 and torch.equal(actions, likeliest)


def test_the_fallback_of_an_untrained_policy_favours_no_teacher():
    """By position alone the first of two teachers would get 5/8 of the weight before anything is learned."""
    rows = 20_000
    actions, _, empty = sample_actions(torch.zeros(rows, 2), keys(rows), seed=0, epoch=0)
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


def test_each_teacher_has_its_own_weights():
    state, policy = randn(5, 3, 7), Policy(3, 7)
    assert policy.weight.shape == (3, 7)
    assert not policy(state).any()  # σ = ½ before it has learned
    torch.nn.init.normal_(policy.weight, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([state[:, k] @ policy.weight[k] for k in range(3)], dim=1)
    torch.testing.assert_close(policy(state), by_hand + policy.bias)


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
        assert torch.equal(selector.decide(replace(view, epoch=epoch)), UniformTeachers().decide(view))
        selector.learn(FakeProbe(view, view.student))
    assert selector.policy is None and not len(selector.history) and not selector.health()
    weights = selector.decide(replace(view, epoch=2))
    assert not torch.equal(weights, UniformTeachers().decide(view)) and len(selector.pending)


def test_one_hot_actions_per_batch_are_random_single(monkeypatch):
    view = make_view(9)
    selector = selector_for(view)

    def one_hot(z: Tensor, rows: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = (step_uniform((1,), seed, step, "teachers").expand(len(z)) * z.shape[1]).long()
        actions = torch.nn.functional.one_hot(chosen, z.shape[1]).bool()
        return actions, actions, torch.zeros(len(z), dtype=torch.bool)

    monkeypatch.setattr(rlkd, "sample_actions", one_hot)
    for step in range(12):
        now = replace(view, step=step)
        assert torch.equal(selector.decide(now), RandomSingle().decide(now))


def test_selected_teachers_weigh_equally():
    view = make_view(60, unlabelled=tuple(range(30)))
    selector = selector_for(view)
    selector.decide(view)
    policy_of(selector).bias.data[:] = torch.tensor([-1.0, 0.0, 2.0])
    values = selector.decide(view)
    assert {round(float(x), 4) for x in values.flatten()} <= {0.0, 0.3333, 0.5, 1.0}


# ---- what the policy learns from -----------------------------------------------------------------------------------


def test_a_constant_reward_moves_nothing_when_there_is_a_baseline():
    """PAPERS 1.12, 2: and without one it does."""
    view, _ = planted(100)
    for baseline, moves in (("mean", False), ("none", True)):
        selector = selector_for(view, baseline=baseline)
        learn(selector, view, epochs=5, reward=lambda now, weights: torch.tensor(-2.3))
        assert selector.updates == 5 * 4
        assert bool(parameters(selector).any()) == moves


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sampled_actions_become_likelier_by_a_reward_and_unlikelier_by_a_penalty(sign):
    """PITFALLS 32: a loss without the log-probability of the sampled action has its optimum at uniform."""
    view = make_view(16)
    selector = selector_for(view, baseline="none", batch_size=16)
    actions = selector.decide(view) > 0
    give(selector, torch.tensor(sign))
    z = torch.logit(probabilities(selector, view).double())
    change = log_probability(z, actions) - log_probability(torch.zeros_like(z), actions)
    assert float(sign * change.mean()) > 0 and float((sign * change > 0).double().mean()) > 0.8


@pytest.mark.parametrize("kind", [ReinforcedTeachers, VirtualReinforcedTeachers])
def test_an_update_follows_the_policy_gradient(kind, monkeypatch):
    """Adam's first step is the learning rate times the sign of Σ_i advantage_i · (a_ik - σ_k) · F(s_ik)."""
    monkeypatch.setattr(rlkd_virtual, "ENTROPY_BONUS", 0.0)
    monkeypatch.setattr(VirtualReinforcedTeachers, "weight_decay", 0.0)
    view = make_view(16)
    selector = selector_for(view, kind=kind, batch_size=16, learning_rate=0.01)
    selector.decide(view)
    selector.pending.clear()
    bias = torch.tensor([-0.5, 0.7, 0.2])
    policy_of(selector).bias.data[:] = bias
    selector.decide(view)
    (decided,) = selector.pending.parts
    actions, reward = decided.actions, randn(16, seed=3)
    give(selector, reward[torch.argsort(view.keys)])
    slope = actions.float() - torch.sigmoid(bias)
    if kind is VirtualReinforcedTeachers:  # alone, the likeliest teacher may be the fallback
        slope[actions.sum(1) == 1, 1] *= (~actions[actions.sum(1) == 1, 1]).float()
    state = whole(*selector.builder(view, torch.zeros(16, dtype=torch.bool)))
    gradient = ((reward - reward.mean())[:, None, None] * slope.unsqueeze(2) * state).mean(0)
    clear = gradient.abs() > 1e-4
    assert clear[:, :9].sum() > 24 and not clear[:, 9:11].any()  # the label block was hidden
    moved = policy_of(selector).weight.data
    torch.testing.assert_close(moved[clear], 0.01 * gradient.sign()[clear])
    assert not moved[:, 9:11].any()


def test_advantages_are_standard_scores_of_the_rewards():
    selector, reward = ReinforcedTeachers(), 5 * randn(200) - 40
    by_hand = (reward - reward.mean()) / reward.std(unbiased=False)
    torch.testing.assert_close(selector.advantage(reward), by_hand, atol=1e-4, rtol=0)
    plain = ReinforcedTeachers(baseline="none")
    assert torch.equal(plain.advantage(reward), reward)


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
    assert len(selector.history) == (10 if every == 3 else 0)


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
        return gold_reward(now, weights)[torch.randperm(len(now.keys), generator=generator)]

    selector = selector_for(view)
    learn(selector, view, epochs=20, reward=shuffled)
    assert selector.updates == 200
    assert share_right(selector, view, which) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_them_by_looking_at_the_student_after_its_step(seed):
    """A student that is drawn towards the teachers that were selected."""
    view, which = planted(seed=seed)
    selector = selector_for(view)
    for epoch in range(20):
        now = replace(view, epoch=epoch)
        after = virtual_step(now.student, now.teachers, selector.decide(now), selector.response, 0.5)
        selector.learn(FakeProbe(now, after))
    assert share_right(selector, view, which) >= 0.95


@pytest.mark.parametrize("options", [{}, *slow({"state": "joint"}, {"encoder": None})])
@pytest.mark.parametrize("regression", [False, True])
def test_a_planted_oracle_is_believed_and_the_others_are_not(regression, options):
    """PAPERS 1.12, 3: one teacher always right, others random."""
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
    believed = selector.decide(replace(view, epoch=99)).mean(0)
    assert float(believed[1]) > 0.9
    _, z, _ = selector.act(view)
    found = torch.sigmoid(z).mean(0)
    assert float(found[1]) > 0.9 and float(found[[0, 2]].max()) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_regression_finds_them_by_squared_errors(seed):
    view, which = planted(600, seed=seed, regression=True)
    selector = selector_for(view)
    for epoch in range(20):
        now = replace(view, epoch=epoch)
        after = virtual_step(now.student, now.teachers, selector.decide(now), selector.response, 0.5)
        selector.learn(FakeProbe(now, after))
    assert torch.isfinite(parameters(selector)).all()
    assert share_right(selector, view, which) >= 0.9


# ---- rewards of a step ---------------------------------------------------------------------------------------------


def rewarded(view: StepView, probe: FakeProbe, **options: Any) -> Decisions:
    """The decisions of one step and their rewards."""
    selector = selector_for(view, **({"update_every": 1000} | options))
    selector.decide(view)
    selector.learn(probe)
    return selector.history.join()


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


def test_only_a_share_of_the_labelled_rows_is_measured_always_the_same_ones_of_an_epoch():
    view = make_view(2000)
    probe = FakeProbe(view, view.student)
    found = rewarded(view, probe, share=0.3)
    assert len(found) == len(probe.asked[0]) == pytest.approx(600, abs=70)
    drawn = row_uniform(view.keys, view.seed, view.epoch, "reward") < 0.3
    assert torch.equal(found.keys, view.keys[drawn].sort().values)
    nothing = selector_for(view, share=0.0)
    nothing.decide(view)
    nothing.learn(probe)
    assert not len(nothing.history) and len(probe.asked) == 1


def test_which_rows_are_measured_says_nothing_about_whose_label_is_hidden():
    """From one stream of draws, every measured row would have its label hidden: the policy would learn without labels only."""
    view = make_view(4000)
    selector = selector_for(view, hide=0.5, share=0.5, update_every=1000)
    selector.decide(view)
    measured = selector.pending.join()
    seen = selector.visible(view)[torch.argsort(view.keys)]
    measured_seen = seen[torch.isin(view.keys.sort().values, measured.keys)]
    assert float(seen.double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(measured_seen.double().mean()) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "reward"),
    [*((ReinforcedTeachers, n) for n in (1, 2, 3)), *((VirtualReinforcedTeachers, n) for n in (1, 2))],
)
@pytest.mark.parametrize("kd_over", ["pool", "selected"])
def test_the_reward_does_not_contain_the_policys_probabilities(monkeypatch, kind, reward, kd_over):
    """PITFALLS 31: it would learn to favour the teacher nearest to the student. Same actions, other probabilities."""
    view = make_view(30)
    actions = randn(30, 3, seed=8) > 0
    actions[:, 0] |= ~actions.any(1)
    fixed = dict(zip(view.keys.tolist(), actions, strict=True))

    def given(z: Tensor, rows: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        taken = torch.stack([fixed[row] for row in rows.tolist()])
        return taken, taken, torch.zeros(len(z), dtype=torch.bool)

    monkeypatch.setattr(rlkd, "sample_actions", given)
    found = []
    for bias in ([0.0, 0.0, 0.0], [3.0, -2.0, 0.5]):
        selector = selector_for(view, kind=kind, reward=reward, kd_over=kd_over, update_every=1000)
        selector.decide(view)
        selector.pending.clear()
        policy_of(selector).bias.data[:] = torch.tensor(bias)
        selector.decide(view)
        selector.learn(FakeProbe(view, randn(30, 4, seed=5)))
        found.append(selector.history.join().reward)
    assert torch.equal(*found)


def test_over_the_pool_the_action_reaches_the_reward_through_the_student_alone():
    """PITFALLS 31: with the published mean over selected teachers, the choice itself changes the reward."""
    view = make_view(40)
    probe = FakeProbe(view, randn(40, 4, seed=5))
    for kd_over, same in (("pool", True), ("selected", False)):
        one, other = (rewarded(replace(view, epoch=e), probe, kd_over=kd_over) for e in (0, 1))
        assert not torch.equal(one.actions, other.actions)
        assert torch.equal(one.reward, other.reward) == same


def test_reward_3_looks_at_the_validation_rows_every_so_many_steps_and_never_at_others(monkeypatch):
    monkeypatch.setattr(rlkd, "EVALUATE_EVERY", 3)
    monkeypatch.setattr(rlkd, "EVALUATE_ROWS", 64)
    view = make_view(20)
    probe = FakeProbe(view, view.student)  # right on 3 of its 4 validation rows
    selector = selector_for(view, reward=3, gamma=0.25, update_every=1000)
    looks = []
    for _ in range(7):
        selector.decide(view)
        selector.learn(probe)
        looks.append(len(probe.limits))
    assert looks == [1, 1, 1, 2, 2, 2, 3] and set(probe.limits) == {64}
    own = rewarded(view, probe, reward=2).reward
    torch.testing.assert_close(selector.history.parts[0].reward, 0.25 * own + 0.75 * 0.75)


def test_reward_3_does_not_look_while_the_student_warms_up():
    view = make_view(20)
    probe = FakeProbe(view, view.student)
    selector = selector_for(view, reward=3, warmup_epochs=1)
    selector.decide(view)
    selector.learn(probe)
    assert not probe.limits


def test_reward_3_needs_validation_rows():
    view = make_view(20)
    with pytest.raises(ValueError, match=r"reward: 3 needs validation rows: set data\.validation_size"):
        selector_for(view, {"validation_labels": torch.zeros(0).numpy()}, reward=3)


# ---- schedule ------------------------------------------------------------------------------------------------------


PUBLISHED: dict[str, Any] = {"reward": 2, "kd_over": "selected"}  # the reward in which a choice counts by itself


def test_the_policys_warm_up_is_one_pass_over_labelled_rows_rewarded_by_what_the_choice_adds(monkeypatch):
    view = make_view(100, unlabelled=(3, 5))
    learned: list[Decisions] = []
    update = ReinforcedTeachers.update

    def spy(self: ReinforcedTeachers, decisions: Decisions | None) -> None:
        if decisions is not None:
            learned.append(decisions)
        update(self, decisions)

    monkeypatch.setattr(ReinforcedTeachers, "update", spy)
    selector = selector_for(view, policy_rows=4096, warmup_epochs=1, **PUBLISHED)
    probe = FakeProbe(view, view.student)
    selector.begin_epoch(probe, 0)
    assert not learned
    for _ in range(2):  # the second time as if the run was resumed within the epoch
        selector.begin_epoch(probe, 1)
        (pass_,) = learned
        assert len(pass_) == len(probe.asked[0]) == 98
        assert 0.3 < pass_.actions.double().mean() < 0.8 and pass_.actions.any(1).all()
    known = view.has_label[torch.argsort(view.keys)]
    order = torch.argsort(view.keys)[known]
    student, labels, teachers = view.student[order], view.labels[order], view.teachers[order]
    with_all = reward_2(student, labels, teachers, selector.response)
    expected = reward_2(student, labels, teachers, selector.response, pass_.actions) - with_all
    torch.testing.assert_close(pass_.reward, expected)
    assert selector.updates == 4 and len(probe.asked) == 1
    assert selector.moments.seen == 0  # rewards of real steps have another scale


@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("reward", [1, 2, 3])
@pytest.mark.parametrize("kd_over", ["pool", "selected"])
def test_a_warm_up_with_teachers_that_all_say_the_same_teaches_nothing(reward, kd_over, gamma):
    """With all teachers selected on every row it taught how difficult a row is: σ = .46 on easy rows, .32 on hard ones."""
    view = make_view(300)
    same = view.teachers[:, :1].expand(-1, 3, -1).clone()
    selector = selector_for(
        replace(view, teachers=same), policy_rows=4096, hide=0.0, reward=reward, kd_over=kd_over, gamma=gamma
    )
    selector.decide(replace(view, teachers=same))  # builds the policy
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    assert not parameters(selector).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_warm_up_finds_the_teacher_that_its_reward_is_for(seed):
    """As published the reward is for the nearest teacher (PITFALLS 31): the warm-up must at least find that one."""
    view, _ = planted(600, seed=seed)
    teachers = view.teachers.clone()
    teachers[:, 1] *= 0.1  # nearly what the student says
    view = replace(view, teachers=teachers)
    selector = selector_for(view, policy_rows=4096, batch_size=8, hide=0.0, **PUBLISHED)
    selector.begin_epoch(FakeProbe(view, view.student), 0)
    p = probabilities(selector, view).mean(0)
    assert p[1] > p[0] + 0.1 and p[1] > p[2] + 0.1


def test_a_warm_up_uses_at_most_so_many_rows_and_whole_passes_over_them():
    view = make_view(100)
    for kind, options, updates in (
        (ReinforcedTeachers, {"policy_rows": 40} | PUBLISHED, 2),
        (ReinforcedTeachers, {"policy_rows": 40}, 0),  # the reward of a fixed student is the same for every action
        (ReinforcedTeachers, {"policy_rows": 40, "reward": 1, "kd_over": "selected"}, 0),
        (VirtualReinforcedTeachers, {"policy_rows": 40, "policy_updates": 17}, 18),
        (ReinforcedTeachers, {"policy_rows": 0} | PUBLISHED, 0),
        (VirtualReinforcedTeachers, {"policy_rows": 0}, 0),
        (
            ReinforcedTeachers,
            {"policy_rows": 40, "encoder": "student"} | PUBLISHED,
            0,
        ),  # a sample has no vectors of the student
    ):
        selector = selector_for(view, kind=kind, **options)
        probe = FakeProbe(view, view.student)
        selector.begin_epoch(probe, 0)
        assert selector.updates == updates and [len(rows) for rows in probe.asked] == [40] * (updates > 0)


def test_without_any_label_there_is_nothing_to_learn_from_and_nothing_breaks():
    view = make_view(30, unlabelled=tuple(range(30)))
    selector = selector_for(view, policy_rows=4096, reward=3)
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
    assert set(selector.pending.join().keys.tolist()) == set(view.keys[12:].tolist())
    probe = FakeProbe(view, view.student)
    selector.learn(probe)
    assert set(selector.history.join().keys.tolist()) == set(view.keys[12:].tolist())
    assert torch.isfinite(selector.history.join().reward).all()
    assert set(probe.asked[0].tolist()) == set(view.keys[12:].tolist())


@pytest.mark.parametrize("regression", [False, True])
def test_a_hidden_label_changes_no_decision_and_a_visible_one_may(regression):
    view = make_view(200, regression=regression)
    other = replace(view, labels=view.labels.roll(1))
    for hide, same in ((1.0, True), (0.0, False)):
        selector = selector_for(view, hide=hide)
        selector.decide(view)
        torch.nn.init.normal_(policy_of(selector).weight, generator=torch.Generator().manual_seed(0))
        assert torch.equal(selector.decide(view), selector.decide(other)) == same


def test_a_row_without_a_label_is_decided_like_one_whose_label_is_hidden():
    view = make_view(200)
    selector = selector_for(view, hide=1.0)
    selector.decide(view)
    torch.nn.init.normal_(policy_of(selector).weight, generator=torch.Generator().manual_seed(0))
    assert torch.equal(selector.decide(view), selector.decide(without_labels(view)))


def test_as_many_labels_are_hidden_as_rows_have_none():
    whole, gaps = make_view(3000), make_view(3000, unlabelled=tuple(range(750)))
    assert selector_for(whole, hide=None).visible(whole).all()
    visible = selector_for(gaps, hide=None).visible(gaps)
    assert not visible[:750].any() and float(visible[750:].double().mean()) == pytest.approx(0.75, abs=0.03)
    again = selector_for(gaps, hide=None).visible(replace(gaps, epoch=1))[750:]
    same = 0.75**2 + 0.25**2  # drawn anew each epoch
    assert float((visible[750:] == again).double().mean()) == pytest.approx(same, abs=0.03)


# ---- invariance ----------------------------------------------------------------------------------------------------


def splits(rows: int) -> list[list[Tensor]]:
    """One batch; the same rows in another order; cut into parts of unequal sizes."""
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(5))
    return [[torch.arange(rows)], [shuffled], list(shuffled.split(17)), list(torch.arange(rows).split(1))]


@pytest.mark.parametrize("options", [{}, {"kind": VirtualReinforcedTeachers}, *slow({"state": "joint"})])
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
                weights[index] = selector.decide(replace(part(view, index), epoch=epoch))
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
            give(selector, randn(10, seed=number))
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
        chosen.append(selector.decide(replace(part(view, index), epoch=number // 4)))
        selector.learn(probe)
    return torch.cat(chosen)


@pytest.mark.parametrize(
    "options",
    [
        {"update_every": "epoch"},
        {"update_every": 3, "reward": 3},
        {"kind": VirtualReinforcedTeachers, "policy_rows": 4096, "policy_updates": 2},
        {"warmup_epochs": 1, "policy_rows": 4096},
        {"update_every": "epoch", "state": "joint"},
    ],
)
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_selector_that_was_saved_and_read_has_the_same_future(tmp_path, monkeypatch, options, at):
    """PITFALLS 33: policy, optimiser, history, moments and counts; at the end of an epoch and within one."""
    monkeypatch.setattr(rlkd, "EVALUATE_EVERY", 4)
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
    selector, fresh = (selector_for(view, hide=None, update_every=3) for _ in range(2))
    steps(fresh, view, range(1))
    steps(selector, view, range(8))
    saved, other = selector.state_dict(), fresh.state_dict()
    if part_of_state == "builder":
        other["builder"] = {name: value + 1 for name, value in saved["builder"].items()}
    futures = []
    for state in (saved, saved | {part_of_state: other[part_of_state]}):
        again = selector_for(view, hide=None, update_every=3)
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
        ({"reward": 4}, "reward is 4, expected one of 1, 2, 3"),
        ({"kd_over": "all"}, "kd_over is 'all', expected one of pool, selected"),
        ({"baseline": "rows"}, "baseline is 'rows', expected one of none, mean"),
        ({"update_every": 0}, "update_every is 0, expected 'epoch' or a whole number from 1"),
        ({"update_every": "batch"}, "update_every is 'batch', expected 'epoch' or a whole number from 1"),
        ({"gamma": 1.5}, "gamma is 1.5, expected a number from 0 to 1"),
        ({"share": -0.1}, "share is -0.1, expected a number from 0 to 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1, expected 0 or more"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number from 1"),
        ({"policy_rows": -1}, "policy_rows is -1, expected 0 or more"),
        ({"learningrate": 1.0}, "unknown option 'learningrate'.*Did you mean 'learning_rate'"),
    ],
)
def test_bad_options_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        ReinforcedTeachers(**options)


def test_the_encoder_is_asked_for_by_name_or_is_the_student():
    assert ReinforcedTeachers().needs == Needs(encoder=Encoder("backbone", "cls"), labels=True)
    assert ReinforcedTeachers(encoder="some/model", pooling="mean").needs == Needs(
        encoder=Encoder("some/model", "mean"), labels=True
    )
    assert ReinforcedTeachers(encoder=None).needs == Needs(labels=True)
    assert ReinforcedTeachers(encoder="student").needs == Needs(pooled=True, labels=True)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"state": "joint"},
        {"reward": 1},
        {"reward": 3},
        {"kd_over": "selected"},
        {"baseline": "none"},
        {"update_every": 2},
        {"update_every": "epoch"},
        {"hide": 0.5},
        {"policy_rows": 20},
        {"encoder": None},
        {"encoder": "student"},
        {"kind": VirtualReinforcedTeachers},
        {"kind": VirtualReinforcedTeachers, "policy_rows": 20, "policy_updates": 4},
        {"kind": VirtualReinforcedTeachers, "reward": 2, "kd_over": "selected", "step_size": 0.5},
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
        weights = selector.decide(replace(view, epoch=epoch))
        selector.learn(probe)
        torch.testing.assert_close(weights.sum(1), torch.ones(40))
        assert torch.isfinite(weights).all() and (weights >= 0).all()
    selector.begin_epoch(probe, 3)
    assert torch.isfinite(parameters(selector)).all() and parameters(selector).any()


def test_all_that_is_saved_of_a_decision_is_taken_and_joined():
    """Whatever the order in which rows came, each is kept with its own label and outputs."""
    view = make_view(20)
    selector = selector_for(view, update_every=1000)
    for index in torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(7):
        selector.decide(part(view, index))
    joined = selector.pending.join()
    assert torch.equal(joined.keys, view.keys.sort().values)
    order = torch.argsort(view.keys)
    for field in fields(joined):
        if hasattr(view, field.name):
            assert torch.equal(getattr(joined, field.name), getattr(view, field.name)[order]), field.name


@pytest.mark.parametrize("options", [{}, {"state": "joint"}, {"encoder": None}])
def test_what_all_teachers_share_is_kept_once_and_the_state_is_the_same(options):
    """A history of an epoch would hold the row's vector once per teacher."""
    view = make_view(20)
    selector = selector_for(view, update_every=1000, **options)
    selector.decide(view)
    (decisions,) = selector.pending.parts
    state = whole(*selector.builder(view, torch.zeros(20, dtype=torch.bool)))
    assert torch.equal(decisions.state, state)
    width = {"joint": state.shape[2]}.get(options.get("state", ""), 0 if "encoder" in options else 5)
    assert decisions.common.shape == (20, width) and decisions.own.shape == (20, 3, state.shape[2] - width)


def test_a_student_that_only_warms_up_is_refused_instead_of_being_uniform():
    selector = ReinforcedTeachers(warmup_epochs=2, encoder=None)
    with pytest.raises(ValueError, match=r"warmup_epochs: 2 .* chooses for 0 steps .* fewer warmup_epochs"):
        selector.setup(replace(make_context(), epochs=1.5, steps_per_epoch=100))
    selector.setup(replace(make_context(), epochs=2.5, steps_per_epoch=100))


@pytest.mark.parametrize(
    ("kind", "options", "epochs", "steps", "refused"),
    [
        (ReinforcedTeachers, {"update_every": "epoch"}, 2, 100, "chooses for 1 epochs"),
        (ReinforcedTeachers, {"update_every": "epoch"}, 3, 100, None),
        (ReinforcedTeachers, {"update_every": "epoch", "warmup_epochs": 0}, 1, 100, "chooses for 1 epochs"),
        (ReinforcedTeachers, {"update_every": 1000}, 2, 1000, "chooses for 1000 steps"),
        (ReinforcedTeachers, {"update_every": 1000}, 2, 1001, None),
        (ReinforcedTeachers, {}, 2, 1, "chooses for 1 steps"),
        (ReinforcedTeachers, {}, 2, 2, None),
        (VirtualReinforcedTeachers, {}, 1, 1, None),  # it has learned before the student starts
        (VirtualReinforcedTeachers, {"policy_rows": 0}, 1, 100, "chooses for 1 epochs"),
        (VirtualReinforcedTeachers, {"encoder": "student"}, 1, 100, "chooses for 1 epochs"),
        (VirtualReinforcedTeachers, {"policy_rows": 0, "update_every": 5}, 1, 100, None),
    ],
)
def test_a_run_that_is_over_before_the_policy_acts_on_what_it_learned_is_refused(kind, options, epochs, steps, refused):
    context = replace(make_context(), epochs=epochs, steps_per_epoch=steps)
    selector = kind(**({"encoder": None} | options))
    if refused is None:
        selector.setup(context)
    else:
        with pytest.raises(
            ValueError, match=f"{refused} and would never act on what it learned: set more train.epochs"
        ):
            selector.setup(context)


@pytest.mark.parametrize("every", ["epoch", 1000])
@pytest.mark.parametrize("kind", [ReinforcedTeachers, VirtualReinforcedTeachers])
def test_rewards_that_wait_at_the_end_of_training_are_learned_from(kind, every):
    view = make_view(30)
    selector = selector_for(view, kind=kind, update_every=every)
    probe = FakeProbe(view, randn(30, 4, seed=5))
    selector.decide(part(view, torch.arange(20)))
    selector.learn(probe)
    assert not selector.updates
    probe.progress = 1.0
    selector.decide(part(view, torch.arange(20, 30)))
    selector.learn(probe)
    assert selector.updates and not len(selector.history) and parameters(selector).any()


def test_a_last_step_without_labels_does_not_drop_what_waits():
    view = make_view(30, unlabelled=tuple(range(20, 30)))
    selector = selector_for(view, update_every="epoch")
    probe = FakeProbe(view, randn(30, 4, seed=5))
    for rows, probe.progress in ((torch.arange(20), 0.5), (torch.arange(20, 30), 1.0)):
        selector.decide(part(view, rows))
        selector.learn(probe)
    assert selector.updates and not len(selector.history)


def test_with_two_epochs_the_preset_acts_on_rewards_of_the_students_own_steps():
    """One epoch of warm-up, one in which the policy chooses: with updates per epoch it never learned from a reward in time."""
    view, _ = planted(320, seed=0)
    assert get_preset("rlkd-published").teachers == "reinforced"
    selector = ReinforcedTeachers()
    selector.setup(replace(context_of(view), epochs=2, steps_per_epoch=40))
    probe, acted_after = FakeProbe(view, randn(320, 4, seed=5)), []
    for epoch in range(2):
        selector.begin_epoch(probe, epoch)
        for rows in torch.arange(320).split(8):
            selector.decide(replace(part(view, rows), epoch=epoch))
            acted_after.append(selector.updates)
            selector.learn(probe)
    assert acted_after[40] == 0 and acted_after[-1] >= 30
