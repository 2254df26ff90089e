"""Which student layer learns from which teacher layer, and projections where their widths differ."""

from __future__ import annotations

from torch import Tensor, nn

from distilect.errors import MethodError
from distilect.knowledge.base import Layout
from distilect.models import even_layer_map


def mapped_layers(layout: Layout, teacher: int, pairs: list[list[int]] | None) -> list[tuple[int, int]]:
    """(student layer, teacher layer) pairs as `hidden_states` indexes; 1 is the first layer's output.

    Evenly spaced unless `pairs` are given; the last layers are always paired and the embeddings never.

    Raises:
        MethodError: the teacher has no hidden states, or a pair names a layer that does not exist.
    """
    depth, name = layout.teacher_layers[teacher], layout.teachers[teacher]
    if depth == 0:
        raise MethodError(
            f"teacher {name!r} gives outputs only (a table or a function), no hidden states: "
            "leave out feature and relation knowledge, or take this teacher out of the pool"
        )
    if pairs is None:
        return list(enumerate(even_layer_map(layout.student_layers, depth), start=1))
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise MethodError(f"layers is {pairs}, expected [student layer, teacher layer] pairs, at least one")
    for student_layer, teacher_layer in pairs:
        if not (1 <= student_layer <= layout.student_layers and 1 <= teacher_layer <= depth):
            raise MethodError(
                f"layers: pair [{student_layer}, {teacher_layer}] is out of range; the student has layers "
                f"1..{layout.student_layers}, teacher {name!r} 1..{depth}"
            )
    return [(s, t) for s, t in pairs]


def check_same_tokens(layout: Layout, kind: str, remedy: str) -> None:
    """Refuse token-by-token comparison with a teacher that cuts texts into other tokens.

    Raises:
        MethodError: names the first such teacher and the remedy.
    """
    for name, same in zip(layout.teachers, layout.same_tokens, strict=True):
        if not same:
            raise MethodError(
                f"{kind} compares token by token, but teacher {name!r} has another tokenizer or maximum length than "
                f"the student: {remedy}"
            )


class Projections(nn.Module):
    """Per teacher, a linear map from the student's width to the teacher's; the identity where they are equal.

    They live beside the student: trained with it, saved in checkpoints, never part of the shipped model.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Identity() if width in (0, layout.student_width) else nn.Linear(layout.student_width, width, bias=False)
            for width in layout.teacher_widths
        )

    def forward(self, hidden: Tensor, teacher: int) -> Tensor:
        """[..., H_student] → [..., H_teacher]."""
        projected: Tensor = self.maps[teacher](hidden)
        return projected
