"""What every kind of knowledge has in common: inputs, the fields it asks of teachers, and its per-row result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distilect.config import Part
from distilect.options import parse_options
from distilect.signals import TeacherSignals


@dataclass(frozen=True)
class StudentOutputs:
    """One forward pass of the student over B rows of at most T tokens.

    Of a word table T counts words, and hidden states and attention are those of each word's first token.

    Attributes:
        logits: float32 [B, C]; C = 1 for regression. Of a word table [U, C], a line for each word.
        mask: bool [B, T], true on real tokens.
        cls: int64 [B], position of the classification token.
        hidden: `hidden_states` of the model, index 0 the embeddings, each [B, T, H]; None if nobody asked for them.
        attention: `query.L`, `key.L`, `value.L` → [B, T, H] of the layers that somebody asked for.
        features: [B, H], what the output layer read, detached; None if nobody asked for it. Of a word table [U, H].
        places: of a word table int64 [U], where each word stands in [B · T]; None: a row is one unit.
    """

    logits: Tensor
    mask: Tensor
    cls: Tensor
    hidden: tuple[Tensor, ...] | None = None
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    places: Tensor | None = None

    def take(self, units: Tensor) -> StudentOutputs:
        """The outputs of some units, int64 [b]; of words with all that there is of their rows."""
        features = None if self.features is None else self.features[units]
        rows, places = units, None
        if self.places is not None:
            width = self.mask.shape[1]
            rows, own = torch.unique(self.places[units] // width, return_inverse=True)
            places = own * width + self.places[units] % width
        return replace(
            self,
            logits=self.logits[units],
            mask=self.mask[rows],
            cls=self.cls[rows],
            hidden=None if self.hidden is None else tuple(h[rows] for h in self.hidden),
            attention={name: values[rows] for name, values in self.attention.items()},
            features=features,
            places=places,
        )

    def per_unit(self, values: Tensor) -> Tensor:
        """[B, …] → [U, …]: what holds of a row, for each of its units."""
        return values if self.places is None else values[self.places // self.mask.shape[1]]

    def at_cls(self, layer: int) -> Tensor:
        """[B, H]: the hidden state of `layer` at the classification token; of a word table [U, H], at each word."""
        hidden = self.states(layer)
        if self.places is not None:
            return hidden.flatten(0, 1)[self.places]
        return hidden[torch.arange(len(hidden), device=hidden.device), self.cls]

    def mean(self, layer: int) -> Tensor:
        """[B, H]: the mean of `layer` over real tokens; padding never enters. Of a word table as `at_cls`."""
        if self.places is not None:
            return self.at_cls(layer)
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
        same_tokens: per teacher, whether it cuts a text into exactly the student's tokens; words are the same for all.
        attention: per teacher, whether it and the student keep queries, keys and values in linear maps of their own.
        class_weights: of label knowledge, C of them; (): all 1.
        label_smoothing: of label knowledge.
        words: a row's units are its words.
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
    words: bool = False

    @property
    def num_teachers(self) -> int:
        return len(self.teachers)


class Knowledge(nn.Module):
    """One kind of knowledge: how far the student is from each teacher, per unit (a row, a word) and never reduced.

    Subclasses set `name`, may have parameters (projections; trained beside the student, saved in checkpoints, never
    shipped in it) and return from `forward` float32 [B] (no teacher involved) or [B, K].

    Attributes:
        per_row: `forward` compares whole rows: of a word table the step gives a row's value to each of its words.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    asks_teachers: ClassVar[bool] = True
    per_row: ClassVar[bool] = False

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
