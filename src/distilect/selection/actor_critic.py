"""The actor-critic of AKSKD: what chooses an action, what values it, and how both learn from transitions.

Wang et al., Findings of EMNLP 2022, arXiv 2302.00444; `akskd.py` uses it. [R] marks our reconstruction; "ours" is not in the paper.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilect.selection.buffers import Observations

HIDDEN, WIDTH = 128, 64  # of the networks [R]
THRESHOLD = 0.5  # λ of hard actions [R]
GAMMA = 0.9  # discount [R]
TAU = 0.01  # step of the target critic towards the critic [R]
CRITIC_RATE, ACTOR_RATE = 1e-3, 1e-4  # learning rates [R]
UPDATES, BATCH_SIZE = 20, 32  # of critic and actor after each phase, and transitions in each; ours
RESTRAINT = 0.05  # weight of the squared inputs of the actor's sigmoid in its loss; ours, after Andrychowicz et al., 2017 (action L2)

# ---- action, actor and critic --------------------------------------------------------------------------------------


def mlp(*sizes: int) -> nn.Sequential:
    """Linear maps with ReLU between them: `len(sizes) - 1` layers."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SelectionModule(nn.Module):
    """The Knowledge Selection Module: N_fea of student and teacher, the actor μ and the critic Q.

    Args:
        widths: part of the state → how many numbers it has, in the order of an observation.
        kinds: M.

    [CLS] vectors go through an MLP of two layers each, other parts of the state as they are. Actor and critic have three layers. The
    actor's last layer starts near 0: every kind starts at about one half.
    """

    def __init__(self, widths: Mapping[str, int], kinds: int) -> None:
        super().__init__()
        self.widths = dict(widths)
        vectors = [part for part in self.widths if part in ("student", "teacher")]
        self.features = nn.ModuleDict({part: mlp(self.widths[part], HIDDEN, WIDTH) for part in vectors})
        size = sum(WIDTH if part in self.features else count for part, count in self.widths.items())
        self.actor = mlp(size, HIDDEN, HIDDEN, kinds)
        self.critic = mlp(size + kinds, HIDDEN, HIDDEN, 1)
        with torch.no_grad():
            last = self.actor[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            last.bias.zero_()

    def state(self, observations: Tensor) -> Tensor:
        """[n, D] → s, [n, S]."""
        parts = observations.split(list(self.widths.values()), dim=-1)
        named = zip(self.widths, parts, strict=True)
        return torch.cat([self.features[n](p) if n in self.features else p for n, p in named], dim=-1)

    def act(self, state: Tensor) -> Tensor:
        """μ(s): [n, S] → [n, M] in (0, 1)."""
        return torch.sigmoid(self.actor(state))

    def value(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a): [n]."""
        found: Tensor = self.critic(torch.cat([state, actions], dim=-1)).squeeze(-1)
        return found


def harden(soft: Tensor) -> Tensor:
    """1 where the actor's output exceeds λ, else 0; [..., M].

    Where nothing does, the largest one is on: a phase without any loss would waste its steps [R].
    """
    chosen = soft > THRESHOLD
    largest = F.one_hot(soft.argmax(-1), soft.shape[-1]).bool()
    return torch.where(chosen.any(-1, keepdim=True), chosen, largest).to(soft)


# ---- update --------------------------------------------------------------------------------------------------------


@dataclass
class Transitions(Observations):
    """Decisions and what became of them; a row per phase.

    Attributes:
        before, after: observations, float32 [n, D]; `after` is 0 where nothing followed.
        actions: float32 [n, M].
        rewards: float32 [n], as they were measured.
        bonus: float32 [n], for exploration.
        last: bool [n], no phase followed.
        phases: int64 [n].
    """

    before: Tensor
    actions: Tensor
    rewards: Tensor
    bonus: Tensor
    after: Tensor
    last: Tensor
    phases: Tensor


def comparable(memory: Transitions) -> Transitions:
    """The transitions of phases that more than one episode has been through: a single reward of a phase says nothing of its action."""
    phases, counts = memory.phases.unique(return_counts=True)
    return memory.take(torch.isin(memory.phases, phases[counts > 1]))


def learned_rewards(memory: Transitions) -> Tensor:
    """float32 [n]: the measured rewards less the mean of their phase over the episodes, divided by their standard deviation. Ours.

    The first phase always gains most, whatever is copied in it.
    """
    rewards = memory.rewards.double()
    for phase in memory.phases.unique():
        same = memory.phases == phase
        rewards = torch.where(same, rewards - rewards[same].mean(), rewards)
    return (rewards / rewards.std(unbiased=False).clamp_min(1e-8)).float()


class ActorCritic:
    """Deterministic policy gradient: critic by TD learning against a slowly following copy, actor by the critic's gradient.

    θ ← θ + η · ∂/∂θ mean Q(s, μ(s)); φ by the squared error to r + γ · Q'(s', μ(s')). The networks of the state learn with the
    critic [R]. Optimisers: Adam [R]. The actor's loss also holds the squared inputs of its sigmoid: from about eighty rewards the critic
    learns slopes rather than an optimum, and an actor that follows them to 0 or 1 has no gradient to come back by.

    Args:
        hard: the critic sees 0 and 1, and the gradient passes the threshold as if it were not there (straight-through [R]).
    """

    def __init__(self, module: SelectionModule, *, hard: bool = False) -> None:
        self.module, self.copy, self.hard = module, copy.deepcopy(module).requires_grad_(False), hard
        self.updates = 0  # so far
        self.judging = [*module.features.parameters(), *module.critic.parameters()]
        self.acting = list(module.actor.parameters())
        self.slow: list[Tensor] = list(self.copy.parameters())
        self.fast: list[Tensor] = list(module.parameters())
        # fused: one call for all of these small tensors, or their bookkeeping would cost more than the arithmetic
        self.critic_optimizer = torch.optim.Adam(self.judging, lr=CRITIC_RATE, fused=True)
        self.actor_optimizer = torch.optim.Adam(self.acting, lr=ACTOR_RATE, fused=True)

    @torch.no_grad()
    def soft(self, observations: Tensor) -> Tensor:
        """μ(s) before any threshold: [n, D] → [n, M]."""
        return self.module.act(self.module.state(observations))

    def executed(self, soft: Tensor) -> Tensor:
        """The action as it is executed, with the gradient of μ; [n, M]."""
        return soft + (harden(soft) - soft).detach() if self.hard else soft

    def targets(self, batch: Transitions, rewards: Tensor) -> Tensor:
        """r + γ · Q'(s', μ(s')), [n]. Nothing follows a last phase."""
        with torch.no_grad():
            actions = self.executed(self.module.act(self.module.state(batch.after)))
            following = self.copy.value(self.copy.state(batch.after), actions) * ~batch.last
        return rewards + GAMMA * following

    def update(self, batch: Transitions, rewards: Tensor, *, acting: bool = True) -> tuple[float, float]:
        """One step of the critic, and of the actor where it is `acting`; `rewards` [n] as they are to be learned.

        Returns the critic's loss and mean Q(s, μ(s)).
        """
        with torch.enable_grad():
            values = self.module.value(self.module.state(batch.before), batch.actions)
            critic_loss = F.mse_loss(values, self.targets(batch, rewards))
            _descend(critic_loss, self.judging, self.critic_optimizer)

            state = self.module.state(batch.before).detach()
            reach = self.module.actor(state)  # [n, M], before the sigmoid
            promised = self.module.value(state, self.executed(torch.sigmoid(reach))).mean()
            if acting:
                _descend(RESTRAINT * (reach**2).mean() - promised, self.acting, self.actor_optimizer)
        with torch.no_grad():
            torch._foreach_lerp_(self.slow, self.fast, TAU)
        return critic_loss.item(), promised.item()

    def replay(self, memory: Transitions, seed: int, *, acting: bool = True) -> tuple[float, float] | None:
        """`UPDATES` updates by some of the comparable transitions each; draws belong to (seed, update).

        Returns the last critic loss and Q; None where no reward can be compared with another yet.
        """
        memory = comparable(memory)
        if not len(memory):
            return None
        rewards = learned_rewards(memory) + memory.bonus
        loss = promised = math.nan
        for _ in range(UPDATES):
            rng = np.random.default_rng([seed % 2**64, self.updates, 2])
            drawn = rng.choice(len(memory), size=min(BATCH_SIZE, len(memory)), replace=False)
            index = torch.from_numpy(drawn)
            loss, promised = self.update(memory.take(index), rewards[index], acting=acting)
            self.updates += 1
        return loss, promised

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "module": dict(self.module.state_dict()),
            "copy": dict(self.copy.state_dict()),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for name in ("module", "copy", "critic_optimizer", "actor_optimizer"):
            getattr(self, name).load_state_dict(state[name])


def _descend(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """One step on these parameters; the others' gradients are not even computed."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
