"""Feature knowledge: hidden states of mapped layers (FitNets; Patient KD, Sun et al., 2019; AKSKD's FeaK)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.knowledge.layers import Projections, check_same_tokens, mapped_layers
from distilect.signals import TeacherSignals


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over real tokens and width; [B, T, H], [B, T, H], bool [B, T] → [B]. No token: 0."""
    per_token = ((student - teacher) ** 2).mean(-1)  # [B, T]
    return (per_token * mask).sum(1) / mask.sum(1).clamp_min(1)


class Feature(Knowledge):
    """Squared distance between mapped hidden states, mean over layers.

    Where widths differ, a trained linear map takes the student's states to the teacher's width. Of words the states at each word are
    compared, whatever `tokens` is.
    Sibling: `relation` compares how layers relate to each other.
    Example: `knowledge: {labels: {}, response: {}, feature: {tokens: cls, normalize: true}}`.
    """

    name = "feature"
    summary = "hidden states of mapped layers: MSE over tokens, or of the classification token"

    class Options(Part):
        """Of `knowledge: {feature: {…}}`."""

        tokens: Literal["all", "cls", "mean"] = Field(
            "all",
            description="all real tokens (the teacher needs the student's tokenizer), the classification token (cls; Patient KD), "
            "or the mean over real tokens",
        )
        normalize: bool = Field(
            False,
            description="scale each vector to length 1 and sum over the width instead of averaging (Patient KD): the distance "
            "lies in [0, 4] whatever the width",
        )
        embeddings: bool = Field(False, description="the embeddings too, as a pair of layers (TinyBERT)")
        layers: list[list[int]] | None = Field(
            None, description="[student, teacher] pairs, counted from 1; default: evenly spaced, last to last"
        )

    options: Options

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        tokens, layers = self.options.tokens, self.options.layers
        first = [(0, 0)] if self.options.embeddings else []
        self.pairs = [first + mapped_layers(layout, k, layers) for k in range(layout.num_teachers)]
        if tokens == "all":
            check_same_tokens(layout, "feature", "set tokens: cls or tokens: mean")
        self.prefix = {"all": "hidden", "cls": "cls", "mean": "mean"}[tokens]
        if layout.words:  # a unit is a word: its own state
            self.prefix = "cls"
        self.projections = Projections(layout)

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        return [f"{self.prefix}.{layer}" for _, layer in self.pairs[teacher]]

    def needs_hidden(self) -> bool:
        return True

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        per_teacher = []
        for k, pairs in enumerate(self.pairs):
            layers = [self._distance(student, teachers, k, s, t) for s, t in pairs]
            per_teacher.append(torch.stack(layers).mean(0))
        return torch.stack(per_teacher, dim=1)  # [B, K]

    def _distance(self, student: StudentOutputs, teachers: TeacherSignals, k: int, s: int, t: int) -> Tensor:
        """[B]: one pair of layers."""
        target = teachers.fields[k][f"{self.prefix}.{t}"].float()
        if self.prefix == "hidden":
            states, mask = student.tokens(s), student.token_mask()
            longest = min(states.shape[1], target.shape[1])  # the longest real row fits in either
            states, mask, target = states[:, :longest], mask[:, :longest], target[:, :longest]
        else:
            states = (student.at_cls(s) if self.prefix == "cls" else student.mean(s)).unsqueeze(1)
            target, mask = target.unsqueeze(1), torch.ones_like(states[..., 0], dtype=torch.bool)
        states = self.projections(states, k).float()
        if self.options.normalize:
            width = target.shape[-1]
            states, target = F.normalize(states, dim=-1, eps=1e-6), F.normalize(target, dim=-1, eps=1e-6)
            return width * masked_mse(states, target, mask)
        return masked_mse(states, target, mask)
