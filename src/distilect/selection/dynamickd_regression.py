"""Counterparts of DynamicKD's uncertainty in regression, which has no class probabilities (ours; the paper has none).

Arms 1 and 3 decide after the teachers were asked, by d = |student - mean of the teachers| as u = d / (d + median d). Arm 2 decides
before, by the spread over dropout passes, which classification can use too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distilect.errors import MethodError
from distilect.selection.uncertainty_memory import Recent, Scores, quantiles
from distilect.selection.view import Passes, Probe, StepView, TrainingSample

RECENT = 512  # rows whose median distance is u = 1/2 in arm 3


def distance(student: Tensor, teachers: Tensor) -> Tensor:
    """|student - mean over teachers| of the scores; [B, 1], [B, K, 1] → float32 [B], detached. 0 where no teacher was asked."""
    return (student.detach().float() - teachers.float().mean(1)).abs().squeeze(-1).nan_to_num()


def relative(distances: Tensor, median: Tensor) -> Tensor:
    """u = d / (d + median d): a distance on the scale of uncertainty, 1/2 where it is the median; float32 [B]."""
    return distances / (distances + median.to(distances).clamp_min(torch.finfo(torch.float32).tiny))


def spread(logits: Tensor, multi_label: bool = False) -> Tensor:
    """Standard deviation over dropout passes of the probabilities (of the score, in regression), mean over outputs.

    Args:
        logits: [P, B, C] of P passes.

    Returns:
        float32 [B], detached.

    Raises:
        MethodError: all passes agree.
    """
    values = logits.detach().float()
    if multi_label:
        values = values.sigmoid()
    elif values.shape[-1] > 1:
        values = values.softmax(-1)
    found = values.std(0, unbiased=False).mean(-1)
    if len(found) and not bool(found.any()):
        raise MethodError(
            "row selector 'uncertainty': all dropout passes agree, as the student has no dropout: set train.dropout above 0, "
            "or another score"
        )
    return found


def distance_of(view: StepView) -> Tensor:
    """float32 [B], of the rows of a step."""
    assert view.teachers is not None, "teacher selectors decide after the teachers were asked"
    return distance(view.student, view.teachers)


def first_distances(probe: Probe, sample: TrainingSample, passes: Passes) -> Scores:
    """The distances of the rows of a sample before any step."""
    student = probe.run(sample.keys, passes)[0]
    return Scores(sample.keys, distance(student, sample.teachers.to(student.device)))


class RecentDistances:
    """u of each row in arm 3: its distance against the median of the last rows that asked, up to the step before."""

    def __init__(self) -> None:
        self.memory = Recent(RECENT)

    def u(self, view: StepView) -> Tensor:
        """float32 [B]; remembers the distances of the rows that asked."""
        if view.teachers is None:  # no row of this batch asked: only labels weigh, whatever u
            return torch.full((len(view.keys),), 0.5, device=view.keys.device)
        asked = ~view.teachers.isnan().any(-1).any(-1)  # [B, K, 1] → [B]
        distances = distance_of(view)
        self.memory.buffer.add(Scores(view.keys[asked], distances[asked]))
        known = self.memory.values if len(self.memory.values) else distances[asked]  # the first step: its own rows
        return relative(distances, quantiles(known, [0.5]))

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state)
