"""Response knowledge: the teachers' outputs (Hinton et al., 2015; AKSKD's ResK)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.options import AboveZero
from distilect.signals import TeacherSignals

_IMPOSSIBLE = -1e4  # exp of it is 0 in float32, so that clamping at it changes no other value


def response_kl(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher_T ‖ student_T), summed over classes: 0 exactly when the two agree.

    T² keeps the gradient's size independent of T, so that alpha means the same at every temperature.

    Args:
        student: logits [B, C].
        teachers: logits [B, K, C].
        temperature: T, applied on both sides.

    Returns:
        float32 [B, K], per row and teacher.
    """
    # a class that a teacher rules out (logit -inf) counts 0, as p·log p does in the limit; -inf itself would give NaN
    log_p = F.log_softmax(teachers.float() / temperature, dim=-1).clamp_min(_IMPOSSIBLE)
    log_q = F.log_softmax(student.float() / temperature, dim=-1).unsqueeze(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


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


def response_mse(student: Tensor, teachers: Tensor) -> Tensor:
    """Mean over outputs of the squared difference of logits [B, C] and [B, K, C]; float32 [B, K]."""
    return ((student.float().unsqueeze(1) - teachers.float()) ** 2).mean(-1)


class Response(Knowledge):
    """T² · KL between softened outputs, the mean of the labels' binary KLs in a multi-label task; squared difference of logits as
    an option, and always in regression.

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
        distance: Literal["kl", "mse"] = Field(
            "kl", description="mse: of raw logits, the default of DynamicKD's released code; always mse in regression"
        )

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
        if self.layout.multi_label:
            return response_binary_kl(student, teachers, self.temperature)
        return response_kl(student, teachers, self.temperature)
