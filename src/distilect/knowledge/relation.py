"""Relation knowledge: how layers relate to each other (FSP), and how rows relate to each other (AKSKD's RelK)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.knowledge.layers import Projections, check_same_tokens, mapped_layers
from distilect.options import Count
from distilect.signals import TeacherSignals


def fsp_matrix(lower: Tensor, upper: Tensor, mask: Tensor) -> Tensor:
    """Flow of solution procedure, G = H_mᵀ H_{m+1} / n_tokens (Yim et al., 2017); [B, T, H] twice → [B, H, H]."""
    weight = mask / mask.sum(1, keepdim=True).clamp_min(1)  # [B, T], 0 on padding
    return (lower * weight.unsqueeze(-1)).transpose(1, 2) @ upper


class Relation(Knowledge):
    """Squared difference of FSP matrices of neighbouring mapped layers, mean over pairs of layers.

    AKSKD names the FSP matrix; tokens, scaling and pairs are a reconstruction (PAPERS.md 2.2).

    Layers are mapped evenly; at least two pairs are needed.

    Example: `knowledge: {relation: {dim: 64}}`.
    """

    name = "relation"
    per_row = True
    summary = "flow between neighbouring layers: MSE of FSP matrices"

    class Options(Part):
        """Of `knowledge: {relation: {…}}`."""

        dim: Count | None = Field(
            64,
            description="width that one fixed random map projects both models to, so that a matrix has dim² entries; null keeps "
            "the full width, H² entries per row",
        )

    options: Options

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        self.pairs = [mapped_layers(layout, k, None) for k in range(layout.num_teachers)]
        if any(len(pairs) < 2 for pairs in self.pairs):
            raise ValueError("FSP matrices relate neighbouring layers: at least two mapped layers are needed, got one")
        check_same_tokens(layout, "relation", "use feature with tokens: cls, or similarity")
        self.projections = Projections(layout)
        for k, width in enumerate(layout.teacher_widths):
            self.register_buffer(f"basis_{k}", _random_basis(width, self.options.dim), persistent=False)

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        return [f"hidden.{layer}" for _, layer in self.pairs[teacher]]

    def needs_hidden(self) -> bool:
        return True

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        per_teacher = [self._distance(student, teachers, k) for k in range(len(self.pairs))]
        return torch.stack(per_teacher, dim=1)  # [B, K]

    def _distance(self, student: StudentOutputs, teachers: TeacherSignals, k: int) -> Tensor:
        """[B]: mean over neighbouring pairs of the mean squared difference of their matrices."""
        basis = getattr(self, f"basis_{k}")
        mask = student.token_mask()
        longest = min(mask.shape[1], teachers.fields[k][f"hidden.{self.pairs[k][0][1]}"].shape[1])
        ours, theirs = [], []
        for s, t in self.pairs[k]:
            ours.append(self.projections(student.tokens(s)[:, :longest], k).float() @ basis)
            theirs.append(teachers.fields[k][f"hidden.{t}"].float()[:, :longest] @ basis)
        mask = mask[:, :longest].float()
        terms = [
            ((fsp_matrix(a, b, mask) - fsp_matrix(c, d, mask)) ** 2).mean((1, 2))
            for a, b, c, d in zip(ours, ours[1:], theirs, theirs[1:], strict=False)
        ]
        return torch.stack(terms).mean(0)


def _random_basis(width: int, dim: int | None) -> Tensor:
    """[H, dim] with orthonormal columns, the same in every process; the identity when nothing is to be gained."""
    if dim is None or dim >= width:
        return torch.eye(width)
    generator = torch.Generator().manual_seed(width * 1_000_003 + dim)
    return torch.linalg.qr(torch.randn(width, dim, generator=generator))[0]


def row_similarity(pooled: Tensor) -> Tensor:
    """Cosine similarities of all pairs of rows; [B, H] → [B, B]."""
    unit = F.normalize(pooled.float(), dim=-1, eps=1e-6)
    return unit @ unit.T


class Similarity(Knowledge):
    """Squared difference of the rows' cosine similarities to the other rows of the batch (Tung and Mori, 2019; RKD).

    A row's value depends on which rows share its batch: unlike every other kind, it changes with batch split and
    accumulation. No projection is needed: [B, B] matrices are compared whatever the widths.

    Example: `knowledge: {similarity: {}}`.
    """

    name = "similarity"
    summary = "how rows of a batch resemble each other: MSE of cosine matrices (depends on the batch)"

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        self.pairs = [mapped_layers(layout, k, None)[-1] for k in range(layout.num_teachers)]

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        return [f"cls.{self.pairs[teacher][1]}"]

    def needs_hidden(self) -> bool:
        return True

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        per_teacher = []
        for k, (s, t) in enumerate(self.pairs):
            ours, theirs = row_similarity(student.at_cls(s)), row_similarity(teachers.fields[k][f"cls.{t}"])
            per_teacher.append(((ours - theirs) ** 2).mean(1))
        return torch.stack(per_teacher, dim=1)  # [B, K]
