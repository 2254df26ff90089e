"""Attention relations: how tokens relate in queries, keys and values of one layer (MiniLMv2, Wang et al., 2021, arXiv 2012.15828)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.base import Knowledge, Layout, StudentOutputs
from distilect.knowledge.layers import check_same_tokens, mapped_layers
from distilect.options import Count
from distilect.signals import TeacherSignals

PARTS = ("query", "key", "value")
_HEAD = 16  # numbers per relation head: MiniLMv2 has 48 heads at width 768, 64 at 1024


def relation_log_probabilities(values: Tensor, mask: Tensor, heads: int) -> Tensor:
    """log softmax(A Aᵀ / √d) per relation head; [B, T, H], bool [B, T] → [B, heads, T, T]. Padding gets probability 0 as a key."""
    batch, tokens, width = values.shape
    split = values.float().view(batch, tokens, heads, width // heads).transpose(1, 2)  # [B, h, T, d]
    scores = split @ split.transpose(2, 3) / math.sqrt(width // heads)
    return scores.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1)


def relation_kl(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """KL(teacher ‖ student) of two relations, mean over heads and real tokens; [B, T, H], [B, T, H'] → [B]."""
    ours, theirs = (relation_log_probabilities(v, mask, heads) for v in (student, teacher))
    per_token = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1).mean(1)  # [B, T]
    return (per_token * mask).sum(1) / mask.sum(1).clamp_min(1)


class Attention(Knowledge):
    """Attention relations of one layer, mean over queries, keys and values. Widths may differ: no projection is needed.

    Queries, keys and values of all attention heads are joined and cut anew into relation heads, so that numbers of heads may differ.

    Needs the student's tokenizer in the teacher, and models that keep the three in linear maps of their own (BERT, RoBERTa, ELECTRA,
    DistilBERT; not ALBERT, XLNet, GPT-2).
    Example: `knowledge: {labels: {}, response: {}, attention: {}}`.
    """

    name = "attention"
    per_row = True
    summary = "how tokens relate in queries, keys and values of the last layer: KL (MiniLMv2)"

    class Options(Part):
        """Of `knowledge: {attention: {…}}`."""

        heads: Count | None = Field(
            None,
            description="relation heads, a divisor of all widths; default: as many as leave 16 numbers each, or the nearest smaller "
            "divisor",
        )
        layer: list[int] | None = Field(
            None,
            description="[student, teacher] layer, counted from 1; default: the last ones (MiniLMv2 takes one of the upper middle "
            "of a large teacher)",
        )

    options: Options

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__(layout, **options)
        heads, layer = self.options.heads, self.options.layer
        pairs = None if layer is None else [layer]
        self.pairs = [mapped_layers(layout, k, pairs)[-1] for k in range(layout.num_teachers)]
        check_same_tokens(layout, "attention", "use pooled or similarity")
        widths = (layout.student_width, *layout.teacher_widths)
        if heads is None:
            whole = math.gcd(*widths)
            heads = max(h for h in range(1, max(1, layout.student_width // _HEAD) + 1) if whole % h == 0)
        if any(width % heads for width in widths):
            raise ValueError(f"heads is {heads}, expected a number that divides the widths {sorted(set(widths))}")
        self.heads = heads

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        return [f"{part}.{self.pairs[teacher][1]}" for part in PARTS]

    def attention_layers(self) -> Sequence[int]:
        return sorted({student for student, _ in self.pairs})

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        assert teachers is not None
        mask, per_teacher = student.token_mask(), []
        for k, (s, t) in enumerate(self.pairs):
            parts = []
            for part in PARTS:
                ours, theirs = student.attention_tokens(f"{part}.{s}"), teachers.fields[k][f"{part}.{t}"]
                longest = min(ours.shape[1], theirs.shape[1])  # the longest real row fits in either
                parts.append(relation_kl(ours[:, :longest], theirs[:, :longest], mask[:, :longest], self.heads))
            per_teacher.append(torch.stack(parts).mean(0))
        return torch.stack(per_teacher, dim=1)  # [B, K]
