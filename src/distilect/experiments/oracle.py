"""The upper bound of every choice of teachers: per row, the teacher nearest to a label that no method may see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.knowledge.labels import label_loss
from distilect.selection import SelectionContext, StepView, TeacherSelector
from distilect.selection.registry import TEACHERS

ORACLE = "oracle"


class OracleTeachers(TeacherSelector):
    """Per row, the teacher with the lowest loss on the row's true label, also where the student sees none or a wrong one; or the one that
    was fine-tuned on the row's part.

    It measures how much a perfect choice would be worth. Only `distilect compare` registers it and gives it what no method may see.
    Example: `teachers: {name: oracle, by: part}`.
    """

    name = ORACLE
    truth: ClassVar[Mapping[int, Any]] = {}  # row key → label
    experts: ClassVar[Mapping[int, str]] = {}  # row key → teacher

    class Options(Part):
        """Of `teachers: {name: oracle, …}`."""

        by: Literal["label", "part"] = Field("label", description="of the scenario's hidden labels, or of its parts")

    options: Options

    def setup(self, context: SelectionContext) -> None:
        if not self.truth:
            raise ValueError("knows the hidden labels of a comparison's scenario only: expected distilect compare")
        if self.options.by == "part" and not self.experts:
            raise ValueError(
                "by is part, but no teacher learns from a part: set learns: {part: N} and the scenario's parts:"
            )
        self.teachers = {name: k for k, name in enumerate(context.teachers)}

    def decide(self, view: StepView) -> Tensor:
        assert view.teachers is not None
        if self.options.by == "part":
            chosen = torch.tensor([self.teachers[self.experts[key]] for key in view.keys.tolist()])
            return torch.nn.functional.one_hot(chosen, len(self.teachers)).float().to(view.student.device)
        labels = torch.tensor(
            [self.truth[key] for key in view.keys.tolist()], dtype=view.labels.dtype, device=view.student.device
        )
        batch, count = view.teachers.shape[:2]
        losses = label_loss(view.teachers.flatten(0, 1), labels.repeat_interleave(count, dim=0)).view(batch, count)
        return torch.nn.functional.one_hot(losses.argmin(1), count).float()


@contextmanager
def oracle_knows(truth: Mapping[int, Any], experts: Mapping[int, str] = MappingProxyType({})) -> Iterator[None]:
    """Register the oracle as a teacher selector that knows `truth`, row key → label, for the length of the block.

    Args:
        experts: row key → the teacher that was fine-tuned on the row's part.
    """
    OracleTeachers.truth, OracleTeachers.experts = truth, experts
    TEACHERS[ORACLE] = OracleTeachers
    try:
        yield
    finally:
        OracleTeachers.truth, OracleTeachers.experts = {}, {}
        TEACHERS.pop(ORACLE, None)
