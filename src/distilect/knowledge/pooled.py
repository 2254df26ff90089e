"""Pooled knowledge: the direction of a row's vector (DistilBERT's cosine loss, on one vector per row)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.knowledge.layers import Projections, mapped_layers
from distilect.signals import TeacherSignals


class Pooled(Knowledge):
    """1 - cosine similarity of the last layers' pooled vectors; in [0, 2]. Any tokenizer will do.

    Where widths differ, a trained linear map takes the student's vector to the teacher's width.
    Example: `knowledge: {labels: {}, response: {}, pooled: {pooling: mean}}`.
    """

    name = "pooled"
    summary = "the direction of the last layer's pooled vector: 1 - cosine"

    class Options(Part):
        """Of `knowledge: {pooled: {…}}`."""

        pooling: Literal["cls", "mean"] = Field(
            "cls", description="the classification token, or the mean over real tokens"
        )

    options: Options

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        self.pairs = [mapped_layers(layout, k, None)[-1] for k in range(layout.num_teachers)]
        self.projections = Projections(layout)

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        return [f"{self.options.pooling}.{self.pairs[teacher][1]}"]

    def needs_hidden(self) -> bool:
        return True

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        per_teacher = []
        for k, (s, t) in enumerate(self.pairs):
            ours = student.at_cls(s) if self.options.pooling == "cls" else student.mean(s)
            theirs = teachers.fields[k][f"{self.options.pooling}.{t}"].float()
            per_teacher.append(1 - F.cosine_similarity(self.projections(ours, k).float(), theirs, dim=-1, eps=1e-6))
        return torch.stack(per_teacher, dim=1)  # [B, K]
