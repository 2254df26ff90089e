"""RL-KD: a reinforced policy picks the teachers for each row.

Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI 2021, arXiv 2012.06048. The file follows the
paper: state, action and policy, rewards, policy update, schedule. No code of it was released and parts of the text could not
be read; what is marked "reconstruction" is our reading of it, and each such choice is an option.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilect.knowledge.labels import label_loss
from distilect.knowledge.response import response_kl
from distilect.models import default_device
from distilect.selection.base import TeacherSelector
from distilect.selection.buffers import Averages
from distilect.selection.draws import row_uniform, row_uniforms
from distilect.selection.rewards import Moments, Response, correctness, virtual_step
from distilect.selection.view import Encoder, Probe, SelectionContext, StepView, TrainingSample, normalised_entropy

# ---- state ---------------------------------------------------------------------------------------------------------

FEATURES = ("kl", "student_entropy", "teacher_entropy")
_LIMIT = 4.0  # standard deviations; a cross-entropy of 20 must not decide alone
_STATISTICS_ROWS = 4096


class StateBuilder:
    """F(s_ik) = [R(x_i); P_k(·|x_i); L_k(x_i)], and what is added to it.

    R is the row's vector from a frozen encoder or from the student, P_k the teacher's probabilities, L_k its cross-entropy on
    the gold label (regression: its score, and its squared error). L_k is 0 where it is hidden or unknown, and one more number
    says whether it is visible. Each block is standardised per number, cut at 4 standard deviations and divided by the square
    root of its width (reconstruction: the paper reports no scaling; unscaled, 768 numbers of R swamp C + 1 others).

    Args:
        form: `per_teacher`, or `joint`: every teacher's state holds the blocks of all (both reconstructions).
        scale: `standardise`, `layernorm` (each block of a row by itself, the loss as it is) or `none`.
        features: also `kl` (log(1 + KL(P_k ‖ P_s)), squared error in regression), `student_entropy`, `teacher_entropy`
            (normalised to [0, 1]; in regression log(1 + squared distance) from the mean of the pool). MTKD-RL and Re-MTKD have
            such student-dependent parts.
        encoder: whose vector R is: `student`, a frozen one's name, or None for no R. A view may hold vectors that another selector
            asked for.
        shared: teachers are standardised together, for a policy that judges them by the same weights: by itself, the loss of a
            teacher that is always right would look like anyone's.
    """

    def __init__(
        self, form: str, scale: str, features: Sequence[str], encoder: str | None, shared: bool = False
    ) -> None:
        one_of("state", form, ("per_teacher", "joint"))
        one_of("scale", scale, ("standardise", "layernorm", "none"))
        if isinstance(features, str):
            raise ValueError(f"features is {features!r}, expected a list such as [kl]")
        for feature in features:
            one_of("features", feature, FEATURES)
        self.form, self.scale, self.features, self.encoder = form, scale, tuple(features), encoder
        self.shared = shared
        self.moments: dict[str, Tensor] = {}
        self.common = 0  # how many numbers of the last state are the same for all teachers

    def fit(self, sample: TrainingSample) -> None:
        """Mean and standard deviation of each number over some rows of train."""
        if self.scale != "standardise":
            return
        blocks = {"teacher": _opinions(sample.teachers)}
        known = ~torch.isnan(sample.labels) if sample.labels.is_floating_point() else sample.labels >= 0
        if known.any():
            blocks["loss"] = _losses(sample.teachers[known], sample.labels[known])
        if self.encoder is not None and sample.vectors is not None:
            blocks["vector"] = sample.vectors
        for name, values in blocks.items():
            over = (0, 1) if self.shared and name != "vector" else 0
            self.moments[name] = torch.stack([values.mean(over), values.std(over, unbiased=False)])

    def __call__(self, view: StepView, visible: Tensor) -> Tensor:
        """float32 [B, K, D]; `visible` bool [B]: where the policy may see the label block."""
        assert view.teachers is not None, "teacher selectors are asked after the teachers"
        loss = self._scaled("loss", _losses(view.teachers, view.labels)).unsqueeze(-1)  # [B, K, 1]
        shown = visible[:, None, None].to(loss)
        parts = [
            self._scaled("teacher", _opinions(view.teachers)),
            loss * shown,
            shown.expand_as(loss),
            *self._extras(view),
        ]
        state = torch.cat(parts, dim=-1)  # [B, K, c]
        if self.form == "joint":
            state = state.flatten(1).unsqueeze(1).expand(-1, state.shape[1], -1)  # [B, K, K·c]
        vector = self._vector(view)
        if vector is not None:
            state = torch.cat([vector.unsqueeze(1).expand(-1, state.shape[1], -1), state], dim=-1)
        width = 0 if vector is None else vector.shape[1]
        self.common = state.shape[-1] if self.form == "joint" else width
        return state

    def _vector(self, view: StepView) -> Tensor | None:
        """[B, d] of unit size. The student's own vector changes as it learns: it is normalised row by row."""
        if self.encoder == "student":
            return None if view.pooled is None else _unit_rows(view.pooled.float())
        if self.encoder is None or view.vectors is None:
            return None
        return self._scaled("vector", view.vectors)

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        if self.scale == "layernorm" and name != "loss" and values.shape[-1] > 1:
            return _unit_rows(values)  # of a single score nothing would remain
        if name in self.moments:
            mean, std = self.moments[name].to(values)
            values = ((values - mean) / std.clamp_min(1e-6)).clamp(-_LIMIT, _LIMIT)
        # [B, K] of the loss is one number per teacher
        width = 1 if name == "loss" else values.shape[-1]
        return values if self.scale == "none" else values / width**0.5

    def _extras(self, view: StepView) -> list[Tensor]:
        """[B, K, 1] each."""
        assert view.teachers is not None
        found: dict[str, Tensor] = {}
        if "kl" in self.features:
            gap = _gap(view.student, view.teachers)
            found["kl"] = torch.log1p(gap.clamp(0, 1e4))
        if "student_entropy" in self.features:
            doubt = _doubt(view.student.unsqueeze(1), view.teachers)  # [B, 1]
            found["student_entropy"] = doubt.expand(view.teachers.shape[:2])
        if "teacher_entropy" in self.features:
            found["teacher_entropy"] = _doubt(view.teachers, view.teachers)
        return [found[name].unsqueeze(-1) for name in self.features]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.moments)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.moments = dict(state)


def _opinions(teachers: Tensor) -> Tensor:
    """[B, K, C]: probabilities; scores in regression."""
    return teachers if teachers.shape[-1] == 1 else teachers.softmax(-1)


def _losses(teachers: Tensor, labels: Tensor) -> Tensor:
    """[B, K]: each teacher's cross-entropy, at most 50, or squared error; 0 without a label."""
    batch, count, classes = teachers.shape
    repeated = labels.unsqueeze(1).expand(batch, count).reshape(-1)
    losses = label_loss(teachers.reshape(-1, classes), repeated).reshape(batch, count)
    return losses if classes == 1 else losses.clamp_max(50.0)


def _gap(student: Tensor, teachers: Tensor) -> Tensor:
    """[B, K]: KL(P_k ‖ P_s), squared difference in regression."""
    if teachers.shape[-1] == 1:
        return (teachers - student.unsqueeze(1)).squeeze(-1) ** 2
    return response_kl(student, teachers, 1.0)


def _doubt(outputs: Tensor, teachers: Tensor) -> Tensor:
    """[B, k] for outputs [B, k, C]: their entropy; in regression, how far they are from the pool's mean."""
    if outputs.shape[-1] > 1:
        return normalised_entropy(outputs)
    return torch.log1p((outputs - teachers.mean(1, keepdim=True)).squeeze(-1) ** 2)


def _unit_rows(values: Tensor) -> Tensor:
    """Mean 0 and length about 1 along the last axis."""
    return F.layer_norm(values, values.shape[-1:]) / values.shape[-1] ** 0.5


# ---- action and policy ---------------------------------------------------------------------------------------------


class Policy(nn.Module):
    """π(a_ik = 1 | s_ik) = σ(A_k · F(s_ik) + b_k): an independent Bernoulli action per row and teacher.

    Args:
        teachers: K.
        width: of the state.
        shared: one A, b for all teachers instead of one per teacher (reconstruction: one per teacher).

    It starts at σ = ½ everywhere.
    """

    def __init__(self, teachers: int, width: int, shared: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1 if shared else teachers, width))
        self.bias = nn.Parameter(torch.zeros(1 if shared else teachers))

    def forward(self, state: Tensor) -> Tensor:
        """z, float32 [B, K]; `state` [B, K, D]."""
        return (state * self.weight).sum(-1) + self.bias


def log_probability(z: Tensor, actions: Tensor) -> Tensor:
    """log π(a|s) = Σ_k a_k log σ(z_k) + (1 - a_k) log(1 - σ(z_k)); [B]. Its derivative by z is a - σ(z)."""
    return -F.binary_cross_entropy_with_logits(z, actions.to(z), reduction="none").sum(-1)


def executed_log_probability(z: Tensor, actions: Tensor) -> Tensor:
    """log of the probability that a row's teachers came to be chosen, the fallback included; [B].

    A row that believes only its most probable teacher k may have drawn it, or have drawn nobody and fallen back on it:
    σ(z_k) Π(1 - σ(z_j)) + (1 - σ(z_k)) Π(1 - σ(z_j)) = Π_{j ≠ k} (1 - σ(z_j)). The plain log π reinforces the
    fallback as if it had been a draw.
    """
    likeliest = F.one_hot(z.argmax(1), z.shape[1]).bool()
    alone = (actions == likeliest).all(1, keepdim=True) & likeliest
    per_teacher = -F.binary_cross_entropy_with_logits(z, actions.to(z), reduction="none")
    return per_teacher.masked_fill(alone, 0.0).sum(-1)


def sample_actions(z: Tensor, rows: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Draw a ~ Bernoulli(σ(z)); each draw is a function of (seed, epoch, row, teacher).

    A row without any teacher gets its most probable one (reconstruction); draws break ties, or an untrained policy would favour
    the first teacher.

    Returns:
        actions bool [B, K], and where that was needed, bool [B].
    """
    draws = row_uniforms(rows, z.shape[1], seed, epoch, "teachers")
    actions = draws < torch.sigmoid(z.double())
    empty = ~actions.any(1)
    likeliest = z == z.max(1, keepdim=True).values
    best = F.one_hot(draws.where(likeliest, 2.0).argmin(1), z.shape[1]).bool()
    return torch.where(empty.unsqueeze(1), best, actions), empty


# ---- rewards -------------------------------------------------------------------------------------------------------


@dataclass
class Decisions:
    """Rows on which the policy acted, and all that it takes to reward and to learn from it.

    Attributes:
        rows: int64 [n]; labels: [n]; actions: bool [n, K].
        common, own: float32 [n, D - c] and [n, K, c]: the part of the state that is the same for all teachers, and the rest: a
            history of an epoch would hold the row's vector K times otherwise.
        student: logits [n, C] before the step; teachers: logits [n, K, C].
        reward: float32 [n], NaN until it is known.
    """

    rows: Tensor
    labels: Tensor
    common: Tensor
    own: Tensor
    actions: Tensor
    student: Tensor
    teachers: Tensor
    reward: Tensor

    @classmethod
    def of(cls, view: StepView, state: Tensor, common: int, actions: Tensor) -> Decisions:
        """What was decided on the rows of a view; the first `common` numbers of `state` [n, K, D] are those of all teachers."""
        assert view.teachers is not None
        waiting = torch.full((len(state),), torch.nan, device=state.device)
        parts = (state[:, 0, :common], state[:, :, common:])
        return cls(view.keys, view.labels, *parts, actions, view.student, view.teachers, waiting)

    @property
    def state(self) -> Tensor:
        """float32 [n, K, D]."""
        common = self.common.unsqueeze(1).expand(-1, self.own.shape[1], -1)
        return torch.cat([common, self.own], dim=-1)

    def take(self, index: Tensor) -> Decisions:
        return Decisions(*(getattr(self, f.name)[index] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def join(parts: Sequence[Decisions]) -> Decisions:
        """All of them in the order of row identities: however the batch was cut, the result is the same."""
        joined = Decisions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Decisions)))
        return joined.take(torch.argsort(joined.rows, stable=True))


def reward_1(student: Tensor, labels: Tensor) -> Tensor:
    """-L_CE of the student; [n]."""
    return -label_loss(student, labels)


def reward_2(
    student: Tensor, labels: Tensor, teachers: Tensor, response: Response, over: Tensor | None = None
) -> Tensor:
    """-L_CE - mean of L_DL^k; [n].

    Args:
        over: bool [n, K]: the teachers of the mean; None: the whole pool.

    The paper's mean is over the selected teachers. That rewards the policy for selecting the teacher nearest to the student,
    whoever is right (docs/pitfalls.md, 31), so the mean over the pool is our default: the action then reaches the reward
    through the student alone. The policy's probabilities are in neither.
    """
    distances = response(student, teachers)
    chosen = torch.ones_like(distances) if over is None else over.to(distances)
    return reward_1(student, labels) - (distances * chosen).sum(1) / chosen.sum(1)


def reward_3(step_reward: Tensor, score: float, gamma: float) -> Tensor:
    """γ · reward_2 + (1 - γ) · score on rows held out of train; [n] (the formula is a reconstruction)."""
    return gamma * step_reward + (1 - gamma) * score


# ---- update and schedule -------------------------------------------------------------------------------------------


class ReinforcedTeachers(TeacherSelector):
    """RL-KD's teacher selector.

    Schedule (the paper's Algorithm 1; its content is a reconstruction): the student learns from all teachers with equal weights
    for `warmup_epochs`; then the policy learns with the student fixed; then both alternate.

    The update is REINFORCE: θ ← θ + β · advantage · ∂ log π(a|s) / ∂θ, by Adam, on labelled rows only. On other rows the label
    block of the state is empty and the policy decides from the rest; so that it can, the block is also hidden at random while
    the policy learns.

    Regression: squared errors in place of cross-entropies, scores in place of probabilities, R² in place of accuracy.

    Args:
        state: `per_teacher` or `joint`.
        encoder: whose vector R is: `backbone` (the pre-trained model that the student was cut from, frozen), a checkpoint, a
            teacher's name, `student` (the current one, detached) or null for none.
        pooling: of the frozen encoder: `cls` or `mean`.
        scale: of the state's blocks: `standardise`, `layernorm` or `none`.
        features: further parts of the state: any of kl, student_entropy, teacher_entropy.
        shared: one set of policy weights for all teachers.
        weights: `mask`: selected teachers weigh equally; `probabilities`: σ(z) normalised over teachers, except on rows whose
            reward is measured by a real step, which follow their sampled mask (else it would say nothing about the action).
        reward: 1, 2 or 3.
        kd_over: whose L_DL is in rewards 2 and 3: `pool` or `selected` (as published).
        gamma: of reward 3.
        evaluate_every: steps of the policy between two looks at the held-out rows for reward 3.
        evaluate_rows: how many of them.
        measure: `step`: the student is run again after its step; `virtual`: the row's logits alone take a step (see
            `rewards.virtual_step`; ours), which costs nothing.
        share: of the labelled rows of a batch whose reward is measured, drawn by row.
        step_size: of the virtual step.
        baseline: `none`, `mean` (running; not in the paper) or `row` (the same row's reward before the step, or with all
            teachers in the virtual step).
        normalise: divide advantages by their running standard deviation.
        update_every: `epoch`, or a number of steps; a history of one epoch is kept in memory and in checkpoints.
        learning_rate, weight_decay: of Adam; `entropy_bonus`: weight of the policy's entropy in its objective.
        batch_size: decisions per policy update, of a shuffled history.
        hide: share of labelled rows whose label block the policy does not see; null: the share of the rows that have no label,
            so that the policy learns on what it will decide from.
        warmup_epochs: of the student.
        policy_warmup: `ones`: one pass over labelled rows with all teachers selected (reconstruction); `virtual`: passes with
            sampled actions and virtual steps (ours); `none`. Default: `ones`, and `none` with encoder: student.
        credit: the probability that is reinforced: of the actions as if all had been `drawn` (the paper's pseudo-code in our
            reading), or as they came to be `executed`, with the fallback (see `executed_log_probability`).
        policy_updates: of `virtual` warm-up, rounded up to whole passes.
        policy_rows: at most so many labelled rows for it.
    """

    name = "reinforced"
    narrows = False
    item = Decisions

    def __init__(
        self,
        state: Literal["per_teacher", "joint"] = "per_teacher",
        encoder: str | None = "backbone",
        pooling: Literal["cls", "mean"] = "cls",
        scale: Literal["standardise", "layernorm", "none"] = "standardise",
        features: Sequence[str] = (),
        shared: bool = False,
        weights: Literal["mask", "probabilities"] = "mask",
        reward: Literal[1, 2, 3] = 2,
        kd_over: Literal["pool", "selected"] = "pool",
        gamma: float = 0.5,
        evaluate_every: int = 10,
        evaluate_rows: int = 256,
        measure: Literal["step", "virtual"] = "step",
        share: float = 0.5,
        step_size: float = 0.5,
        baseline: Literal["none", "mean", "row"] = "mean",
        normalise: bool = True,
        update_every: int | Literal["epoch"] = "epoch",
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        entropy_bonus: float = 0.0,
        batch_size: int = 32,
        hide: float | None = None,
        warmup_epochs: int = 1,
        policy_warmup: Literal["ones", "virtual", "none"] | None = None,
        credit: Literal["drawn", "executed"] = "drawn",
        policy_updates: int = 600,
        policy_rows: int = 4096,
    ) -> None:
        one_of("pooling", pooling, ("cls", "mean"))
        one_of("weights", weights, ("mask", "probabilities"))
        one_of("reward", reward, (1, 2, 3))
        one_of("kd_over", kd_over, ("pool", "selected"))
        one_of("measure", measure, ("step", "virtual"))
        one_of("baseline", baseline, ("none", "mean", "row"))
        one_of("credit", credit, ("drawn", "executed"))
        if update_every != "epoch" and (not isinstance(update_every, int) or update_every < 1):
            raise ValueError(f"update_every is {update_every!r}, expected 'epoch' or a number of steps")
        shares(gamma=gamma, share=share, hide=hide or 0.0)
        above_zero(learning_rate=learning_rate, step_size=step_size)
        zero_or_more(weight_decay=weight_decay, entropy_bonus=entropy_bonus, warmup_epochs=warmup_epochs)
        counts(evaluate_every=evaluate_every, evaluate_rows=evaluate_rows, batch_size=batch_size)
        counts(policy_updates=policy_updates, policy_rows=policy_rows)
        if reward == 3 and baseline == "row":
            raise ValueError(
                "baseline: row cancels the held-out score of reward: 3, it would be reward: 2: expected baseline: mean or none"
            )
        if state == "joint" and shared:
            raise ValueError("state: joint gives all teachers the same state: expected shared: false with it")
        own = encoder == "student"
        policy_warmup = policy_warmup or ("none" if own else "ones")
        one_of("policy_warmup", policy_warmup, ("ones", "virtual", "none"))
        if own and policy_warmup != "none":
            raise ValueError("policy_warmup needs a frozen encoder: expected policy_warmup: none with encoder: student")
        self.wants_pooled = own
        self.encoder = None if own or encoder is None else Encoder(encoder, pooling)
        self.builder = StateBuilder(state, scale, features, encoder, shared)
        self.shared, self.weighing = shared, weights
        self.reward, self.kd_over, self.gamma = reward, kd_over, gamma
        self.evaluate_every, self.evaluate_rows = evaluate_every, evaluate_rows
        self.measure, self.share, self.step_size = measure, share, step_size
        self.baseline, self.normalise, self.update_every = baseline, normalise, update_every
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.entropy_bonus, self.batch_size, self.hide = entropy_bonus, batch_size, hide
        self.warmup_epochs, self.policy_warmup = warmup_epochs, policy_warmup
        self._log_probability = log_probability if credit == "drawn" else executed_log_probability
        self.policy_updates, self.policy_rows = policy_updates, policy_rows
        self.policy: Policy | None = None  # built when the state's width is known
        self.optimizer: torch.optim.Optimizer | None = None
        self.moments = Moments()
        self.pending: list[Decisions] = []  # of this step
        self.history: list[Decisions] = []  # rewarded, not yet learned from
        self.averages = Averages()
        self.observed, self.updates = 0, 0
        self.begun, self.warmed, self.score = -1, False, 0.0

    # ---- setting up ------------------------------------------------------------------------------------------------

    def setup(self, context: SelectionContext) -> None:
        self.names, self.seed = context.teachers, context.seed
        self.response, self.sample = context.response, context.sample
        if self.warmup_epochs >= context.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}, but the student trains for {context.epochs:g}: the policy would never choose. "
                "Expected more train.epochs, or warmup_epochs: 0"
            )
        if self.reward == 3 and context.validation_labels is not None and not len(context.validation_labels):
            raise ValueError("reward: 3 needs rows held out of train: set data.validation_size or data.validation")
        if self.hide is None:
            self.hide = 1 - context.num_labelled / context.num_rows if context.num_rows else 0.0
        if self.builder.scale == "standardise":
            self.builder.fit(context.sample(_STATISTICS_ROWS))

    def keeps(self) -> list[int] | None:
        return None

    def _build(self, state: Tensor) -> Policy:
        """The policy for states [B, K, D]; the same however it is reached, as it starts at 0."""
        if self.policy is None:
            self.policy = Policy(len(self.names), state.shape[-1], self.shared).to(state.device)
            self.optimizer = torch.optim.AdamW(
                self.policy.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
        return self.policy

    # ---- deciding --------------------------------------------------------------------------------------------------

    def decide(self, view: StepView) -> Tensor:
        assert view.teachers is not None
        if view.epoch < self.warmup_epochs:
            batch, count = view.teachers.shape[:2]
            return torch.full((batch, count), 1.0 / count, device=view.student.device)
        state = self.builder(view, self._visible(view))
        with torch.no_grad():
            z = self._build(state)(state)
        actions, empty = sample_actions(z, view.keys, view.seed, view.epoch)
        learns = view.has_label & (row_uniform(view.keys, view.seed, view.epoch, "reward") < self.share)
        self._remember(view, state, actions, learns)
        self._note(z, actions, empty)
        mask = actions.float()
        if self.weighing == "probabilities":
            acted = learns & (self.measure == "step")
            mask = torch.where(acted.unsqueeze(1), mask, torch.sigmoid(z).clamp_min(1e-6))
        return mask / mask.sum(1, keepdim=True)

    def _visible(self, view: StepView) -> Tensor:
        """bool [B]: labelled rows whose label block is not hidden in this epoch."""
        assert self.hide is not None
        return view.has_label & (row_uniform(view.keys, view.seed, view.epoch, "hide") >= self.hide)

    def _remember(self, view: StepView, state: Tensor, actions: Tensor, learns: Tensor) -> None:
        if bool(learns.any()):
            decisions = Decisions.of(view, state, self.builder.common, actions)
            self.pending.append(decisions.take(learns.nonzero().squeeze(1)))

    def observations(self) -> list[list[Any]]:
        return [self.pending]

    # ---- rewards ---------------------------------------------------------------------------------------------------

    def learn(self, probe: Probe) -> None:
        if not self.pending:
            return
        if self.reward == 3 and self.observed % self.evaluate_every == 0:
            self.score = correctness(*probe.validation(self.evaluate_rows))
        self.pending = [Decisions.join(self.pending)]
        decisions = self.pending[0]
        after = self._after(decisions, probe)
        self.observe(self._rewards(after, decisions) - self._row_baseline(decisions))

    def _after(self, decisions: Decisions, probe: Probe) -> Tensor:
        """[n, C]: the student's logits after the step."""
        if self.measure == "step":
            return probe.logits(decisions.rows)
        return self._virtual(decisions, decisions.actions.float())

    def _virtual(self, decisions: Decisions, mask: Tensor) -> Tensor:
        weights = mask / mask.sum(1, keepdim=True)
        return virtual_step(decisions.student, decisions.teachers, weights, self.response, self.step_size)

    def _rewards(self, student: Tensor, decisions: Decisions) -> Tensor:
        """[n]: the reward of a student with these logits."""
        if self.reward == 1:
            return reward_1(student, decisions.labels)
        over = decisions.actions if self.kd_over == "selected" else None
        found = reward_2(student, decisions.labels, decisions.teachers, self.response, over)
        return reward_3(found, self.score, self.gamma) if self.reward == 3 else found

    def _row_baseline(self, decisions: Decisions) -> Tensor:
        """[n]: what the row's reward would have been without the action; 0 unless `baseline` is `row`."""
        if self.baseline != "row":
            return torch.zeros_like(decisions.reward)
        if self.measure == "virtual":
            return self._rewards(self._virtual(decisions, torch.ones_like(decisions.actions).float()), decisions)
        return self._rewards(decisions.student, decisions)

    # ---- policy update ---------------------------------------------------------------------------------------------

    def observe(self, reward: Tensor) -> None:
        """Rewards of the decisions since the last call, in the order of their row identities; float32 [n] or a single value."""
        if not self.pending:
            return
        decisions = Decisions.join(self.pending)
        decisions.reward = reward.to(decisions.own).expand(len(decisions)).clone()
        self.pending = []
        self.history.append(decisions)
        self.averages.add("reward/mean", decisions.reward.sum(), len(decisions))
        self.observed += 1
        if self.update_every != "epoch" and self.observed % self.update_every == 0:
            self._learn()

    def _learn(self) -> None:
        """θ ← θ + β · advantage · ∂ log π / ∂θ over the history, shuffled; empties it."""
        if not self.history:
            return
        decisions, self.history = Decisions.join(self.history), []
        advantage = self._advantage(decisions.reward)
        draws = row_uniform(decisions.rows, self.seed, self.updates, "shuffle")
        for part in torch.argsort(draws, stable=True).split(self.batch_size):
            self._update(decisions.take(part), advantage[part])

    def _advantage(self, reward: Tensor) -> Tensor:
        """[n]: against the running mean of rewards, in units of their running standard deviation."""
        self.moments.add(reward)
        advantage = reward.double() if self.baseline == "none" else reward.double() - self.moments.mean
        if self.normalise:
            advantage = advantage / max(self.moments.std, 1e-8)
        self.averages.add("reward/baseline", torch.tensor(self.moments.mean))
        self.averages.add("reward/std", torch.tensor(self.moments.std))
        return advantage.to(reward)

    def _update(self, decisions: Decisions, advantage: Tensor) -> None:
        state = decisions.state
        policy = self._build(state)
        assert self.optimizer is not None
        with torch.enable_grad():
            z = policy(state)
            objective = (advantage * self._log_probability(z, decisions.actions)).mean()
            if self.entropy_bonus:
                objective = objective + self.entropy_bonus * bernoulli_entropy(z).mean()
            self.optimizer.zero_grad()
            (-objective).backward()
        self.optimizer.step()
        self.updates += 1

    # ---- schedule --------------------------------------------------------------------------------------------------

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if epoch <= self.begun:  # resumed within this epoch
            return
        self.begun = epoch
        if self.update_every == "epoch":
            self._learn()
        if epoch >= self.warmup_epochs and not self.warmed:
            self.warmed = True
            if self.policy_warmup != "none":
                self._warm_up(probe)

    def _warm_up(self, probe: Probe) -> None:
        """The policy learns with the student fixed."""
        sample = self.sample(self.policy_rows, labelled=True)
        if not len(sample.keys):
            return
        student = probe.logits(sample.keys)
        if self.reward == 3:
            self.score = correctness(*probe.validation(self.evaluate_rows))
        passes, last = 0, self.updates + self.policy_updates
        while passes == 0 or (self.policy_warmup == "virtual" and self.updates < last):
            passes += 1  # their draws are those of epochs before the first
            self.history.append(self._warm_up_decisions(_fixed_view(sample, student, self.seed, epoch=-passes)))
            self._learn()
        self.moments = Moments()  # rewards of real steps have another scale

    def _warm_up_decisions(self, view: StepView) -> Decisions:
        state = self.builder(view, self._visible(view))
        with torch.no_grad():
            z = self._build(state)(state)
        actions = torch.ones_like(z, dtype=torch.bool)
        if self.policy_warmup == "virtual":
            actions, _ = sample_actions(z, view.keys, view.seed, view.epoch)
        found = Decisions.of(view, state, self.builder.common, actions)
        if self.policy_warmup == "ones":
            found.reward = self._rewards(found.student, found)
        else:
            ones = torch.ones_like(z)
            after, with_all = self._virtual(found, actions.float()), self._virtual(found, ones)
            found.reward = self._rewards(after, found) - self._rewards(with_all, found)
        return found

    # ---- health and state ------------------------------------------------------------------------------------------

    def _note(self, z: Tensor, actions: Tensor, empty: Tensor) -> None:
        batch = len(z)
        self.averages.add("policy/entropy", bernoulli_entropy(z).sum() / z.shape[1], batch)
        self.averages.add("policy/teachers_per_row", actions.sum(), batch)
        self.averages.add("policy/empty", empty.sum(), batch)
        for name, p in zip(self.names, torch.sigmoid(z).T, strict=True):
            self.averages.add(f"policy/p_{name}", p.sum(), batch)

    def health(self) -> dict[str, float]:
        """policy/entropy (bits per teacher, in [0, 1]), policy/teachers_per_row, policy/empty (share of rows that needed the
        fallback), policy/p_TEACHER, reward/mean, reward/baseline, reward/std."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        history = Decisions.join(self.history) if self.history else None
        return {
            "policy": None if self.policy is None else dict(self.policy.state_dict()),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "builder": self.builder.state_dict(),
            "moments": self.moments.state_dict(),
            "history": None if history is None else {f.name: getattr(history, f.name) for f in fields(history)},
            "averages": {"sums": dict(self.averages.sums), "counts": dict(self.averages.counts)},
            "counts": [self.observed, self.updates, self.begun],
            "warmed": self.warmed,
            "score": self.score,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.builder.load_state_dict(state["builder"])
        self.moments.load_state_dict(state["moments"])
        self.averages = Averages(**state["averages"])
        self.observed, self.updates, self.begun = (int(n) for n in state["counts"])
        self.warmed, self.score = bool(state["warmed"]), float(state["score"])
        device, history = default_device(), state["history"]
        self.history = [] if history is None else [Decisions(**{n: v.to(device) for n, v in history.items()})]
        if state["policy"] is not None:
            width = state["policy"]["weight"].shape[1]
            like = torch.zeros(1, len(self.names), width, device=device)
            self._build(like).load_state_dict(state["policy"])
            assert self.optimizer is not None
            self.optimizer.load_state_dict(state["optimizer"])


def bernoulli_entropy(z: Tensor) -> Tensor:
    """Σ_k H(σ(z_k)) in bits; [B]. Written in z: the derivative stays finite where σ(z) reaches 0 or 1."""
    return (F.softplus(z) - z * torch.sigmoid(z)).sum(-1) / math.log(2)


def _fixed_view(sample: TrainingSample, student: Tensor, seed: int, epoch: int) -> StepView:
    """The view that a step would have had, where the policy will be."""
    device = default_device()
    return StepView(
        rows=sample.keys.to(device),
        labels=sample.labels.to(device),
        student=student.to(device),
        pooled=None,
        teachers=sample.teachers.to(device),
        progress=0.0,
        epoch=epoch,
        step=0,
        seed=seed,
        vectors=None if sample.vectors is None else sample.vectors.to(device),
    )
