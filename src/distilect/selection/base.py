"""The three questions of adaptive distillation as protocols, and the frozen view of a step that they decide from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from distilect.data import Window
from distilect.knowledge.response import response_kl, response_mse


@dataclass(frozen=True)
class Passes:
    """Passes of the student over rows without gradient, for scores that its training pass does not give.

    One costs about a third of a training step's operations (on a CPU in bf16 a quarter of its time: rewards of all rows in
    benchmarks/results/rlkd_price.json).

    Attributes:
        count: how many.
        dropout: on, as in training; its masks are a function of (seed, step) and the token budget, not of accumulation, and the
            training's own draws are left alone.
    """

    count: int = 1
    dropout: bool = False


@dataclass(frozen=True)
class StepView:
    """What a selector may know of a step. Every tensor is detached.

    Attributes:
        rows: int64 [B], identity of each row's texts (not its position); the key of every random draw.
        labels: int64 [B], -100 where a row has none; float32 with NaN in regression.
        student: logits float32 [B, C].
        pooled: the student's last layer at the classification token, [B, H]; None unless a selector asked for it.
        teachers: logits float32 [B, K, C] in the task's label order; None before the teachers were asked.
        progress: share of training that is done, in [0, 1].
        epoch, step: whole epochs and optimiser steps done.
        seed: of the run.
        vectors: float32 [B, D], each row's vector from a frozen encoder; None unless a selector asked for it.
        passes: what the student says without gradient, float32 [P, B, C], by the `Passes` that selectors asked for.
    """

    rows: Tensor
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

    @property
    def regression(self) -> bool:
        return self.labels.is_floating_point()

    @property
    def has_label(self) -> Tensor:
        """bool [B]."""
        return ~torch.isnan(self.labels) if self.regression else self.labels != -100

    def take(self, index: Tensor, teachers: Tensor | None) -> StepView:
        """The view of some rows (`index` int64 [b]) together with what their teachers said, [b, K, C]."""
        return replace(
            self,
            rows=self.rows[index],
            labels=self.labels[index],
            student=self.student[index],
            pooled=None if self.pooled is None else self.pooled[index],
            vectors=None if self.vectors is None else self.vectors[index],
            passes={wanted: said[:, index] for wanted, said in self.passes.items()},
            teachers=teachers,
        )


@dataclass(frozen=True)
class Encoder:
    """The frozen encoder whose row vectors a selector wants.

    Attributes:
        name: a checkpoint, a teacher's name, or `backbone`: the pre-trained model that the student was cut from.
        pooling: the last layer at the classification token, or its mean over tokens.
    """

    name: str = "backbone"
    pooling: Literal["cls", "mean"] = "cls"


@dataclass(frozen=True)
class TrainingSample:
    """Signals on some rows of train, on the CPU, for selectors that fit or standardise before training.

    Attributes:
        rows: int64 [N], identities, ascending.
        labels: as in `StepView`.
        teachers: logits float32 [N, K, C].
        vectors: float32 [N, D] or None.
    """

    rows: Tensor
    labels: Tensor
    teachers: Tensor
    vectors: Tensor | None


@dataclass(frozen=True)
class Look:
    """Student and teachers on some rows of train at one moment, without dropout: means over these rows, on the CPU.

    Attributes:
        student: float32 [H], its last layer at the classification token.
        teachers: float32 [Σ H_k], the same of every teacher, one after the other; empty where nobody wants it.
        losses: float32 [M], each kind of knowledge, over the rows on which it speaks, all teachers alike; NaN where it never does.
    """

    student: Tensor
    teachers: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Pull:
    """Where the kinds of knowledge would pull the student, and where rows held out of train would.

    Attributes:
        gram: float64 [M, M], inner products of the gradients of the kinds' mean losses by the student's weights.
        toward: float64 [M], their inner products with the gradient of the label loss on held-out rows.
        length: of that last gradient.
    """

    gram: Tensor
    toward: Tensor
    length: float


@dataclass(frozen=True)
class Episodes:
    """Trainings of throw-away students before the real one, from which a selector learns.

    Attributes:
        count: how many.
        share: of the rows of train that each of them is trained on, drawn anew.
        least_steps: an episode has more rows than that where it would have fewer optimiser steps.
    """

    count: int
    share: float
    least_steps: int = 1


class Probe(Protocol):
    """The student as it is at this moment, for selectors that look at what became of their decisions.

    Attributes:
        rows: int64 [N], the identities of all rows of train.
    """

    rows: Tensor

    @property
    def progress(self) -> float:
        """Share of training that is done, in [0, 1]; 1 after the last step."""
        ...

    def look(self, rows: Tensor) -> Look:
        """Student and teachers on rows of train (int64 [n], identities); costs a forward pass without gradient."""
        ...

    def pull(self, rows: Tensor, limit: int) -> Pull:
        """Gradients on rows of train and on at most `limit` held-out rows; costs M + 1 backward passes."""
        ...

    def run(self, rows: Tensor, passes: Passes) -> Tensor:
        """float32 [P, n, C] on rows of train (int64 [n], identities), without gradient."""
        ...

    def logits(self, rows: Tensor) -> Tensor:
        """float32 [n, C] on rows of train (int64 [n], identities): without dropout, without gradient; costs a forward pass."""
        ...

    def validation(self, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] on at most `limit` rows held out of train, always the same ones; never on dev."""
        ...


def _plain_response(student: Tensor, teachers: Tensor) -> Tensor:
    """For methods without response knowledge; the KL of a single score would be 0."""
    if teachers.shape[-1] == 1:
        return response_mse(student, teachers)
    return response_kl(student, teachers, 1.0)


def _no_sample(limit: int, labelled: bool = False) -> TrainingSample:
    raise ValueError("needs the rows of train, which are not there yet")


@dataclass(frozen=True)
class SelectionContext:
    """What selectors may learn before training, from rows held out of train; never from the reported dev set.

    Attributes:
        teachers: names, in the order of every K axis.
        kinds: names of the knowledge, in the order of every M axis.
        regression: one output per row instead of C classes.
        validation_logits: float32 [N, K, C], the teachers on the validation split.
        validation_labels: [N], its labels.
        validation_scores: each teacher's primary metric there.
        teacher_sizes: parameters of each teacher; 0 where they are not known (tables, functions).
        seed: of the run.
        num_labelled, num_rows: of train, with unlabelled extra rows.
        epochs: of training.
        sample: (limit, labelled only) → signals on at most so many rows of train, drawn by identity.
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
    num_rows: int = 0
    sample: Callable[..., TrainingSample] = _no_sample
    response: Callable[[Tensor, Tensor], Tensor] = _plain_response
    student_width: int = 0
    teacher_widths: tuple[int, ...] = ()


class Selector:
    """Common part of all selectors: setting up, learning and saving, each empty by default.

    A selector that learns measures its reward in `after_step`, learns from it in `observe`, overrides `state_dict` and
    `load_state_dict`, keeps its own optimiser, and reports its health (policy entropy, critic loss, …) in `health`.

    Attributes:
        wants_pooled, encoder, passes: what its view has to hold besides labels and logits.
        chooses_first: of a row selector: it chooses among all rows of an optimiser step before the student's training pass, from
            what `passes` say. The others leave the step unseen, and the loss is a mean over the chosen rows; unless it trains the rest.
        asked_share: of a row selector that trains the rest: the share of rows that ask, on average. What the teachers say is a mean
            over the rows that ask: the formula divides it by this share.
        window: of a row selector that plans: the optimiser steps that are planned at once; None: an epoch.
        compares: of a row selector: it compares the rows of a batch with each other. Several processes ask it about those of all.
        item: what the items of `observations` are: a dataclass of tensors, or `tuple`.
        wants_teacher_cls: its `Look` holds the teachers' last layer; their signals are scored for it.
        wants_losses: `note_losses` is called.
        episodes: it learns from throw-away trainings first (`training/episodes.py`); None: it does not, or not any more.
        spent_tokens: student tokens, forward and backward, that the selector was trained on before this training (a stage of its
            own); they are part of the run's cost and of a token budget.
    """

    wants_pooled: bool = False
    wants_teacher_cls: bool = False
    wants_losses: bool = False
    episodes: Episodes | None = None
    encoder: Encoder | None = None
    passes: Passes | None = None
    chooses_first: bool = False
    asked_share: float = 1.0
    window: int | None = None
    compares: bool = False
    item: type = tuple
    spent_tokens: float = 0.0

    def setup(self, context: SelectionContext) -> None:
        """Called once, before the first step."""

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        """Called before the first step of an epoch (int, from 0), and again when a run is resumed within it."""

    def note_losses(self, sums: Tensor, counts: Tensor) -> None:
        """Called after each optimiser step, before `after_step`: float64 [M], each kind's loss summed over all rows of the step
        on which it speaks (over all parts and ranks), and how many these are."""

    def after_step(self, probe: Probe) -> None:
        """Called after each optimiser step, with the student as the step left it: the moment to measure a reward."""

    def observe(self, reward: Tensor) -> None:
        """Take the rewards of the decisions since the last call; float32 [B], or a single value for all of them."""

    def observations(self) -> list[list[Any]]:
        """The lists in which waits what was seen of rows in steps, until `after_step` or `begin_epoch` takes it in.

        Items are tuples (or `item`) of tensors whose first axis is rows. With several processes the trainer puts what the others
        saw into these very lists before `after_step`, so that all learn the same from the whole step. A selector that remembers
        nothing of its rows has none; one that does and does not say so learns something else on every rank.
        """
        return []

    def health(self) -> dict[str, float]:
        """Values to log, with their full names (`policy/entropy`); reading them resets their averages."""
        return {}

    def begin_episode(self, number: int) -> None:
        """Called before each throw-away training, from 0; whatever belongs to the one before is forgotten."""

    def freeze(self) -> None:
        """Called when the episodes are over: from now on the selector decides and does not learn."""

    def origin(self) -> dict[str, Any] | None:
        """Of a selector that may have been learned elsewhere: where it comes from, for `metrics.json`; None of all others."""
        return None

    def save(self, folder: Path, about: Mapping[str, Any]) -> str:
        """Keep what was learned in the episodes, with `about` (plain values) beside it; returns its fingerprint."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to keep")

    def adopt(self, folder: Path) -> None:
        """Go on as after `freeze`, with what `save` kept."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to adopt")

    def state_dict(self) -> dict[str, Any]:
        """Nested mappings of tensors and plain values; what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


@runtime_checkable
class RowSelector(Protocol):
    """Which rows ask the teachers, or are trained on at all?

    `trains_rest` says what becomes of rows that are not selected: they learn from their labels (True) or leave the step
    (False). A selector that plans returns from `plan` the rows of an epoch, or of a window of steps; the others are then never
    loaded or run.
    """

    trains_rest: bool
    wants_pooled: bool
    chooses_first: bool
    asked_share: float
    window: int | None
    compares: bool

    def select(self, view: StepView) -> Tensor:
        """bool [B]."""
        ...

    def planned(self, num_rows: int) -> int | None:
        """How many rows every epoch will have; None: all of them, `plan` is not called."""
        ...

    def plan(self, rows: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        """Positions of the rows of an epoch, int64 [planned], or of one of its windows, int64 [window.rows].

        Args:
            rows: int64 [N], all rows' identities.
            window: given where the selector's `window` is; asked for once it begins, and again when a run is resumed within it.
        """
        ...


@runtime_checkable
class TeacherSelector(Protocol):
    """Whom do the rows believe?

    `narrows` says that it keeps some teachers only: it is then set up once before the teachers are scored, to know which.
    """

    wants_pooled: bool
    narrows: bool

    def weights(self, view: StepView) -> Tensor:
        """float32 [B, K], each row sums to 1."""
        ...

    def keeps(self) -> list[int] | None:
        """After `setup`: the only teachers that will ever get weight; None: any may. The others are not asked."""
        ...


@runtime_checkable
class LossWeights(Protocol):
    """What do they copy?"""

    wants_pooled: bool

    def weights(self, view: StepView) -> Tensor:
        """float32 [M] or [B, M], in the order of the kinds of knowledge."""
        ...


def normalised_entropy(logits: Tensor) -> Tensor:
    """H(softmax(logits)) / log C over the last axis: 0 certain, 1 uniform; float32, exact where a probability is 0."""
    p = logits.float().softmax(-1)
    return torch.special.entr(p).sum(-1) / math.log(logits.shape[-1])


_NAMES = ("rows", "teachers", "knowledge", "plan", "hide", "reward", "shuffle", "sample", "ties", "look", "episode")
_STREAMS = {name: number for number, name in enumerate(_NAMES, start=1)}  # append only: a new number changes all draws


def row_uniform(rows: Tensor, seed: int, epoch: int, stream: str) -> Tensor:
    """Uniform draws in [0, 1) that are a function of (seed, epoch, row identity, stream) and of nothing else.

    Batch split, accumulation, rank and row order therefore never change a row's draw.

    Args:
        rows: int64 [B].
        stream: who draws; different streams are independent.

    Returns:
        float64 [B].
    """
    bits = _mix(rows ^ _mix(torch.tensor(_key(seed, epoch, stream), device=rows.device)))
    return ((bits >> 11) & ((1 << 53) - 1)).double() / float(1 << 53)


def row_uniforms(rows: Tensor, count: int, seed: int, epoch: int, stream: str) -> Tensor:
    """float64 [B, count]: several independent draws per row, as `row_uniform`."""
    keys = [_mix(rows ^ _mix(torch.tensor(k + 1, device=rows.device))) for k in range(count)]
    return torch.stack([row_uniform(key, seed, epoch, stream) for key in keys], dim=1)


def step_uniform(shape: tuple[int, ...], seed: int, step: int, stream: str) -> Tensor:
    """Uniform float64 draws, a function of (seed, step, stream): the same in every part of one optimiser step."""
    keys = torch.arange(int(np.prod(shape)), dtype=torch.int64)
    return row_uniform(_mix(keys + 1), seed, step, stream).reshape(shape)


def draw_rows(rows: Tensor, count: int, seed: int, number: int, stream: str) -> Tensor:
    """`count` of the rows (int64 [N], identities), drawn by (seed, number, identity); ascending."""
    draws = row_uniform(rows, seed, number, stream)
    return rows[draws.topk(min(count, len(rows)), largest=False).indices].sort().values


def _key(seed: int, epoch: int, stream: str) -> int:
    """One signed 64-bit integer for the three; Python integers so that no product overflows."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + _STREAMS[stream] * 0x8CB92BA72F3D8DD7) & _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


_MASK = (1 << 64) - 1


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 (wrapping); a bijection whose outputs look independent."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> by) & ((1 << (64 - by)) - 1)


@dataclass
class Averages:
    """Running means of named values, kept as tensors so that no step waits for the device; `pop` reads and resets."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float | Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, count: float | Tensor = 1.0) -> None:
        """Add `value`, a sum over `count` things."""
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0.0) + count

    def pop(self) -> dict[str, float]:
        """Name → mean since the last call; names that counted nothing are left out."""
        counts = {name: float(count) for name, count in self.counts.items()}
        values = {name: float(total) / counts[name] for name, total in self.sums.items() if counts[name]}
        self.sums, self.counts = {}, {}
        return values
