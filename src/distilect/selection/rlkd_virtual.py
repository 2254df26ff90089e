"""RL-KD with virtual steps: ours, not the paper's.

A real step moves the student by 32 or 64 rows at once, so a row's reward says little about its own teachers. Here the row's
logits alone take the step that its teachers ask for. The effect of the choice then stands alone, and no forward pass is needed.

Two rewards are known for all teachers at once, so that no action need be drawn: the credit of each teacher (`credit.py`), which rows without
a label have too, and the likelihood of the label under the weighted teachers.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.models import default_device
from distilect.options import AboveZero, Count, Share, Whole
from distilect.selection.credit import Credit, CreditOptions
from distilect.selection.rewards import Response, mixture_loss
from distilect.selection.rlkd import ReinforcedTeachers, bernoulli_entropy
from distilect.selection.static import teacher_logits
from distilect.selection.teacher_state import Decisions, predictions
from distilect.selection.view import Probe, SelectionContext, StepView, TrainingSample
from distilect.tasks import has_label

ENTROPY_BONUS = 0.1  # weight of the policy's entropy in its objective; without it the policy decides too early
LEAST_WEIGHT = 1e-6  # of a teacher, before scaling: where all σ(z) vanish, teachers weigh equally


@functools.cache  # it is asked in every step
def curvature(response: Response, outputs: int) -> float:
    """The largest second derivative L of a response loss along a unit direction of the logits.

    It is found by differentiating twice where it is largest, between two outputs that tie while the others are far below. T²·KL has
    the Hessian diag(q) - qqᵀ, so L = ½ whatever T and C; a mean squared error has L = 2 / C everywhere.

    Args:
        outputs: C.
    """
    direction = torch.tensor([[1.0, -1.0] + [0.0] * (outputs - 2)]) / 2**0.5 if outputs > 1 else torch.ones(1, 1)
    tied = torch.full((1, outputs), -1e4)
    tied[:, :2] = 0.0
    with torch.enable_grad():
        tied.requires_grad_()
        (slope,) = torch.autograd.grad(response(tied, torch.zeros(1, 1, outputs)).sum(), tied, create_graph=True)
        (second,) = torch.autograd.grad((slope * direction).sum(), tied)
    return round(float((second * direction).sum()), 6)


def virtual_step(student: Tensor, teachers: Tensor, weights: Tensor, response: Response, size: float) -> Tensor:
    """The student's logits after one step of its own on each row's distillation loss, taken in the logits themselves.

    z' = z - size / L · ∂/∂z Σ_k w_k · response_k(z), with the loss's `curvature` L: what believing these teachers would do to the row
    if its outputs could move alone. It holds no noise from other rows.

    L makes `size` mean the same for every loss. The gradient of a loss with curvature L changes by at most L times the distance, so
    a step of size 1 is the longest that overshoots nowhere: in regression it lands on the believed score Σ w_k t_k, z' = z -
    size · (z - Σ w_k t_k); with T²·KL it is z' = z - 2 · size · T · (q_T - p_T), at most the way to the believed outputs.

    Args:
        student: [B, C]; teachers: [B, K, C]; weights: [B, K], which sum to 1.

    Returns:
        float32 [B, C].
    """
    with torch.enable_grad():
        start = student.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad((weights * response(start, teachers)).sum(), start)
    return start.detach() - size / curvature(response, student.shape[-1]) * gradient


def executed_log_probability(z: Tensor, actions: Tensor, likeliest: Tensor) -> Tensor:
    """log of the probability that a row's teachers came to be chosen, the fallback included; [B].

    A row that selects only its most probable teacher k may have drawn it, or have drawn nobody and fallen back on it:
    σ(z_k) Π(1 - σ(z_j)) + (1 - σ(z_k)) Π(1 - σ(z_j)) = Π_{j ≠ k} (1 - σ(z_j)). The plain log π reinforces the
    fallback as if it had been a draw.

    Args:
        likeliest: bool [B, K], one-hot: the teacher to fall back on when the policy acted. By now another one may be likelier, and
            draws broke ties.
    """
    alone = (actions == likeliest).all(1, keepdim=True) & likeliest
    per_teacher = -F.binary_cross_entropy_with_logits(z, actions.to(z), reduction="none")
    return per_teacher.masked_fill(alone, 0.0).sum(-1)


class VirtualReinforcedTeachers(ReinforcedTeachers):
    """RL-KD's teacher selector with rewards of virtual steps, and what was found to go well with them.

    Other than in `reinforced`:

    - The reward is what the row gains over a virtual step towards all teachers alike.
    - Teachers weigh by σ(z); actions are drawn for learning only.
    - The probability that is reinforced counts the fallback (`executed_log_probability`).
    - The policy's warm-up draws actions anew in each pass and takes virtual steps.
    - The state holds each teacher's entropy.
    - The policy has weight decay and an entropy bonus.
    """

    name = "reinforced-virtual"
    entropy = True
    weight_decay = 0.1

    class Options(ReinforcedTeachers.Options):
        """Of `teachers: {name: reinforced-virtual, …}`."""

        reward: Literal[1, 2, "alignment", "likelihood"] = Field(  # type: ignore[assignment]
            1,
            description="1: -CE; 2: -CE - mean KD loss; alignment: each teacher's credit, the first-order effect of learning from it on the "
            "loss of the row's label, or of labelled rows around a row without one; likelihood: log of the label's probability under the weighted "
            "teachers. The last two are known for all teachers, so that no action is drawn to learn from. (The score of reward 3 would be "
            "the same for every action.)",
        )
        share: Share = Field(
            1.0, description="share of a batch's labelled rows that the policy learns from, drawn by row"
        )
        batch_size: Count = Field(128, description="decisions per update of the policy")
        update_every: Literal["epoch"] | Count = Field(
            "epoch",
            description="optimiser steps between two updates of the policy, or epoch; decisions wait in memory until then",
        )
        warmup_epochs: Whole = Field(0, description="epochs in which the student learns from all teachers alike")
        policy_rows: Whole = Field(
            4096, description="labelled rows, at most, of the policy's own warm-up; 0: no warm-up"
        )
        step_size: AboveZero = Field(
            1.0,
            description="of the virtual step, in the logits: 1 is the longest one that overshoots nowhere; in regression it lands on "
            "the score that the selected teachers say",
        )
        policy_updates: Count = Field(2000, description="of the policy in its warm-up, rounded up to whole passes")

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.credit: Credit | None = None
        self.trust = 0.0  # of credit by the labels around a row
        if self.options.reward == "alignment":
            self._measure_credit()

    def _measure_credit(self) -> None:
        encoder = self.options.encoder
        if encoder in (None, "student"):
            raise ValueError(f"reward: alignment needs a frozen encoder, got encoder: {encoder}: set encoder: backbone")
        self.credit = Credit(CreditOptions(encoder=str(encoder), pooling=self.options.pooling))
        self.needs = replace(self.needs, credit=self.credit.needs.credit)
        self.needs_labels = False

    def setup(self, context: SelectionContext) -> None:
        super().setup(context)
        if self.credit is not None:
            self.credit.setup(context)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.credit is not None and self.credit.begin_epoch(probe, epoch):
            self.trust = self.credit.trust()
        super().begin_epoch(probe, epoch)

    def act(self, view: StepView) -> tuple[Decisions, Tensor, Tensor]:
        decisions, z, empty = super().act(view)
        if self.credit is not None:
            outputs = predictions(teacher_logits(view), view.multi_label)
            decisions = replace(decisions, credit=self.credit.of_outputs(view, outputs, own=True).float())
        return decisions, z, empty

    @property
    def learns_ahead(self) -> bool:  # type: ignore[override]
        return self.options.policy_rows > 0 and self.options.encoder != "student"

    def weights(self, z: Tensor, actions: Tensor) -> Tensor:
        return torch.sigmoid(z).clamp_min(LEAST_WEIGHT)

    def measure(self, decisions: Decisions, probe: Probe) -> Tensor:
        """[n]: the reward of a virtual step towards the selected teachers minus that of one towards all of them.

        Of the exact rewards, for the log: what the weighted teachers gain over all of them.
        """
        if isinstance(self.options.reward, str):
            with torch.no_grad():
                shares = self.shares(self.policy_for(decisions.state)(decisions.state))
            return self.exact(shares, decisions) - self.exact(torch.full_like(shares, 1 / shares.shape[1]), decisions)
        selected = self._step(decisions, decisions.actions.float())
        with_all = self._step(decisions, torch.ones_like(decisions.actions).float())
        return self.reward(selected, decisions) - self.reward(with_all, decisions)

    def _step(self, decisions: Decisions, mask: Tensor) -> Tensor:
        weights = mask / mask.sum(1, keepdim=True)
        size = self.options.step_size
        if decisions.labels.ndim == 2:  # the response of a multi-label task is a mean over labels
            size *= decisions.labels.shape[1]
        return virtual_step(decisions.student, decisions.teachers, weights, self.response, size)

    def shares(self, z: Tensor) -> Tensor:
        """float32 [n, K]: the weights that a policy with these z gives, which sum to 1."""
        found = self.weights(z, z)
        return found / found.sum(1, keepdim=True)

    def exact(self, shares: Tensor, decisions: Decisions) -> Tensor:
        """[n]: the expected reward of teachers with these weights [n, K], where it is known for all of them."""
        if self.options.reward == "likelihood":
            return -mixture_loss(shares, decisions.teachers, decisions.labels)
        return (shares * decisions.credit).sum(1)

    def objective(self, z: Tensor, decisions: Decisions, advantage: Tensor) -> Tensor:
        if isinstance(self.options.reward, str):
            return self.exact_objective(z, decisions)
        executed = executed_log_probability(z, decisions.actions, decisions.likeliest)
        reinforced = (advantage * executed).mean()
        return reinforced + ENTROPY_BONUS * bernoulli_entropy(z).mean()

    def exact_objective(self, z: Tensor, decisions: Decisions) -> Tensor:
        """The expected reward itself, which is differentiable in z.

        Of the likelihood the mean. Of the credit, which is linear in the weights and would make every choice certain, with the entropy
        bonus. A labelled row has the credit of its own label, others that of the labelled rows around them. Each kind of rows counts in
        its own standard deviations; however many rows without labels there are, they count as `Credit.trust` says.
        """
        if self.options.reward == "likelihood":
            return self.exact(self.shares(z), decisions).mean()
        centred, known = decisions.credit - decisions.credit.mean(1, keepdim=True), has_label(decisions.labels)
        expected = (self.shares(z) * centred).sum(1)
        gain, total = z.new_zeros(()), 0.0
        for rows, share in ((known, 1.0), (~known, self.trust)):
            if int(rows.sum()) > 1 and share > 0:
                gain = gain + share * expected[rows].mean() / centred[rows].std().clamp_min(1e-8)
                total += share
        return gain / max(total, 1e-8) + ENTROPY_BONUS * bernoulli_entropy(z).mean()

    def state_dict(self) -> dict[str, Any]:
        own = {} if self.credit is None else {"credit": self.credit.state_dict(), "trust": self.trust}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.credit is not None:
            self.credit.load_state_dict(state["credit"])
            self.trust = float(state["trust"])

    def warm_up(self, sample: TrainingSample, probe: Probe) -> None:
        """The policy learns with the student fixed: passes with sampled actions and virtual steps."""
        student, passes, last = probe.logits(sample.keys), 0, self.updates + self.options.policy_updates
        while self.updates < last:
            passes += 1  # their draws are those of epochs before the first
            view = sample.view(student, self.seed, epoch=-passes, device=default_device())
            decisions, _, _ = self.act(view)
            decisions.reward = self.measure(decisions, probe)
            self.update(decisions)
