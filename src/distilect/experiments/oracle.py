"""The upper bound of every choice of teachers: per row, the teacher nearest to a label that no method may see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from distilect.knowledge.labels import label_loss
from distilect.selection import SelectionContext, StepView, TeacherSelector
from distilect.selection.registry import TEACHERS

ORACLE = "oracle"


class OracleTeachers(TeacherSelector):
    """Per row, the teacher with the lowest loss on the row's true label, also where the student sees none or a wrong one.

    It measures how much a perfect choice would be worth. Only `distilect compare` registers it and gives it the labels.
    """

    name = ORACLE
    truth: ClassVar[Mapping[int, Any]] = {}  # row key → label

    def setup(self, context: SelectionContext) -> None:
        if not self.truth:
            raise ValueError("knows the hidden labels of a comparison's scenario only: expected distilect compare")

    def decide(self, view: StepView) -> Tensor:
        assert view.teachers is not None
        labels = torch.tensor(
            [self.truth[key] for key in view.keys.tolist()], dtype=view.labels.dtype, device=view.student.device
        )
        batch, count = view.teachers.shape[:2]
        losses = label_loss(view.teachers.flatten(0, 1), labels.repeat_interleave(count, dim=0)).view(batch, count)
        return torch.nn.functional.one_hot(losses.argmin(1), count).float()


@contextmanager
def oracle_knows(truth: Mapping[int, Any]) -> Iterator[None]:
    """Register the oracle as a teacher selector that knows `truth`, row key → label, for the length of the block."""
    OracleTeachers.truth = truth
    TEACHERS[ORACLE] = OracleTeachers
    try:
        yield
    finally:
        OracleTeachers.truth = {}
        TEACHERS.pop(ORACLE, None)
