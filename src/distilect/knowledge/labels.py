"""Label knowledge: the gold labels of the table (AKSKD's FinK)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.knowledge.base import Knowledge, StudentOutputs
from distilect.signals import TeacherSignals


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """-log p(y) per row in float32 [B]; `logits` [B, C], `labels` int [B]; 0 where the label is -100.

    Args:
        weights: of the classes, [C].
        smoothing: share of the target that is spread evenly over the classes.
    """
    return F.cross_entropy(
        logits.float(), labels.long(), weights, reduction="none", ignore_index=-100, label_smoothing=smoothing
    )


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

    With class weights w and label smoothing ε (`train.class_weights`, `train.label_smoothing`) a row of class y costs
    -(1 - ε) w_y log p_y - ε/C Σ_c w_c log p_c, as `torch.nn.functional.cross_entropy` defines it, before any reduction.

    Example: `knowledge: {labels: {}}`.
    """

    name = "labels"
    summary = "gold labels: cross-entropy; squared error in regression; binary cross-entropy per label in multi-label"
    asks_teachers = False

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        if not (self.layout.class_weights or self.layout.label_smoothing):
            return label_loss(student.logits, labels)
        weights = student.logits.new_tensor(self.layout.class_weights) if self.layout.class_weights else None
        return cross_entropy(student.logits, labels, weights, self.layout.label_smoothing)
