"""Student outputs, teacher signals and layouts made of random numbers: arithmetic needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distilect.knowledge import Layout, StudentOutputs
from distilect.signals import TeacherSignals

JUNK = 1e6  # what stands on padding: any leak shows


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(seed))


def layout(
    student: tuple[int, int] = (3, 8),
    teachers: Sequence[tuple[int, int]] = ((6, 8),),
    regression: bool = False,
    same_tokens: bool = True,
) -> Layout:
    """(layers, width) of the student and of each teacher."""
    return Layout(
        regression=regression,
        student_layers=student[0],
        student_width=student[1],
        teachers=tuple(f"teacher-{k}" for k in range(len(teachers))),
        teacher_layers=tuple(layers for layers, _ in teachers),
        teacher_widths=tuple(width for _, width in teachers),
        same_tokens=(same_tokens,) * len(teachers),
    )


def student_outputs(
    lengths: Sequence[int] = (5, 3, 1),
    layers: int = 3,
    width: int = 8,
    classes: int = 4,
    seed: int = 0,
    left: bool = False,
    padded: int | None = None,
    junk: float = JUNK,
) -> StudentOutputs:
    """Random outputs that depend on (row, token, seed) only: other padding gives the same real values."""
    total = padded or max(lengths)
    mask = torch.zeros(len(lengths), total, dtype=torch.bool)
    hidden = [torch.full((len(lengths), total, width), junk) for _ in range(layers + 1)]
    cls = torch.zeros(len(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        start = total - length if left else 0
        mask[row, start : start + length] = True
        cls[row] = start if length else 0
        for layer in range(layers + 1):
            values = randn(length, width, seed=seed * 10_007 + row * 101 + layer)
            hidden[layer][row, start : start + length] = values
    return StudentOutputs(
        randn(len(lengths), classes, seed=seed + 1), mask, cls, tuple(h.requires_grad_() for h in hidden)
    )


def teacher_signals(
    lengths: Sequence[int] = (5, 3, 1),
    teachers: Sequence[tuple[int, int]] = ((6, 8),),
    classes: int = 4,
    seed: int = 50,
    padded: int | None = None,
) -> TeacherSignals:
    """Random signals of every field; real tokens first and zeros behind, as the store gives them."""
    total, rows = padded or max(lengths), len(lengths)
    mask = torch.arange(total) < torch.tensor(lengths).unsqueeze(1)
    fields: list[dict[str, Tensor]] = []
    for k, (layers, width) in enumerate(teachers):
        named: dict[str, Tensor] = {}
        for layer in range(1, layers + 1):
            base = seed * 10_007 + k * 1009 + layer * 31
            states = torch.zeros(rows, total, width)
            for row, length in enumerate(lengths):
                states[row, :length] = randn(length, width, seed=base + row * 5003)
            named[f"hidden.{layer}"] = states
            named[f"cls.{layer}"] = states[:, 0]
            named[f"mean.{layer}"] = states.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        fields.append(named)
    return TeacherSignals(randn(rows, len(teachers), classes, seed=seed), fields)


def agreeing(student: StudentOutputs, pairs: Sequence[tuple[int, int]]) -> TeacherSignals:
    """One teacher that says exactly what the student says, on the mapped layers."""
    fields = {}
    for s, t in pairs:
        mask = student.token_mask()
        fields[f"hidden.{t}"] = (student.tokens(s) * mask.unsqueeze(-1)).detach()
        fields[f"cls.{t}"], fields[f"mean.{t}"] = student.at_cls(s).detach(), student.mean(s).detach()
    return TeacherSignals(student.logits.detach().unsqueeze(1).clone(), [fields])


def take(signals: TeacherSignals, rows: Tensor) -> TeacherSignals:
    """What the teachers say on some rows, int64 [b]."""
    fields = [{name: value[rows] for name, value in named.items()} for named in signals.fields]
    return TeacherSignals(signals.logits[rows], fields)


def no_labels(rows: int) -> Tensor:
    return torch.full((rows,), -100)
