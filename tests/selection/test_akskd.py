"""AKSKD's selector: its arithmetic, that it learns what can be learned, and that phases, rewards and the artefact are what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.selection import Look, actor_critic, akskd, artefact
from distilect.selection.actor_critic import (
    ActorCritic,
    SelectionModule,
    Transitions,
    comparable,
    harden,
    learned_rewards,
)
from distilect.selection.akskd import ActorCriticWeights, hard_novelty, observation, soft_novelty, validation_loss
from tests.presets import slow
from tests.selection.views import keys, make_context, make_view

KINDS = ("labels", "response", "feature", "relation")
PRESET = {name: getattr(actor_critic, name) for name in ("HIDDEN", "WIDTH", "UPDATES")}  # before any test changes them


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    constants(monkeypatch, HIDDEN=16, WIDTH=8, UPDATES=1)


def constants(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Other values for this test."""
    for name, value in values.items():
        monkeypatch.setattr(akskd if hasattr(akskd, name) else actor_critic, name, value)


def transitions(before: Tensor, actions: Tensor, rewards: Tensor, **more: Tensor) -> Transitions:
    """One-step decisions: nothing follows."""
    count = len(rewards)
    whole: dict[str, Tensor] = {
        "bonus": torch.zeros(count),
        "after": torch.zeros_like(before),
        "last": torch.ones(count, dtype=torch.bool),
        "phases": torch.zeros(count, dtype=torch.int64),
    }
    return Transitions(before=before, actions=actions, rewards=rewards, **(whole | more))


# ---- the synthetic environment: reward -‖a - a*(s)‖² ----------------------------------------------------------------


class Environment:
    """a*(s) is a fixed function of a random state of 16 numbers; hard: the subset that it rounds to."""

    def __init__(self, seed: int, hard: bool) -> None:
        self.draws = torch.Generator().manual_seed(seed)
        self.map, self.hard = torch.randn(16, 4, generator=self.draws), hard

    def best(self, states: Tensor) -> Tensor:
        soft = 0.5 + 0.4 * torch.tanh(states @ self.map / 2)
        return (soft > 0.5).float() if self.hard else soft

    def sample(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        states, actions = (torch.randn(count, 16, generator=self.draws), torch.rand(count, 4, generator=self.draws))
        actions = harden(actions) if self.hard else actions
        return states, actions, -((actions - self.best(states)) ** 2).sum(1)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    constants(monkeypatch, HIDDEN=64, WIDTH=16, CRITIC_RATE=5e-3, ACTOR_RATE=3e-3, RESTRAINT=0.0)


def learn_environment(seed: int, hard: bool = False, shuffled: bool = False) -> tuple[float, float, float]:
    """400 updates; then on new states: R² of the critic, mean squared distance of the actor from a*, the same of a constant ½."""
    environment = Environment(seed, hard)
    torch.manual_seed(seed)
    module = SelectionModule({"student": 8, "teacher": 8}, 4)
    learner = ActorCritic(module, hard=hard)
    states, actions, rewards = environment.sample(2048)
    if shuffled:
        rewards = rewards[torch.randperm(len(rewards), generator=environment.draws)]
    memory = transitions(states, actions, rewards)
    for _ in range(400):
        index = torch.randint(len(memory), (64,), generator=environment.draws)
        learner.update(memory.take(index), rewards[index])
    states, actions, rewards = environment.sample(512)
    with torch.no_grad():
        values = module.value(module.state(states), actions)
    chosen, best = learner.soft(states), environment.best(states)
    chosen = harden(chosen) if hard else chosen
    fit = 1 - float(((values - rewards) ** 2).mean() / rewards.var())
    return fit, float(((chosen - best) ** 2).mean()), float(((0.5 - best) ** 2).mean())


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("seed", [0, *slow(1, 2, 3, 4)])
def test_the_critic_fits_and_the_actor_reaches_the_best_action_of_every_state(seed: int) -> None:
    fit, distance, constant = learn_environment(seed)
    assert fit > 0.6 and distance < constant / 4


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("seed", [0, *slow(1)])
def test_with_shuffled_rewards_it_reaches_nothing(seed: int) -> None:
    fit, distance, constant = learn_environment(seed, shuffled=True)
    assert fit < 0.1 and distance > constant


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("seed", range(5))
def test_hard_actions_reach_the_best_subset_and_not_with_shuffled_rewards(seed: int) -> None:
    fit, distance, _ = learn_environment(seed, hard=True)
    assert fit > 0.5 and distance < 0.2  # of 0 and 1: the share of kinds that are wrong
    fit, distance, _ = learn_environment(seed, hard=True, shuffled=True)
    assert fit < 0.1 and distance > 0.35


# ---- action, targets, rewards ---------------------------------------------------------------------------------------


def test_a_hard_action_is_what_exceeds_the_threshold_and_never_empty() -> None:
    soft = torch.tensor([[0.6, 0.4, 0.51, 0.5], [0.1, 0.3, 0.2, 0.0]])
    assert harden(soft).tolist() == [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]


def test_the_actor_starts_undecided_and_stays_within_zero_and_one() -> None:
    module = SelectionModule({"student": 8}, 4)
    actions = module.act(module.state(100 * torch.randn(50, 8)))
    assert (actions >= 0).all() and (actions <= 1).all()
    assert (module.act(module.state(torch.randn(50, 8))) - 0.5).abs().max() < 0.1


def test_the_gradient_passes_the_threshold_as_if_it_were_not_there() -> None:
    learner = ActorCritic(SelectionModule({"progress": 1}, 2), hard=True)
    soft = torch.tensor([[0.7, 0.2]], requires_grad=True)
    through = learner.executed(soft)
    assert through.tolist() == [[1.0, 0.0]]
    (through * torch.tensor([3.0, 5.0])).sum().backward()
    assert soft.grad is not None and soft.grad.tolist() == [[3.0, 5.0]]


def test_a_td_target_is_the_reward_and_the_discounted_value_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    constants(monkeypatch, GAMMA=0.5)
    learner = ActorCritic(SelectionModule({"progress": 1}, 2))
    learner.copy.value = lambda state, actions: torch.full((len(state),), 7.0)  # type: ignore[method-assign]
    batch = transitions(torch.zeros(2, 1), torch.zeros(2, 2), torch.full((2,), 2.0), last=torch.tensor([False, True]))
    assert learner.targets(batch, batch.rewards).tolist() == pytest.approx([2 + 0.5 * 7, 2.0])


def test_the_target_critic_follows_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    constants(monkeypatch, TAU=0.25)
    learner = ActorCritic(SelectionModule({"progress": 1}, 2))
    with torch.no_grad():
        for slow, fast in zip(learner.slow, learner.fast, strict=True):
            slow.zero_(), fast.fill_(1.0)
    for optimizer in (learner.critic_optimizer, learner.actor_optimizer):
        optimizer.param_groups[0]["lr"] = 0.0
    learner.update(transitions(torch.zeros(1, 1), torch.zeros(1, 2), torch.zeros(1)), torch.zeros(1))
    assert all((slow == 0.25).all() for slow in learner.slow)


def test_the_actors_step_leaves_critic_and_state_networks_alone_and_the_reverse() -> None:
    torch.manual_seed(0)
    learner = ActorCritic(SelectionModule({"student": 4}, 2))
    batch = transitions(torch.randn(8, 4), torch.rand(8, 2), torch.randn(8))
    for frozen, moved in (("critic_optimizer", "actor"), ("actor_optimizer", "critic")):
        learner.critic_optimizer.param_groups[0]["lr"] = learner.actor_optimizer.param_groups[0]["lr"] = 1e-2
        getattr(learner, frozen).param_groups[0]["lr"] = 0.0
        before = {name: p.detach().clone() for name, p in learner.module.named_parameters()}
        learner.update(batch, batch.rewards)
        changed = {n.split(".")[0] for n, p in learner.module.named_parameters() if not torch.equal(before[n], p)}
        assert changed == ({"actor"} if moved == "actor" else {"critic", "features"})


def test_exploration_rewards_turns_of_soft_actions_and_rare_hard_ones() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert soft_novelty(one, other) == pytest.approx(1.0)
    assert soft_novelty(one, 0.5 * one) == pytest.approx(0.0, abs=1e-6)
    assert soft_novelty(one, None) == 0.0
    assert hard_novelty(one, []) == 1.0
    assert hard_novelty(one, [one.expand(2, 2), other.expand(9, 2), one[None]]) == 0.5


def test_a_phases_mean_over_episodes_is_its_rewards_baseline() -> None:
    """The first phase gains most, whatever it copies."""
    rewards, phases = torch.tensor([10.0, 1.0, 12.0, 3.0]), torch.tensor([0, 1, 0, 1])
    memory = transitions(torch.zeros(4, 1), torch.zeros(4, 2), rewards, phases=phases)
    assert learned_rewards(memory).tolist() == [-1.0, -1.0, 1.0, 1.0]
    uneven = replace(memory, rewards=torch.tensor([10.0, 1.0, 12.0, 9.0]))
    assert learned_rewards(uneven).std(unbiased=False).item() == pytest.approx(1.0)
    alone = replace(memory, rewards=torch.tensor([5.0, 5.0, 5.0, 5.0]))
    assert learned_rewards(alone).tolist() == [0.0] * 4


def test_a_phase_that_one_episode_alone_has_been_through_teaches_nothing() -> None:
    """Less the mean of its phase its reward is 0, whatever its action was worth."""
    phases = torch.tensor([0, 1, 2, 0, 1])
    memory = transitions(torch.zeros(5, 1), torch.rand(5, 2), torch.arange(5.0), phases=phases)
    assert comparable(memory).rewards.tolist() == [0.0, 1.0, 3.0, 4.0]
    assert ActorCritic(SelectionModule({"progress": 1}, 2)).replay(memory.take(torch.arange(3)), seed=0) is None


def test_the_actor_does_not_move_before_two_random_episodes_are_over() -> None:
    """In the first one it would follow the critic's random start to the corners, and never come back."""
    selector = made(phases=4, episodes=5)
    start = {name: value.clone() for name, value in selector.learner.module.state_dict().items()}
    moved, within = [], []

    def parts_that_moved() -> set[str]:
        now = selector.learner.module.state_dict()
        return {name.split(".")[0] for name, value in now.items() if not torch.equal(value, start[name])}

    def gain(action: Tensor) -> float:
        within[-1].add("actor" in parts_that_moved())
        return 0.1 * float(action[0])

    for episode in range(3):
        selector.begin_episode(episode)
        within.append(set())
        Pretended(selector, 8, gain).train()
        moved.append(parts_that_moved())
    # not within the second one either, where the critic learns already
    assert within == [{False}, {False}, {True}]
    assert moved == [set(), {"features", "critic", "actor"}, {"features", "critic", "actor"}]
    assert [line["critic_loss"] is None for line in selector.journal] == [False] * 4
    assert selector.memory.join().actions[:8].std() > 0.2  # uniform on [0, 1]: .29


def test_an_observation_holds_the_parts_that_were_asked_for_in_a_fixed_order() -> None:
    look = Look(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 8.0]), torch.tensor([1.0, math.e, torch.nan]))
    everything = observation(look, 0.25, ("student", "teacher", "progress", "losses"))
    assert len(everything) == 2 + 3 + 1 + 3 and everything[-4:].tolist() == pytest.approx([0.25, 0.0, 1.0, 0.0])
    assert everything[:2].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4) and everything[2:5].mean().abs() < 1e-6
    assert observation(look, 0.25, ("progress",)).tolist() == [0.25]


# ---- phases, over a pretended training ------------------------------------------------------------------------------


class Pretended:
    """A probe of a training whose validation loss falls in each step by what `gain` says of the action."""

    def __init__(self, selector: ActorCriticWeights, steps: int, gain: Any) -> None:
        self.selector, self.steps, self.gain = selector, steps, gain
        self.keys, self.done, self.loss = keys(100), 0, 2.0
        self.step_losses: tuple[Tensor, Tensor] | None = None
        self.looks: list[Tensor] = []
        self.measured: list[float] = []

    @property
    def progress(self) -> float:
        return self.done / self.steps

    def look(self, keys: Tensor) -> Look:
        self.looks.append(keys)
        state = torch.tensor([1.0, 0.0, self.progress, 2.0, 0.0, 1.0])
        return Look(state, torch.arange(15.0), torch.tensor([1.0, 0.5, 0.25, 2.0]))

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits of one row whose cross-entropy is the loss."""
        self.measured.append(self.loss)
        return torch.tensor([[0.0, math.log(math.expm1(self.loss))]], dtype=torch.float64), torch.tensor([0])

    def train(self) -> list[Tensor]:
        """The actions of all steps."""
        self.selector.begin_epoch(self, 0)  # type: ignore[arg-type]
        actions = []
        for _ in range(self.steps):
            assert self.selector.action is not None
            actions.append(self.selector.action)
            self.loss -= self.gain(self.selector.action)
            self.done += 1
            self.selector.learn(self)  # type: ignore[arg-type]
        return actions


def made(**options: Any) -> ActorCriticWeights:
    selector = ActorCriticWeights(**options)
    selector.setup(make_context(kinds=KINDS))
    return selector


def changes(actions: list[Tensor]) -> list[int]:
    return [i for i in range(1, len(actions)) if not torch.equal(actions[i], actions[i - 1])]


@pytest.mark.parametrize(
    ("phases", "steps", "starts"),
    [(3, 9, [3, 6]), (2, 5, [3]), (1, 7, []), (10, 4, [1, 2, 3]), ("step", 4, [1, 2, 3]), (7, 7, [1, 2, 3, 4, 5, 6])],
)
def test_training_is_cut_into_phases_of_equal_length_each_with_one_action(
    phases: Any, steps: int, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    constants(monkeypatch, RANDOM=1.0)
    selector = made(phases=phases)
    selector.begin_episode(0)
    assert changes(Pretended(selector, steps, lambda action: 0.1).train()) == starts
    assert len(selector.memory) == len(starts) + 1


def test_a_phases_reward_is_the_fall_of_the_validation_loss_and_the_last_one_is_followed_by_nothing() -> None:
    selector = made(phases=3, exploration=0.0)
    selector.begin_episode(0)
    gains = iter([0.1, 0.1, 0.3, 0.0, -0.2, 0.05])
    probe = Pretended(selector, 6, lambda action: next(gains))
    probe.train()
    memory = selector.memory.join()
    assert memory.rewards.tolist() == pytest.approx([0.2, 0.3, -0.15], abs=1e-5)
    assert memory.last.tolist() == [False, False, True] and memory.phases.tolist() == [0, 1, 2]
    assert torch.equal(memory.after[:2], memory.before[1:]) and not memory.after[2].any()
    assert len(probe.measured) == 4  # once before, once after each phase
    assert [line["reward"] for line in selector.journal] == pytest.approx(memory.rewards.tolist(), abs=1e-5)


@pytest.mark.parametrize("regression", [False, True])
def test_the_validation_loss_is_that_of_labelled_rows(regression: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 1 if regression else 3), torch.randint(3, (20,))
    if regression:
        labels = labels.float()
    expected = F.mse_loss(logits[5:, 0], labels[5:]) if regression else F.cross_entropy(logits[5:], labels[5:])
    labels[:5] = torch.nan if regression else -100

    class Held:
        def validation(self, limit: int) -> tuple[Tensor, Tensor]:
            return logits[:limit], labels[:limit]

    assert validation_loss(Held(), 20) == pytest.approx(float(expected))  # type: ignore[arg-type]


def test_the_exploration_reward_is_beside_the_measured_one_falls_to_zero_and_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants(monkeypatch, RANDOM=1.0)
    off, on = (made(phases=4, exploration=0.0, episodes=2), made(phases=4, exploration=0.5, episodes=2))
    for selector in (off, on):
        for episode in range(2):
            selector.begin_episode(episode)
            Pretended(selector, 8, lambda action: 0.1).train()
    assert not off.memory.join().bonus.any()
    bonus = on.memory.join().bonus
    assert (bonus[1:4] > 0).all() and bonus[0] == bonus[4] == 0.0  # a first phase has no other before it
    assert bonus[5:].max() < 0.25 + 1e-6 and off.memory.join().rewards.allclose(on.memory.join().rewards)


def test_rare_subsets_are_counted_over_the_whole_learning() -> None:
    selector = made(action="hard", phases=3, exploration=0.5, episodes=2)
    for episode in range(2):
        selector.begin_episode(episode)
        Pretended(selector, 3, lambda action: 0.1).train()
    memory = selector.memory.join()
    taken = [tuple(action) for action in memory.actions.tolist()]
    expected = [0.5 * (1 - n / 6) / math.sqrt(taken[: n + 1].count(taken[n])) for n in range(6)]
    assert memory.bonus.tolist() == pytest.approx(expected)


@pytest.mark.slow
def test_over_episodes_the_actor_finds_what_lowers_the_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and relation help, the others harm: with real phases, rewards, replay and noise."""
    worth = torch.tensor([1.0, -1.0, -1.0, 1.0])
    constants(monkeypatch, HIDDEN=32, UPDATES=30, ACTOR_RATE=3e-3, CRITIC_RATE=3e-3)
    selector = made(phases=5, episodes=12)
    for episode in range(12):
        selector.begin_episode(episode)
        Pretended(selector, 10, lambda action: 0.05 * float(action @ worth) / 2).train()
    selector.freeze()
    for action in Pretended(selector, 10, lambda action: 0.0).train():
        assert action[0] > 0.7 and action[3] > 0.7 and action[1] < 0.3 and action[2] < 0.3


def test_the_noise_on_actions_falls_to_a_fifth_over_the_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = made(episodes=100)
    spreads = []
    for episode in (0, 20, 95):
        selector.begin_episode(episode)
        actions = []
        for selector.decisions in range(300):
            actions.append(selector._choose(torch.zeros(sum(selector.widths.values())), 0.0))
        spreads.append(float(torch.stack(actions).std()))
    assert spreads[0] == pytest.approx(1 / 12**0.5, rel=0.1)  # at random first
    assert spreads[1] == pytest.approx(akskd.NOISE * 0.84, rel=0.12)  # a little is cut at 0 and 1
    assert spreads[2] == pytest.approx(akskd.NOISE * 0.24, rel=0.12)


def interior(seed: int) -> tuple[float, float]:
    """Mean squared distance from the best action, of the frozen actor and of one half for every kind, in a pretended training with
    the preset's settings: an optimum inside the bounds that moves with the progress, noise, and states that say little."""
    draws = torch.Generator().manual_seed(seed)
    sides, turn = torch.tensor([0.2, 0.8, 0.2, 0.8]), 0.2 * (torch.rand(4, generator=draws) - 0.5)
    best = sides[torch.randperm(4, generator=draws)] + 0.1 * (torch.rand(4, generator=draws) - 0.5)
    base, drift = torch.randn(100, generator=draws), torch.randn(100, generator=draws)
    selector = ActorCriticWeights()
    context = make_context(kinds=KINDS, teachers=1, seed=seed)
    selector.setup(replace(context, student_width=50, teacher_widths=(50,), teachers=("t",)))

    class World(Pretended):
        def gain_of(self, action: Tensor) -> float:
            off = float(((action - best - turn * self.progress) ** 2).sum())
            return 0.3 * (1 - 0.7 * self.progress) - 0.1 * off + 0.01 * float(torch.randn((), generator=draws))

        def look(self, keys: Tensor) -> Look:
            seen = base + drift * self.progress + 0.3 * torch.randn(100, generator=draws)
            return Look(seen[:50], seen[50:], torch.ones(4))

    def trained() -> list[Tensor]:
        world = World(selector, 10, None)
        world.loss, world.gain = 8.0, world.gain_of
        return world.train()

    for episode in range(selector.options.episodes):
        selector.begin_episode(episode)
        trained()
    selector.freeze()
    aims = [best + turn * step / 10 for step in range(10)]
    found = [float(((a - aim) ** 2).mean()) for a, aim in zip(trained(), aims, strict=True)]
    half = [float(((0.5 - aim) ** 2).mean()) for aim in aims]
    return sum(found) / 10, sum(half) / 10


@pytest.mark.slow
def test_with_the_presets_settings_the_actor_is_nearer_to_an_interior_optimum_than_one_half_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sat at 0 and 1, at twice the distance of one half, whatever the optimum was: a corner optimum cannot show that."""
    constants(monkeypatch, **PRESET)
    actor, half = interior(0)
    assert actor < 0.8 * half


def test_frozen_it_decides_without_noise_measures_nothing_and_learns_nothing() -> None:
    selector = made(phases=3)
    selector.begin_episode(0)
    Pretended(selector, 6, lambda action: 0.1).train()
    selector.freeze()
    before = {name: value.clone() for name, value in selector.learner.module.state_dict().items()}
    runs = []
    for _ in range(2):
        probe = Pretended(selector, 6, lambda action: 0.1)
        runs.append(probe.train())
        assert not probe.measured and len(probe.looks) == 3
        selector.freeze()
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))
    assert all(torch.equal(before[name], value) for name, value in selector.learner.module.state_dict().items())
    assert selector.episodes is None and not selector.memory


def test_each_phase_looks_at_other_rows_drawn_by_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    constants(monkeypatch, STATE_ROWS=10)
    selector = made(phases=3)
    selector.begin_episode(0)
    probe = Pretended(selector, 6, lambda action: 0.1)
    probe.train()
    assert all(len(rows) == 10 for rows in probe.looks) and not torch.equal(probe.looks[0], probe.looks[1])
    again = made(phases=3)
    again.begin_episode(0)
    other = Pretended(again, 6, lambda action: 0.1)
    other.keys = other.keys.flip(0)
    other.train()
    assert all(torch.equal(a, b) for a, b in zip(probe.looks, other.looks, strict=True))


# ---- weights, order of kinds, saving ----------------------------------------------------------------------------------


def test_weights_are_the_action_times_factors_of_size() -> None:
    selector = made()
    assert selector.decide(make_view()).tolist() == [1.0, 1.0, 1.0, 1.0]  # before the first phase
    selector.action = torch.tensor([1.0, 0.5, 0.0, 1.0])
    selector.balance.start(torch.tensor([1.0, 0.5, 0.25, 2.0]))
    assert selector.decide(make_view()).tolist() == [1.0, 1.0, 0.0, 0.5]


def learned(folder: Path, **options: Any) -> ActorCriticWeights:
    selector = made(phases=3, **options)
    selector.begin_episode(0)
    Pretended(selector, 6, lambda action: 0.1 * float(action[0])).train()
    selector.save(folder / "selector", {"task": "toy"})
    return selector


def test_a_selection_module_comes_back_from_its_folder_or_its_runs_folder(tmp_path: Path) -> None:
    selector = learned(tmp_path, action="hard", state=["student", "progress"])
    assert {p.name for p in (tmp_path / "selector").iterdir()} == {"selector.safetensors", "selector.json"}
    selector.freeze()
    expected = Pretended(selector, 6, lambda action: 0.0).train()
    for path in (tmp_path, tmp_path / "selector"):
        found = ActorCriticWeights(selector=str(path))
        found.setup(make_context(kinds=KINDS, seed=5))
        assert not found.learning and found.episodes is None and found.hard and found.options.phases == 3
        assert found.parts == ("student", "progress") and not found.needs.teacher_cls
        assert torch.equal(found.learner.soft(torch.ones(1, 7)), selector.learner.soft(torch.ones(1, 7)))
        found.seed = selector.seed
        actual = Pretended(found, 6, lambda action: 0.0).train()
        assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    about = json.loads((tmp_path / "selector" / "selector.json").read_text())["about"]
    assert about == {"task": "toy"}


def test_kinds_in_another_order_get_the_same_weights_by_name(tmp_path: Path) -> None:
    learned(tmp_path, state=["student", "losses"])
    mixed = ("feature", "labels", "relation", "response")
    found = []
    for kinds in (KINDS, mixed):
        selector = ActorCriticWeights(selector=str(tmp_path), balance="none")
        selector.setup(make_context(kinds=kinds))
        probe = Pretended(selector, 3, lambda action: 0.0)
        losses = dict(zip(KINDS, (1.0, 0.5, 0.25, 2.0), strict=True))
        look = probe.look

        def ordered(keys: Tensor, look: Any = look, kinds: Any = kinds, losses: Any = losses) -> Look:
            return replace(look(keys), losses=torch.tensor([losses[kind] for kind in kinds]))

        probe.look = ordered  # type: ignore[method-assign]
        selector.begin_epoch(probe, 0)  # type: ignore[arg-type]
        found.append(dict(zip(kinds, selector.decide(make_view()).tolist(), strict=True)))
    assert found[0] == found[1]


@pytest.mark.parametrize("hurt", ["weights", "json", "missing", "other"])
def test_a_damaged_or_missing_artefact_is_refused_in_a_line(tmp_path: Path, hurt: str) -> None:
    learned(tmp_path)
    weights, text = tmp_path / "selector" / artefact.WEIGHTS, tmp_path / "selector" / artefact.DESCRIPTION
    if hurt == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif hurt == "json":
        text.write_text(text.read_text()[:40])
    elif hurt == "missing":
        weights.unlink()
    else:
        text.unlink()
    with pytest.raises(ValueError, match=r"damaged|missing|holds no selector\.json") as caught:
        selector = ActorCriticWeights(selector=str(tmp_path))
        selector.setup(make_context(kinds=KINDS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["phases", "action", "state", "kinds", "widths", "about"])
def test_a_description_that_was_changed_is_refused(tmp_path: Path, key: str) -> None:
    """It is still JSON, and its weights are whole: only its own checksum tells."""
    learned(tmp_path)
    text = tmp_path / "selector" / artefact.DESCRIPTION
    content = json.loads(text.read_text())
    other = {"phases": 5, "action": "hard", "state": ["student"], "kinds": list(reversed(KINDS)), "about": {}}
    content[key] = {**content["widths"], "student": 7} if key == "widths" else other[key]
    text.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"selector\.json is damaged \(its content does not match its checksum\)"):
        artefact.described(tmp_path)


def test_an_artefact_for_other_kinds_widths_or_options_is_refused(tmp_path: Path) -> None:
    learned(tmp_path)
    with pytest.raises(
        ValueError, match="weighs labels, response, feature, relation, but the method copies labels, response"
    ):
        ActorCriticWeights(selector=str(tmp_path)).setup(make_context(kinds=("labels", "response")))
    with pytest.raises(ValueError, match="6 numbers per token of the student, here there are 9"):
        ActorCriticWeights(selector=str(tmp_path)).setup(replace(make_context(kinds=KINDS), student_width=9))
    with pytest.raises(ValueError, match="action is 'hard', but .* was learned with 'soft': leave action out"):
        ActorCriticWeights(selector=str(tmp_path), action="hard").setup(make_context(kinds=KINDS))
    ActorCriticWeights(selector=str(tmp_path), action="soft", state=["student", "teacher"]).setup(
        make_context(kinds=KINDS)
    )


def test_a_saved_selector_goes_on_as_if_nothing_had_happened() -> None:
    """PITFALLS 33: within a phase, with optimisers, memory, sizes and the reward that is still to come."""
    runs = []
    for stopped in (False, True):
        selector = made(phases=4, action="hard", exploration=0.3)
        probe = Pretended(selector, 8, lambda action: 0.1 * float(action[0]))
        selector.begin_epoch(probe, 0)  # type: ignore[arg-type]
        for step in range(8):
            if stopped and step == 5:
                state = selector.state_dict()
                selector = made(phases=4, action="hard", exploration=0.3)
                selector.load_state_dict(state)
                selector.begin_epoch(probe, 0)  # type: ignore[arg-type]
            assert selector.action is not None
            probe.loss -= probe.gain(selector.action)
            probe.done += 1
            losses = torch.rand(4, generator=torch.Generator().manual_seed(step)).double()
            probe.step_losses = losses, torch.ones(4)
            selector.learn(probe)  # type: ignore[arg-type]
        runs.append(selector)
    one, two = (run.state_dict() for run in runs)
    assert torch.equal(runs[0].learner.soft(torch.ones(1, 21)), runs[1].learner.soft(torch.ones(1, 21)))
    rows = one["memory"]["rows"]
    assert len(rows["rewards"]) == 4 and rows["rewards"].any()
    assert all(torch.equal(rows[name], value) for name, value in two["memory"]["rows"].items())
    assert one["numbers"] == two["numbers"] and torch.equal(one["balance"]["means"], two["balance"]["means"])


def test_a_loaded_learner_has_the_target_critic_that_was_saved() -> None:
    """A fresh one is another critic's start: the next targets, and with them the actor, would differ."""
    torch.manual_seed(0)
    learner = ActorCritic(SelectionModule({"student": 4}, 2))
    memory = transitions(torch.randn(8, 4), torch.rand(8, 2), torch.randn(8), last=torch.zeros(8, dtype=torch.bool))
    for _ in range(3):
        learner.update(memory, memory.rewards)
    again = ActorCritic(SelectionModule({"student": 4}, 2))
    again.load_state_dict(learner.state_dict())
    assert torch.equal(learner.targets(memory, memory.rewards), again.targets(memory, memory.rewards))
    assert all(torch.equal(a, b) for a, b in zip(learner.slow, again.slow, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(again.slow, again.fast, strict=True))


# ---- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "sof"}, r"action is 'sof', expected one of soft, hard\. Did you mean 'soft'"),
        ({"state": "student"}, "state is 'student', expected a list"),
        ({"state": []}, r"state is \[\], expected a list"),
        ({"state": ["students"]}, "Did you mean 'student'"),
        ({"phases": 0}, "phases is 0, expected a whole number from 1 or 'step'"),
        ({"episodes": 1}, "episodes is 1, expected a whole number from 2"),
        ({"share": 0}, r"share is 0, expected a number in \(0, 1\]"),
        ({"exploration": -1}, "exploration is -1, expected 0 or more"),
        ({"episode": 3}, "unknown option 'episode'.*Did you mean 'episodes'"),
        ({"selector": "/nowhere"}, r"selector: /nowhere holds no selector\.json"),
        ({"balance": "label"}, "Did you mean 'labels'"),
    ],
)
def test_bad_options_say_what_is_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActorCriticWeights(**options)


def test_what_it_cannot_work_with_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="weighs kinds of knowledge, but the method copies labels only"):
        ActorCriticWeights().setup(make_context(kinds=("labels",)))
    with pytest.raises(ValueError, match=r"set data\.validation_size"):
        ActorCriticWeights().setup(make_context(kinds=KINDS, rows=0))
    with pytest.raises(ValueError, match=r"gives outputs only: set state: \[student, progress, losses\]"):
        ActorCriticWeights().setup(replace(make_context(kinds=KINDS), teacher_widths=(5, 0, 5)))


def test_health_names_actions_sizes_and_what_was_learned() -> None:
    selector = made(phases=2)
    for episode in range(2):
        selector.begin_episode(episode)
        Pretended(selector, 4, lambda action: 0.1).train()
    health = selector.health()
    wanted = {"critic/loss", "critic/q", "reward/mean", "reward/exploration"}
    assert wanted | {f"actor/a_{k}" for k in KINDS} | {f"balance/{k}" for k in KINDS} == set(health)
    assert health["reward/mean"] == pytest.approx(0.2, abs=1e-5)
    assert "reward/mean" not in selector.health()  # reading it resets it
