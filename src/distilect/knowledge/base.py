"""What every kind of knowledge has in common: inputs, the fields it asks of teachers, and its per-row result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distilect.config import Part
from distilect.options import parse_options
from distilect.signals import TeacherSignals


@dataclass(frozen=True)
class StudentOutputs:
    """One forward pass of the student over B rows of at most T tokens.

    Attributes:
        logits: float32 [B, C]; C = 1 for regression.
        mask: bool [B, T], true on real tokens.
        cls: int64 [B], position of the classification token.
        hidden: `hidden_states` of the model, index 0 the embeddings, each [B, T, H]; None if nobody asked for them.
        attention: `query.L`, `key.L`, `value.L` → [B, T, H] of the layers that somebody asked for.
        features: [B, H], what the output layer read, detached; None if nobody asked for it.
    """

    logits: Tensor
    mask: Tensor
    cls: Tensor
    hidden: tuple[Tensor, ...] | None = None
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None

    def take(self, rows: Tensor) -> StudentOutputs:
        """The outputs of some rows; `rows` int64 [b]."""
        hidden = None if self.hidden is None else tuple(h[rows] for h in self.hidden)
        attention = {name: values[rows] for name, values in self.attention.items()}
        features = None if self.features is None else self.features[rows]
        return StudentOutputs(self.logits[rows], self.mask[rows], self.cls[rows], hidden, attention, features)

    def at_cls(self, layer: int) -> Tensor:
        """[B, H]: the hidden state of `layer` at the classification token."""
        hidden = self.states(layer)
        return hidden[torch.arange(len(hidden), device=hidden.device), self.cls]

    def mean(self, layer: int) -> Tensor:
        """[B, H]: the mean of `layer` over real tokens; padding never enters."""
        hidden, mask = self.states(layer), self.mask.unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)

    def tokens(self, layer: int) -> Tensor:
        """[B, T, H] with the real tokens first, whatever side the tokenizer pads on (signals are stored so)."""
        return self._ordered(self.states(layer))

    def attention_tokens(self, name: str) -> Tensor:
        """[B, T, H]: queries, keys or values of a layer (`query.3`), in the order of `tokens`."""
        return self._ordered(self.attention[name].float())

    def _ordered(self, values: Tensor) -> Tensor:
        return values.gather(1, self._real_first().unsqueeze(-1).expand_as(values))

    def token_mask(self) -> Tensor:
        """bool [B, T]: the mask that belongs to `tokens`."""
        return self.mask.gather(1, self._real_first())

    def states(self, layer: int) -> Tensor:
        if self.hidden is None:
            raise RuntimeError("the student was run without hidden states; Knowledge.student_layers must name them")
        return self.hidden[layer].float()

    def _real_first(self) -> Tensor:
        return torch.argsort((~self.mask).int(), dim=1, stable=True)


@dataclass(frozen=True)
class Layout:
    """What a kind of knowledge has to know of the models before training.

    Attributes:
        regression: one output per row instead of C classes.
        multi_label: outputs are a sigmoid for each of C labels.
        student_layers, student_width: L and H of the student.
        teachers: names, in the order of every K axis.
        teacher_layers, teacher_widths: L and H per teacher; 0 where a teacher has no hidden states (a table, a
            callable).
        same_tokens: per teacher, whether it cuts a text into exactly the student's tokens.
        attention: per teacher, whether it and the student keep queries, keys and values in linear maps of their own.
        class_weights: of label knowledge, C of them; (): all 1.
        label_smoothing: of label knowledge.
    """

    regression: bool
    student_layers: int
    student_width: int
    teachers: tuple[str, ...] = ()
    teacher_layers: tuple[int, ...] = ()
    teacher_widths: tuple[int, ...] = ()
    same_tokens: tuple[bool, ...] = ()
    attention: tuple[bool, ...] = ()
    multi_label: bool = False
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    @property
    def num_teachers(self) -> int:
        return len(self.teachers)


class Knowledge(nn.Module):
    """One kind of knowledge: how far the student is from each teacher, per row and never reduced.

    Subclasses set `name`, may have parameters (projections; trained beside the student, saved in checkpoints, never
    shipped in it) and return from `forward` float32 [B] (no teacher involved) or [B, K].
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    asks_teachers: ClassVar[bool] = True

    class Options(Part):
        """What a config may set; a subclass declares its own."""

    options: Part  # of the class's own `Options`

    def __init__(self, layout: Layout, **options: Any) -> None:
        super().__init__()
        self.layout, self.options = layout, parse_options(self.Options, options)

    def teacher_fields(self, teacher: int) -> Sequence[str]:
        """Names of the signals wanted from that teacher besides logits, such as `hidden.4` (see `signals`)."""
        return ()

    def needs_hidden(self) -> bool:
        """Whether the student has to return its hidden states."""
        return False

    def attention_layers(self) -> Sequence[int]:
        """Layers of the student whose queries, keys and values are wanted, counted from 1."""
        return ()

    def begin_step(self, progress: float) -> None:
        """Called before each optimiser step; `progress` is the share of training that is done."""

    def forward(self, student: StudentOutputs, teachers: TeacherSignals | None, labels: Tensor) -> Tensor:
        """float32 [B] or [B, K]; `labels` int64 [B] (-100: none), float32 [B] (NaN: none), or int8 [B, C] (-100: none)."""
        raise RuntimeError(f"{type(self).__name__} has no forward")
