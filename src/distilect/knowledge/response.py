"""Response knowledge: the teachers' outputs (Hinton et al., 2015; AKSKD's ResK)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.options import AboveZero
from distilect.signals import TeacherSignals

Distance = Literal["kl", "reverse-kl", "js", "skew-kl", "skew-reverse-kl", "todi", "mse"]

_IMPOSSIBLE = -1e4  # exp of it is 0 in float32, so that clamping at it changes no other value
_FLOOR = math.log(torch.finfo(torch.float32).tiny)  # -87.3
_MIXTURES = {"js": 0.5, "skew-kl": 0.1, "skew-reverse-kl": 0.1}  # defaults of TRL and DistiLLM


def response_kl(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher_T ‖ student_T), summed over classes: 0 exactly when the two agree.

    T² keeps the gradient's size independent of T, so that alpha means the same at every temperature.

    Args:
        student: logits [B, C]; -inf: the class does not exist on this row.
        teachers: logits [B, K, C].
        temperature: T, applied on both sides.

    Returns:
        float32 [B, K], per row and teacher.
    """
    log_p, log_q = _log_probabilities(student, teachers, temperature)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def response_divergence(student: Tensor, teachers: Tensor, temperature: float, distance: str, mixture: float) -> Tensor:
    """T² · D(teacher_T, student_T): as `response_kl`, for the other divergences; float32 [B, K]."""
    log_p, log_q = _log_probabilities(student, teachers, temperature)
    return temperature**2 * divergence(log_p, log_q, distance, mixture)


def divergence(log_p: Tensor, log_q: Tensor, distance: str, mixture: float) -> Tensor:
    """How far q (the student) is from p (a teacher), summed over classes; 0 exactly when they agree, and never below.

    `reverse-kl` KL(q ‖ p) · `js` β·KL(p ‖ m) + (1 − β)·KL(q ‖ m) with m = βp + (1 − β)q (GKD, Agarwal et al., 2024, eq. 1;
    TRL's and Liger's `beta`) · `skew-kl` KL(p ‖ λp + (1 − λ)q) and `skew-reverse-kl` KL(q ‖ λq + (1 − λ)p) (DistiLLM, Ko et al., 2024) ·
    `todi` Σ_c w·p·log(p/q) + (1 − w)·q·log(q/p) with w = σ(log p/q), a constant of the gradient (ToDi, Jung et al., 2025, eq. 8).

    Args:
        log_p, log_q: finite log-probabilities [..., C] that broadcast.
        mixture: β or λ.
    """
    # log(q/p) is infinite where p is 0: there p counts as the smallest float32 number
    floored = log_p.clamp_min(_FLOOR)
    if distance == "reverse-kl":
        return _kl(log_q, floored)
    if distance == "js":
        mixed = _mixed(log_p, log_q, mixture)
        return mixture * _kl(log_p, mixed) + (1 - mixture) * _kl(log_q, mixed)
    if distance == "skew-kl":
        return _kl(log_p, _mixed(log_p, log_q, mixture))
    if distance == "skew-reverse-kl":
        return _kl(log_q, _mixed(log_q, log_p, mixture))
    weight = torch.sigmoid(log_p - log_q).detach()
    return (weight * log_p.exp() * (log_p - log_q) + (1 - weight) * log_q.exp() * (log_q - floored)).sum(-1)


def _log_probabilities(student: Tensor, teachers: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p [B, K, C] and log q [B, 1, C] of softened outputs, finite."""
    # a class that a teacher rules out (logit -inf) counts 0, as p·log p does in the limit; -inf itself would give NaN
    log_p = F.log_softmax(teachers.float() / temperature, dim=-1).clamp_min(_IMPOSSIBLE)
    log_q = F.log_softmax(student.float() / temperature, dim=-1).unsqueeze(1)
    return log_p, log_q.masked_fill(log_q == -torch.inf, _IMPOSSIBLE)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q), summed over the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share · exp(first) + (1 − share) · exp(second))."""
    return torch.logaddexp(first + math.log(share), second + math.log(1 - share))


def response_binary_kl(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² / C · Σ_c KL(Bernoulli(σ(t_c / T)) ‖ Bernoulli(σ(z_c / T))): as `response_kl`, for a sigmoid per label.

    The mean over labels gives it the size of label knowledge, the labels' mean binary cross-entropy.

    Args:
        student: logits z [B, C].
        teachers: logits t [B, K, C].
        temperature: T, applied on both sides.

    Returns:
        float32 [B, K], per row and teacher; 0 exactly when the two agree on every label.
    """
    t, z = teachers.float() / temperature, (student.float() / temperature).unsqueeze(1)
    p = torch.sigmoid(t)
    having = p * (F.logsigmoid(t) - F.logsigmoid(z))
    lacking = (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-z))
    return temperature**2 * (having + lacking).mean(-1)


def response_binary_divergence(
    student: Tensor, teachers: Tensor, temperature: float, distance: str, mixture: float
) -> Tensor:
    """As `response_binary_kl`, for the other divergences: T² times the mean over labels of D between two classes, yes and no."""
    z, t = student.float().unsqueeze(1) / temperature, teachers.float() / temperature
    log_p, log_q = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], -1).clamp_min(_IMPOSSIBLE) for x in (t, z))
    return temperature**2 * divergence(log_p, log_q, distance, mixture).mean(-1)


def response_mse(student: Tensor, teachers: Tensor) -> Tensor:
    """Mean over outputs of the squared difference of logits [B, C] and [B, K, C]; float32 [B, K]."""
    return ((student.float().unsqueeze(1) - teachers.float()) ** 2).mean(-1)


class Response(Knowledge):
    """T² · KL between softened outputs, the mean of the labels' binary KLs in a multi-label task; as options another divergence, or the
    squared difference of logits, as always in regression.

    Every divergence has the one scale T² · D per unit. Compare their strengths by `loss_weights` or alpha: near agreement the gradient of
    `js` is β(1 − β) times that of `kl`, that of `skew-kl` and `skew-reverse-kl` (1 − λ)² times, that of `reverse-kl` the same, that of `todi` 1.5 times.

    Annealed (Annealing-KD; Jafari et al., 2021, arXiv 2104.07163) the target is soft at first and sharp in the end.
    Example: `knowledge: {response: {temperature: 4}}`, `{temperature: 4, final_temperature: 1}`.
    """

    name = "response"
    summary = "teachers' outputs: T²·KL of softened probabilities, or MSE of logits"

    class Options(Part):
        """Of `knowledge: {response: {…}}`."""

        temperature: AboveZero = Field(
            4.0, description="T of both sides; without effect on `mse`, so in any regression"
        )
        final_temperature: AboveZero | None = Field(
            None,
            description="T moves from `temperature` to this one, linearly over training (Annealing-KD); default: it stays",
        )
        distance: Distance = Field(
            "kl",
            description="kl: of teacher to student; js: Jensen-Shannon (GKD); skew-kl, skew-reverse-kl: DistiLLM; todi: kl and reverse-kl "
            "mixed class by class; mse: of raw logits, the default of DynamicKD's released code; always mse in regression",
        )
        mixture: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
            None,
            description="js: β, the teacher's share of the mixture (default 0.5; TRL's `beta`); skew-kl and skew-reverse-kl: λ, the share "
            "of their first distribution (default 0.1)",
        )

        @model_validator(mode="after")
        def _mixture_has_an_effect(self) -> Response.Options:
            if self.mixture is not None and self.distance not in _MIXTURES:
                raise ValueError(
                    f"mixture belongs to distance: {', '.join(_MIXTURES)}; distance is {self.distance}: leave it out"
                )
            return self

    options: Options

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        self.distance = "mse" if layout.regression else self.options.distance
        self.temperature = self.options.temperature

    def begin_step(self, progress: float) -> None:
        first, last = self.options.temperature, self.options.final_temperature
        if last is not None:
            self.temperature = first + (last - first) * progress

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        return self.distance_to(student.logits, teachers.logits)

    def distance_to(self, student: Tensor, teachers: Tensor) -> Tensor:
        """The loss itself: logits [B, C] and [B, K, C] → float32 [B, K]."""
        if self.distance == "mse":
            return response_mse(student, teachers)
        if self.distance == "kl":
            kl = response_binary_kl if self.layout.multi_label else response_kl
            return kl(student, teachers, self.temperature)
        mixture = self.options.mixture or _MIXTURES.get(self.distance, 0.0)
        other = response_binary_divergence if self.layout.multi_label else response_divergence
        return other(student, teachers, self.temperature, self.distance, mixture)


class Divergence(Response):
    """`response` once more, by another divergence: loss weights choose between the two, as AKSKD's actor-critic.

    Example: `method: {name: akskd, knowledge: {relation: false, divergence: {distance: js}}}`.
    """

    name = "divergence"
    summary = "response by a second divergence, such as reverse KL, with a loss weight of its own"

    class Options(Response.Options):
        """Of `knowledge: {divergence: {…}}`."""

        distance: Distance = Field("reverse-kl", description="as of response")

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        if layout.regression:
            raise ValueError(
                "a regression has no distributions to compare, its response is a squared error: leave it out"
            )
