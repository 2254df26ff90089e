"""What a selector sees: a step, the validation rows before training, and the student between steps.

Rows have an identity (`keys`: a hash of their texts), which is the key of every random draw and of everything remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from distilect.knowledge.response import response_binary_kl, response_kl, response_mse
from distilect.tasks import has_label, of_candidates


@dataclass(frozen=True)
class Passes:
    """Passes of the student without gradient, for scores that its training pass does not give.

    One costs about a third of a training step's operations.

    Attributes:
        count: how many.
        dropout: on, as in training. Its masks are a function of (seed, step) and the token budget, not of accumulation, and the
            training's own draws are left alone. Several passes differ by it alone: a student that trains without dropout has 0.1 then.
    """

    count: int = 1
    dropout: bool = False


@dataclass(frozen=True)
class Encoder:
    """The frozen encoder whose row vectors a selector needs.

    Attributes:
        name: a checkpoint, a teacher's name, or `backbone`: the pre-trained model that the student was cut from.
        pooling: the last layer at the classification token, or its mean over tokens.
    """

    name: str = "backbone"
    pooling: Literal["cls", "mean"] = "cls"


CreditRows = Literal["train", "validation"]


@dataclass(frozen=True)
class StepView:
    """What a selector may know of a step. Every tensor is detached.

    A row here is a unit: what has a label and an output distribution. In a word table each word is one, B the words of the step.

    Attributes:
        keys: int64 [B], identity of each row's texts, not its position; of a word, its row's identity and place.
        labels: int64 [B], -100 where a row has none; float32 with NaN in regression; int8 [B, C] of 0 and 1 in a multi-label task; of a
            language model int32 [B], 0 where the token that follows is the label.
        student: logits float32 [B, C]. Of a language model the classes are each unit's own candidates (`models.language`).
        pooled: the student's last layer at the classification token, [B, H]; None unless a selector needs it.
        teachers: logits float32 [B, K, C] in the task's label order; None before the teachers were asked.
        progress: share of training that is done, in [0, 1].
        epoch, step: whole epochs and optimiser steps done.
        seed: of the run.
        vectors: float32 [B, D], each row's vector from a frozen encoder; None unless a selector needs it.
        passes: logits without gradient, float32 [P, B, C], by the `Passes` that selectors need.
        features: float32 [B, H], what the student's output layer read in this pass; None unless a selector needs it.
        position: of a language model float32 [B], how far within its row's completions a token stands, from 0 to 1; None otherwise.
        rows: int64 [B], of words and tokens the identity of the row that each stands in; None where a row is one unit.
    """

    keys: Tensor
    labels: Tensor
    student: Tensor
    pooled: Tensor | None
    teachers: Tensor | None
    progress: float
    epoch: int
    step: int
    seed: int
    vectors: Tensor | None = None
    passes: Mapping[Passes, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    position: Tensor | None = None
    rows: Tensor | None = None

    @property
    def regression(self) -> bool:
        return self.labels.is_floating_point()

    @property
    def multi_label(self) -> bool:
        """Logits are a sigmoid for each label."""
        return self.labels.ndim == 2

    @property
    def tokens(self) -> bool:
        """Units are tokens that a language model says; their classes differ from unit to unit."""
        return of_candidates(self.labels)

    @property
    def has_label(self) -> Tensor:
        """bool [B]."""
        known: Tensor = has_label(self.labels)
        return known

    def take(self, index: Tensor, teachers: Tensor | None) -> StepView:
        """The view of some rows (`index` int64 [b]) together with their teachers' logits, [b, K, C]."""
        return replace(
            self,
            keys=self.keys[index],
            labels=self.labels[index],
            student=self.student[index],
            pooled=None if self.pooled is None else self.pooled[index],
            vectors=None if self.vectors is None else self.vectors[index],
            features=None if self.features is None else self.features[index],
            position=None if self.position is None else self.position[index],
            rows=None if self.rows is None else self.rows[index],
            passes={passes: logits[:, index] for passes, logits in self.passes.items()},
            teachers=teachers,
        )


# ---- before training -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSample:
    """Teacher outputs on some rows of train, on the CPU, for selectors that fit or standardise before training.

    Attributes:
        keys: int64 [N], identities, ascending.
        labels: as in `StepView`.
        teachers: logits float32 [N, K, C].
        vectors: float32 [N, D] or None.
        position: as in `StepView`.
    """

    keys: Tensor
    labels: Tensor
    teachers: Tensor
    vectors: Tensor | None
    position: Tensor | None = None

    def view(self, student: Tensor, seed: int, epoch: int, device: torch.device | str = "cpu") -> StepView:
        """The view that a step on these rows would have, with these student logits [N, C]."""
        return StepView(
            keys=self.keys.to(device),
            labels=self.labels.to(device),
            student=student.to(device),
            pooled=None,
            teachers=self.teachers.to(device),
            progress=0.0,
            epoch=epoch,
            step=0,
            seed=seed,
            vectors=None if self.vectors is None else self.vectors.to(device),
            position=None if self.position is None else self.position.to(device),
        )


def _plain_response(student: Tensor, teachers: Tensor) -> Tensor:
    """For methods without response knowledge; the KL of a single score would be 0."""
    if teachers.shape[-1] == 1:
        return response_mse(student, teachers)
    return response_kl(student, teachers, 1.0)


def _plain_binary_response(student: Tensor, teachers: Tensor) -> Tensor:
    """The same for a sigmoid per label."""
    return response_binary_kl(student, teachers, 1.0)


def _no_sample(limit: int, labelled: bool = False) -> TrainingSample:
    raise ValueError("needs the rows of train, which are not there yet")


@dataclass(frozen=True)
class SelectionContext:
    """What selectors may learn before training, from the validation split; never from the reported dev set.

    Attributes:
        teachers: names, in the order of every K axis.
        kinds: names of the knowledge, in the order of every M axis.
        regression: one output per row instead of C classes.
        multi_label: outputs are a sigmoid for each of C labels.
        tokens: units are tokens that a language model says; their classes differ from unit to unit.
        validation_logits: float32 [N, K, C], the teachers on the validation split.
        validation_labels: [N], its labels.
        validation_scores: each teacher's primary metric there.
        teacher_sizes: parameters of each teacher; 0 where they are not known (tables, functions).
        seed: of the run.
        num_labelled, num_rows: units of train, with those of unlabelled extra rows.
        epochs, steps_per_epoch: of training; an epoch has fewer optimiser steps where rows are planned.
        sample: (limit, labelled only) → teacher outputs on at most so many rows of train, drawn by identity.
        credit: the same of the rows of the validation split that were set apart for a selector's credit; None: there are none.
        response: student logits [B, C], teacher logits [B, K, C] → [B, K]: the response loss of the method.
        student_width, teacher_widths: numbers per token of their layers; 0 where they are not known (tables, functions).
    """

    teachers: tuple[str, ...]
    kinds: tuple[str, ...]
    regression: bool = False
    validation_logits: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    validation_scores: tuple[float, ...] = ()
    teacher_sizes: tuple[int, ...] = ()
    seed: int = 0
    num_labelled: int = 0
    epochs: float = math.inf
    steps_per_epoch: float = math.inf
    num_rows: int = 0
    sample: Callable[..., TrainingSample] = _no_sample
    credit: Callable[..., TrainingSample] | None = None
    response: Callable[[Tensor, Tensor], Tensor] = _plain_response
    student_width: int = 0
    teacher_widths: tuple[int, ...] = ()
    multi_label: bool = False
    tokens: bool = False

    def __post_init__(self) -> None:
        if self.multi_label and self.response is _plain_response:
            object.__setattr__(self, "response", _plain_binary_response)


# ---- between steps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Student and teachers on some rows of train at one moment, without dropout: means over these rows, on the CPU.

    Attributes:
        student: float32 [H], its last layer at the classification token.
        teachers: float32 [Σ H_k], the same of every teacher, one after the other; empty unless a selector needs it.
        losses: float32 [M], each kind of knowledge, over the rows that it applies to, all teachers alike; NaN where there are none.
    """

    student: Tensor
    teachers: Tensor
    losses: Tensor


@dataclass(frozen=True)
class KnownRows:
    """What is known of rows of train before anything is run on them, on the CPU.

    Attributes:
        keys: int64 [U], identities of their units.
        labels: [U], as in `StepView`.
        vectors: float32 [U, D], from the frozen encoder; None unless a selector needs it.
        row: int64 [U], the row of each unit, a place among the rows.
        tokens: int64 [n], of each row, as the student reads it.
    """

    keys: Tensor
    labels: Tensor
    vectors: Tensor | None
    row: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class KindGradients:
    """Products of gradients by all of the student's weights: g_m of the mean loss of each kind of knowledge on some rows of train, h of
    the label loss on validation rows.

    Attributes:
        gram: float64 [M, M], ⟨g_m, g_n⟩.
        toward: float64 [M], ⟨g_m, h⟩: the first-order fall of the validation loss by a step along -g_m.
        length: ‖h‖.
    """

    gram: Tensor
    toward: Tensor
    length: float


class Probe(Protocol):
    """The student at this moment, for selectors that look at what became of their decisions.

    Attributes:
        keys: int64 [N], the identities of all rows of train.
        progress: share of training that is done, in [0, 1]; 1 after the last step.
        step_losses: after a step, for selectors that need it: float64 [M], each kind's loss summed over all rows of the step that it
            applies to (over all parts and ranks), and how many these are.
    """

    step_losses: tuple[Tensor, Tensor] | None

    @property
    def keys(self) -> Tensor: ...

    @property
    def progress(self) -> float: ...

    def look(self, keys: Tensor) -> Look:
        """Student and teachers on rows of train (int64 [n], identities); costs a forward pass without gradient."""
        ...

    def run(self, keys: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C] on rows of train (int64 [n], identities), without gradient."""
        ...

    def run_rows(self, keys: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """The same for whole rows (int64 [n], identities of rows): float32 [P, u, C] of all their units, and the row of each, int64
        [u], a place in `keys`; both on the CPU."""
        ...

    def logits(self, keys: Tensor) -> Tensor:
        """float32 [n, C] on rows of train (int64 [n], identities): without dropout, without gradient; costs a forward pass."""
        ...

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on at most `limit` validation rows, always the same ones; never on dev."""
        ...

    def credit(self, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits float32 [n, C] on credit rows (int64 [n], identities), and what the output layer read, [n, H], where a selector
        needs it; both on the CPU. Costs a forward pass, once per step."""
        ...

    def known(self, keys: Tensor) -> KnownRows:
        """Of whole rows of train (int64 [n], identities of rows), without running any."""
        ...

    def kind_gradients(self, keys: Tensor, limit: int) -> KindGradients:
        """Of the kinds of knowledge on rows of train (int64 [n], identities), all teachers alike, and of the loss on `limit` validation rows,
        drawn for the step; costs a backward pass per kind."""
        ...


def two_classes(logits: Tensor) -> Tensor:
    """[..., C] → [..., C, 2]: each label as a choice between lacking it and having it, whose softmax is (1 - σ, σ)."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)


def normalised_entropy(logits: Tensor, multi_label: bool = False, tokens: bool = False) -> Tensor:
    """H(softmax(logits)) / log C over the last axis: 0 certain, 1 uniform; float32, exact where a probability is 0.

    `multi_label`: the mean over labels of H(σ) / log 2. `tokens`: over the whole vocabulary, which came with the log-probabilities of the
    candidates, added to each of them (`models.language`).
    """
    if tokens:
        return logits.float().logsumexp(-1)
    if multi_label:
        return normalised_entropy(two_classes(logits)).mean(-1)
    p = logits.float().softmax(-1)
    return torch.special.entr(p).sum(-1) / math.log(logits.shape[-1])
