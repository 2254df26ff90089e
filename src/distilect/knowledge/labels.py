"""Label knowledge: the gold labels of the table (AKSKD's FinK)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.knowledge.base import Knowledge, StudentOutputs
from distilect.signals import TeacherSignals


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(y) per row in float32 [B]; `logits` [B, C], `labels` int64 [B]; 0 where the label is -100."""
    return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=-100)


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """(score - y)² per row in float32 [B]; `logits` [B, 1], `labels` float [B]; 0, without gradient, where NaN."""
    known = ~torch.isnan(labels)
    difference = logits.float().squeeze(-1) - labels.nan_to_num()
    return torch.where(known, difference**2, torch.zeros_like(difference))


def binary_cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """-log σ(z) where the row has the label, -log(1 - σ(z)) where not; float32 [B, C].

    Args:
        logits: z, [B, C]; labels: int8 [B, C] of 0 and 1; rows of -100 have no labels, and 0 here, without gradient.
    """
    found = F.binary_cross_entropy_with_logits(logits.float(), labels.clamp_min(0).float(), reduction="none")
    return torch.where(labels >= 0, found, torch.zeros_like(found))


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for integer labels, squared error for float ones, mean binary cross-entropy for labels [B, C]; float32 [B]."""
    if labels.ndim == 2:
        return binary_cross_entropies(logits, labels).mean(-1)
    return squared_error(logits, labels) if labels.is_floating_point() else cross_entropy(logits, labels)


class Labels(Knowledge):
    """Cross-entropy with the gold label, squared error in regression, the mean of the labels' binary cross-entropies in a
    multi-label task; 0 on rows without a label.

    Example: `knowledge: {labels: {}}`.
    """

    name = "labels"
    summary = "gold labels: cross-entropy; squared error in regression; binary cross-entropy per label in multi-label"
    asks_teachers = False

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        return label_loss(student.logits, labels)
