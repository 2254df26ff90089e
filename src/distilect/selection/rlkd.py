"""RL-KD: a reinforced policy picks the teachers for each row.

Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI 2021, arXiv 2012.06048. The file follows the
paper: state, action and policy, rewards, then the selector with its policy update and its schedule. No code was released and
parts of the text could not be read: "reconstruction" marks what we had to fill in. Our own variant is in `rlkd_virtual.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distilect.config import Part
from distilect.knowledge.labels import label_loss
from distilect.models import default_device
from distilect.options import AboveZero, Count, Share, Whole
from distilect.selection.base import Needs, TeacherSelector
from distilect.selection.buffers import Averages, Buffer
from distilect.selection.draws import row_uniform, row_uniforms
from distilect.selection.rewards import Moments, Response, correctness
from distilect.selection.static import teacher_logits
from distilect.selection.teacher_state import STATISTICS_ROWS, Decisions, StateBuilder, whole
from distilect.selection.view import Encoder, Probe, SelectionContext, StepView, TrainingSample

EVALUATE_EVERY = 10  # steps between two evaluations on validation rows, for reward 3: each costs a forward pass …
EVALUATE_ROWS = 256  # … over so many rows

# The state F(s_ik) = [R(x_i); P_k(·|x_i); L_k(x_i)] is built in teacher_state.py.

# ---- action and policy ---------------------------------------------------------------------------------------------


class Policy(nn.Module):
    """π(a_ik = 1 | s_ik) = σ(A_k · F(s_ik) + b_k): an independent Bernoulli action per row and teacher.

    Each teacher has its own A_k and b_k (reconstruction). They start at 0: σ = ½ everywhere.

    Args:
        teachers: K.
        width: D, of the state.
    """

    def __init__(self, teachers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(teachers, width))
        self.bias = nn.Parameter(torch.zeros(teachers))

    def forward(self, state: Tensor) -> Tensor:
        """z, float32 [B, K]; `state` [B, K, D]."""
        return (state * self.weight).sum(-1) + self.bias


def sample_actions(z: Tensor, keys: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a ~ Bernoulli(σ(z)); each draw is a function of (seed, epoch, row, teacher).

    A row without any teacher gets its most probable one (reconstruction); draws break ties, or an untrained policy would favour
    the first teacher.

    Returns:
        actions bool [B, K]; the most probable teacher, one-hot bool [B, K]; and where it was needed, bool [B].
    """
    draws = row_uniforms(keys, z.shape[1], seed, epoch, "teachers")
    actions = draws < torch.sigmoid(z.double())
    empty = ~actions.any(1)
    likeliest = z == z.max(1, keepdim=True).values
    best = F.one_hot(draws.where(likeliest, 2.0).argmin(1), z.shape[1]).bool()
    return torch.where(empty.unsqueeze(1), best, actions), best, empty


def log_probability(z: Tensor, actions: Tensor) -> Tensor:
    """log π(a|s) = Σ_k a_k log σ(z_k) + (1 - a_k) log(1 - σ(z_k)); [B]. Its derivative by z is a - σ(z)."""
    return -F.binary_cross_entropy_with_logits(z, actions.to(z), reduction="none").sum(-1)


def bernoulli_entropy(z: Tensor) -> Tensor:
    """Σ_k H(σ(z_k)) in bits; [B]. Written in z: the derivative stays finite where σ(z) reaches 0 or 1."""
    return (F.softplus(z) - z * torch.sigmoid(z)).sum(-1) / math.log(2)


# ---- rewards -------------------------------------------------------------------------------------------------------


def reward_1(student: Tensor, labels: Tensor) -> Tensor:
    """-L_CE of the student; [n]."""
    return -label_loss(student, labels)


def reward_2(
    student: Tensor, labels: Tensor, teachers: Tensor, response: Response, over: Tensor | None = None
) -> Tensor:
    """-L_CE - mean of L_DL^k; [n].

    Args:
        over: bool [n, K]: the teachers of the mean; None: all.

    The paper's mean is over the selected teachers. That rewards the policy for selecting the teacher nearest to the student,
    whoever is right (docs/pitfalls.md, 31), so the mean over all teachers is our default: the action then reaches the reward
    through the student alone. The policy's probabilities are in neither.
    """
    distances = response(student, teachers).double()  # so that equal distances have that mean, however many they are
    chosen = torch.ones_like(distances) if over is None else over.to(distances)
    return reward_1(student, labels) - ((distances * chosen).sum(1) / chosen.sum(1)).float()


def reward_3(step_reward: Tensor, score: float, gamma: float) -> Tensor:
    """γ · reward_2 + (1 - γ) · score on validation rows; [n] (the formula is a reconstruction)."""
    return gamma * step_reward + (1 - gamma) * score


# ---- the selector --------------------------------------------------------------------------------------------------


class ReinforcedTeachers(TeacherSelector):
    """RL-KD's teacher selector.

    Schedule (the paper's Algorithm 1; its content is a reconstruction): the student learns from all teachers with equal weights
    for `warmup_epochs`; then the policy learns with the student fixed; then both alternate.

    The policy learns from labelled rows only. On other rows the label's block of the state is empty. So that the policy can decide
    without it, the block is also hidden on labelled rows, at random, as often as rows have no label.

    Regression: squared errors in place of cross-entropies, scores in place of probabilities, R² in place of accuracy. Multi-label:
    the state holds each label's probability and binary cross-entropy, rewards their mean; micro-F1 in place of accuracy.
    """

    name = "reinforced"
    entropy = False  # of each teacher, in the state
    weight_decay = 0.0  # of the policy
    learns_ahead = False  # from rewards, before it acts
    needs_labels = True  # of the rows that it learns from

    class Options(Part):
        """Of `teachers: {name: reinforced, …}`."""

        state: Literal["per_teacher", "joint"] = Field(
            "per_teacher",
            description="what the policy sees for one teacher: its own blocks, or those of all (both reconstructions)",
        )
        encoder: str | None = Field(
            "backbone",
            description="whose vector of the row is in the state: backbone (the pre-trained model that the student was cut from), a "
            "checkpoint, a teacher's name, student (the current student; the policy then has no warm-up) or null for none",
        )
        pooling: Literal["cls", "mean"] = Field(
            "cls", description="the frozen encoder's last layer at the classification token, or its mean over tokens"
        )
        reward: Literal[1, 2, 3] = Field(
            2, description="1: -CE; 2: -CE - mean KD loss; 3: gamma · reward 2 + (1 - gamma) · validation score"
        )
        kd_over: Literal["pool", "selected"] = Field(
            "pool",
            description="teachers in the mean KD loss of rewards 2 and 3: all, or the selected ones (as published)",
        )
        gamma: Share = Field(0.5, description="of reward 3")
        share: Share = Field(0.5, description="share of a batch's labelled rows whose reward is measured, drawn by row")
        baseline: Literal["none", "mean"] = Field(
            "mean",
            description="mean: the update takes each reward's distance from the running mean, in running standard deviations "
            "(reconstruction); none: the reward as it is",
        )
        update_every: Literal["epoch"] | Count = Field(
            1,
            description="optimiser steps between two updates of the policy, or epoch; decisions wait in memory until then",
        )
        batch_size: Count = Field(32, description="decisions per update of the policy")
        learning_rate: AboveZero = Field(0.01, description="of the policy's Adam")
        warmup_epochs: Whole = Field(1, description="epochs in which the student learns from all teachers alike")
        policy_rows: Whole = Field(
            4096,
            description="labelled rows, at most, of the policy's own warm-up; 0: none. There is none either with reward: 1 or "
            "kd_over: pool, where the reward of a fixed student is the same for every action",
        )

    options: Options
    optimizer: torch.optim.Optimizer

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        encoder = self.options.encoder
        frozen = None if encoder in (None, "student") else Encoder(encoder, self.options.pooling)
        self.needs = Needs(pooled=encoder == "student", encoder=frozen, labels=True)
        self.builder = StateBuilder(encoder, joint=self.options.state == "joint", entropy=self.entropy)
        self.policy: Policy | None = None  # built when the state's width is known
        self.pending = Buffer(Decisions)  # of this step
        self.history = Buffer(Decisions)  # rewarded, not yet learned from
        self.moments = Moments()  # of rewards
        self.averages = Averages()
        self.steps, self.updates, self.begun = 0, 0, -1
        self.warmed, self.score = False, 0.0

    def setup(self, context: SelectionContext) -> None:
        self.names, self.seed = context.teachers, context.seed
        self.response, self.sample = context.response, context.sample
        self._check_schedule(context)
        if self.options.reward == 3 and context.validation_labels is not None and not len(context.validation_labels):
            raise ValueError("reward: 3 needs validation rows: set data.validation_size or data.validation")
        self.hide = 1 - context.num_labelled / context.num_rows if context.num_rows else 0.0
        self.builder.fit(context.sample(STATISTICS_ROWS))

    def _check_schedule(self, context: SelectionContext) -> None:
        """Refuse a run that would be over before the policy acts on anything that it learned."""
        every, warmup = self.options.update_every, self.options.warmup_epochs
        acting, unit, first = context.epochs - warmup, "epochs", 1
        if every != "epoch":
            acting, unit, first = acting * context.steps_per_epoch, "steps", every
        if acting <= (0 if self.learns_ahead else first):
            raise ValueError(
                f"with warmup_epochs: {warmup} and update_every: {every}, the policy chooses for {max(acting, 0):g} {unit} and would "
                "never act on what it learned: set more train.epochs, fewer warmup_epochs, or a smaller number for update_every"
            )

    # ---- a step ----------------------------------------------------------------------------------------------------

    def decide(self, view: StepView) -> Tensor:
        batch, count, _ = teacher_logits(view).shape
        if view.epoch < self.options.warmup_epochs:
            return torch.full((batch, count), 1.0 / count, device=view.student.device)
        decisions, z, empty = self.act(view)
        drawn = row_uniform(view.keys, view.seed, view.epoch, "reward") < self.options.share
        measured = drawn & (view.has_label | (not self.needs_labels))
        self.pending.add(decisions.take(measured))
        self._report(z, decisions.actions, empty)
        weights = self.weights(z, decisions.actions)
        return weights / weights.sum(1, keepdim=True)

    def learn(self, probe: Probe) -> None:
        decisions, every = self.pending.take(), self.options.update_every
        due = probe.progress >= 1  # no reward that was paid for is dropped
        if decisions is not None and len(decisions):
            decisions.reward = self.measure(decisions, probe)
            self.history.add(decisions)
            self.averages.add("reward/mean", decisions.reward.sum(), len(decisions))
            self.steps += 1
            due = due or (every != "epoch" and self.steps % every == 0)
        if due:
            self.update(self.history.take())

    def act(self, view: StepView) -> tuple[Decisions, Tensor, Tensor]:
        """State → policy → actions; z [B, K], and where nobody was drawn, bool [B]."""
        common, own = self.builder(view, self.visible(view))
        state = whole(common, own)
        with torch.no_grad():
            z = self.policy_for(state)(state)
        actions, likeliest, empty = sample_actions(z, view.keys, view.seed, view.epoch)
        return Decisions.of(view, common, own, actions, likeliest), z, empty

    def visible(self, view: StepView) -> Tensor:
        """bool [B]: labelled rows whose label is not hidden from the policy in this epoch."""
        return view.has_label & (row_uniform(view.keys, view.seed, view.epoch, "hide") >= self.hide)

    def policy_for(self, state: Tensor) -> Policy:
        """The policy for states [B, K, D], built for the first of them; as it starts at 0, it does not matter when."""
        if self.policy is None:
            self.policy = Policy(state.shape[1], state.shape[2]).to(state.device)
            self.optimizer = torch.optim.AdamW(
                self.policy.parameters(), lr=self.options.learning_rate, weight_decay=self.weight_decay
            )
        return self.policy

    def weights(self, z: Tensor, actions: Tensor) -> Tensor:
        """float32 [B, K], not yet scaled to sum 1: the selected teachers weigh equally (reconstruction)."""
        return actions.float()

    def measure(self, decisions: Decisions, probe: Probe) -> Tensor:
        """[n]: the rewards of the student as the step left it."""
        if self.options.reward == 3 and self.steps % EVALUATE_EVERY == 0:
            self.score = correctness(*probe.validation(EVALUATE_ROWS))
        return self.reward(probe.logits(decisions.keys), decisions)

    def reward(self, student: Tensor, decisions: Decisions) -> Tensor:
        """[n]: the reward of a student with these logits [n, C]."""
        if self.options.reward == 1:
            return reward_1(student, decisions.labels)
        over = decisions.actions if self.options.kd_over == "selected" else None
        found = reward_2(student, decisions.labels, decisions.teachers, self.response, over)
        return found if self.options.reward == 2 else reward_3(found, self.score, self.options.gamma)

    # ---- policy update: REINFORCE ----------------------------------------------------------------------------------

    def update(self, decisions: Decisions | None) -> None:
        """θ ← θ + β · advantage · ∂ log π(a|s) / ∂θ by Adam, over the decisions in shuffled batches."""
        if decisions is None:
            return
        advantage = self.advantage(decisions.reward)
        draws = row_uniform(decisions.keys, self.seed, self.updates, "shuffle")
        for index in torch.argsort(draws, stable=True).split(self.options.batch_size):
            batch = decisions.take(index)
            state = batch.state
            policy = self.policy_for(state)
            with torch.enable_grad():
                objective = self.objective(policy(state), batch, advantage[index])
                self.optimizer.zero_grad()
                (-objective).backward()
            self.optimizer.step()
            self.updates += 1

    def advantage(self, reward: Tensor) -> Tensor:
        """[n]: how far each reward is from what was usual."""
        self.moments.add(reward)
        self.averages.add("reward/baseline", torch.tensor(self.moments.mean))
        self.averages.add("reward/std", torch.tensor(self.moments.std))
        if self.options.baseline == "none":
            return reward
        return ((reward.double() - self.moments.mean) / max(self.moments.std, 1e-8)).to(reward)

    def objective(self, z: Tensor, decisions: Decisions, advantage: Tensor) -> Tensor:
        """What an update makes larger."""
        return (advantage * log_probability(z, decisions.actions)).mean()

    # ---- schedule --------------------------------------------------------------------------------------------------

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if epoch <= self.begun:  # resumed within this epoch
            return
        self.begun = epoch
        if self.options.update_every == "epoch":
            self.update(self.history.take())
        if epoch >= self.options.warmup_epochs and not self.warmed:
            self.warmed = True
            if self.options.policy_rows and self.options.encoder != "student":  # a sample has no vectors of the student
                sample = self.sample(self.options.policy_rows, labelled=self.needs_labels)
                if len(sample.keys):
                    self.warm_up(sample, probe)
                    self.moments = Moments()  # rewards of real steps have another scale

    def warm_up(self, sample: TrainingSample, probe: Probe) -> None:
        """The policy learns with the student fixed: one pass, in which actions are drawn (reconstruction).

        A reward counts by its distance from that of the same row with all teachers. Constant actions (all teachers on every row,
        another reading) would teach how difficult a row is: their E[advantage · ∂ log π] is not 0 where no teacher matters.
        """
        if self.options.reward == 1 or self.options.kd_over == "pool":
            return
        view = sample.view(probe.logits(sample.keys), self.seed, epoch=-1, device=default_device())
        decisions, _, _ = self.act(view)
        everyone = replace(decisions, actions=torch.ones_like(decisions.actions))
        decisions.reward = self.reward(view.student, decisions) - self.reward(view.student, everyone)
        self.update(decisions)

    # ---- buffers, health and state ---------------------------------------------------------------------------------

    def buffers(self) -> list[Buffer[Any]]:
        return [self.pending]

    def _report(self, z: Tensor, actions: Tensor, empty: Tensor) -> None:
        batch, count = z.shape
        self.averages.add("policy/entropy", bernoulli_entropy(z).sum() / count, batch)
        self.averages.add("policy/teachers_per_row", actions.sum(), batch)
        self.averages.add("policy/empty", empty.sum(), batch)
        for name, p in zip(self.names, torch.sigmoid(z).T, strict=True):
            self.averages.add(f"policy/p_{name}", p.sum(), batch)

    def health(self) -> dict[str, float]:
        """policy/entropy (bits per teacher, in [0, 1]), policy/teachers_per_row, policy/empty (share of rows that needed the
        fallback), policy/p_TEACHER, reward/mean, reward/baseline, reward/std."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": None if self.policy is None else dict(self.policy.state_dict()),
            "optimizer": None if self.policy is None else self.optimizer.state_dict(),
            "builder": self.builder.moments,
            "moments": self.moments.state_dict(),
            "history": self.history.state_dict(),
            "averages": self.averages.state_dict(),
            "counts": [self.steps, self.updates, self.begun],
            "warmed": self.warmed,
            "score": self.score,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.builder.moments = dict(state["builder"])
        self.moments.load_state_dict(state["moments"])
        self.history.load_state_dict(state["history"], default_device())
        self.averages.load_state_dict(state["averages"])
        self.steps, self.updates, self.begun = (int(n) for n in state["counts"])
        self.warmed, self.score = bool(state["warmed"]), float(state["score"])
        if state["policy"] is not None:
            like = state["policy"]["weight"].unsqueeze(0).to(default_device())
            self.policy_for(like).load_state_dict(state["policy"])
            self.optimizer.load_state_dict(state["optimizer"])
