"""Views of a step made of random numbers, as selectors get them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distilect.selection import Passes, SelectionContext, StepView, TrainingSample


def keys(count: int, seed: int = 0) -> Tensor:
    """int64 [count]: row identities as hashes give them, over the whole range."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, count, dtype=np.int64))


def passes_of(rows: int, outputs: int, generator: torch.Generator) -> dict[Passes, Tensor]:
    """Random logits [P, B, C] of the passes that selectors ask for by default."""
    wanted = (Passes(), Passes(dropout=True), Passes(4, dropout=True))
    return {passes: torch.randn(passes.count, rows, outputs, generator=generator) for passes in wanted}


def make_view(
    rows: int = 12,
    teachers: int = 3,
    classes: int = 4,
    *,
    seed: int = 0,
    regression: bool = False,
    multi_label: bool = False,
    unlabelled: tuple[int, ...] = (),
    epoch: int = 0,
    step: int = 0,
    run_seed: int = 7,
) -> StepView:
    generator = torch.Generator().manual_seed(seed)
    outputs = 1 if regression else classes
    if regression:
        labels = torch.randn(rows, generator=generator)
        labels[list(unlabelled)] = torch.nan
    else:
        shape = (rows, classes) if multi_label else (rows,)
        labels = torch.randint(2 if multi_label else classes, shape, generator=generator)
        labels = labels.to(torch.int8) if multi_label else labels
        labels[list(unlabelled)] = -100
    return StepView(
        keys=keys(rows, seed),
        labels=labels,
        student=torch.randn(rows, outputs, generator=generator),
        pooled=torch.randn(rows, 6, generator=generator),
        vectors=torch.randn(rows, 5, generator=generator),
        teachers=torch.randn(rows, teachers, outputs, generator=generator),
        progress=0.25,
        epoch=epoch,
        step=step,
        seed=run_seed,
        passes=passes_of(rows, outputs, generator),
    )


def part(view: StepView, index: Tensor) -> StepView:
    """The same step, seen from some of its rows; int64 [b]."""
    assert view.teachers is not None
    return view.take(index, view.teachers[index])


def make_context(
    teachers: int = 3,
    kinds: tuple[str, ...] = ("labels", "response"),
    *,
    rows: int = 64,
    classes: int = 4,
    regression: bool = False,
    multi_label: bool = False,
    seed: int = 0,
) -> SelectionContext:
    rng = np.random.default_rng(seed)
    outputs = 1 if regression else classes
    logits = rng.normal(size=(rows, teachers, outputs)).astype(np.float32)
    labels = rng.normal(size=rows).astype(np.float32) if regression else rng.integers(0, classes, rows)
    if multi_label:
        labels = rng.integers(0, 2, (rows, classes)).astype(np.int8)
    return SelectionContext(
        teachers=tuple(f"teacher-{k}" for k in range(teachers)),
        kinds=kinds,
        regression=regression,
        multi_label=multi_label,
        validation_logits=logits,
        validation_labels=labels,
        validation_scores=tuple(0.5 + 0.1 * k for k in range(teachers)),
        teacher_sizes=tuple(1000 * (teachers - k) for k in range(teachers)),
        seed=seed,
        num_labelled=rows,
        num_rows=rows,
        student_width=6,
        teacher_widths=(5,) * teachers,
        sample=sample_of(
            make_view(rows, teachers, classes, seed=seed + 1, regression=regression, multi_label=multi_label)
        ),
    )


def sample_of(view: StepView):
    """`SelectionContext.sample` over the rows of a view."""

    def sample(limit: int, labelled: bool = False) -> TrainingSample:
        index = torch.argsort(view.keys)
        if labelled:
            index = index[view.has_label[index]]
        index = index[:limit]
        assert view.teachers is not None and view.vectors is not None
        return TrainingSample(view.keys[index], view.labels[index], view.teachers[index], view.vectors[index])

    return sample
