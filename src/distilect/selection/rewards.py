"""What rewards of a student's outputs are made of: a score on labelled rows, and running moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.knowledge.labels import label_loss
from distilect.tasks import has_label, micro_f1, of_candidates

_LEAST = 1e-30  # of a weight, whose logarithm stays finite

Response = Callable[[Tensor, Tensor], Tensor]  # student logits [B, C], teacher logits [B, K, C] → [B, K]


def correctness(logits: Tensor, labels: Tensor) -> float:
    """Share of labelled rows whose best class is the label; R² in regression, micro-F1 in multi-label. 0 without labels."""
    if labels.ndim == 2:
        rows = has_label(labels)
        return micro_f1(logits[rows].double().cpu().numpy(), (labels[rows] == 1).cpu().numpy())
    if labels.is_floating_point():
        known = ~torch.isnan(labels)
        scores, gold = logits[known, 0].double(), labels[known].double()
        spread = ((gold - gold.mean()) ** 2).sum() if len(gold) else torch.zeros(())
        return float(1 - ((scores - gold) ** 2).sum() / spread) if spread > 0 else 0.0
    known = labels >= 0
    if of_candidates(labels):  # the class of all other tokens is none
        logits = logits[:, :2]
    return float((logits[known].argmax(-1) == labels[known]).double().mean()) if known.any() else 0.0


def mixture_loss(weights: Tensor, teachers: Tensor, labels: Tensor) -> Tensor:
    """Label loss of the weighted teachers' mean output, -log Σ_k w_k p_k(y); float [n], 0 without a label.

    Multi-label: the mean of the labels' binary cross-entropies; regression: squared error.

    Args:
        weights: [n, K], which sum to 1; teachers: logits [n, K, C]; labels: [n] or [n, C].
    """
    teachers = teachers.to(weights)
    if labels.is_floating_point():
        return label_loss((weights.unsqueeze(2) * teachers).sum(1), labels)
    log_w = weights.clamp_min(_LEAST).log().unsqueeze(2)
    if labels.ndim == 2:
        having, lacking = (
            torch.logsumexp(log_w + F.logsigmoid(sign * teachers).clamp_min(-50.0), dim=1) for sign in (1, -1)
        )
        return label_loss(having - lacking, labels)
    mixed = torch.logsumexp(log_w + teachers.log_softmax(-1).clamp_min(-50.0), dim=1)  # [n, C], sums to 1
    return label_loss(mixed, labels)


class Moments:
    """Running mean and variance over about the last `window` values; double precision."""

    def __init__(self, window: int = 2000) -> None:
        self.window, self.seen, self.mean, self.square = window, 0, 0.0, 0.0

    @property
    def std(self) -> float:
        return max(self.square - self.mean**2, 0.0) ** 0.5

    def add(self, values: Tensor) -> None:
        """Take in float [n]; the first call counts fully, later ones by their share of the window."""
        if not len(values):
            return
        self.seen += len(values)
        share = min(1.0, len(values) / min(self.seen, self.window))
        values = values.double()
        self.mean += share * (float(values.mean()) - self.mean)
        self.square += share * (float((values**2).mean()) - self.square)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.mean, self.square = int(state["seen"]), float(state["mean"]), float(state["square"])
