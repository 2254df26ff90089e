"""Builds a method for the models and rows of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distilect.config import MethodConfig, TrainConfig
from distilect.data import Table, hold_out
from distilect.errors import ConfigError, DataError, MethodError, did_you_mean
from distilect.knowledge import Layout, Response
from distilect.models import CheckpointTeacher, Student, Teacher, keeps_attention, same_tokens
from distilect.selection import (
    CreditRows,
    Method,
    SelectionContext,
    TeacherSelector,
    TrainingSample,
    build_method,
    row_uniform,
)
from distilect.signals import Prepared
from distilect.tasks import Task, has_label
from distilect.training import TrainingRows, position_of

CREDIT_ROWS = 1024  # of the validation split, at most: each look at them costs a forward pass


def layout_of(student: Student, pool: list[Teacher], task: Task, **label_knowledge: Any) -> Layout:
    """What kinds of knowledge need to know of the models; `label_knowledge` is what `label_options` returns."""
    checkpoints = [t if isinstance(t, CheckpointTeacher) else None for t in pool]
    attention, words = keeps_attention(student.model), task.kind in ("tokens", "causal-lm")
    return Layout(
        regression=task.kind == "regression",
        multi_label=task.kind == "multi-label",
        student_layers=student.num_layers,
        student_width=student.hidden_size,
        teachers=tuple(t.name for t in pool),
        teacher_layers=tuple(t.num_layers if t else 0 for t in checkpoints),
        teacher_widths=tuple(t.hidden_size if t else 0 for t in checkpoints),
        same_tokens=tuple(t is not None and (words or same_tokens(student, t)) for t in checkpoints),
        attention=tuple(attention and t is not None and keeps_attention(t.model) for t in checkpoints),
        words=words,
        **label_knowledge,
    )


def label_options(config: TrainConfig, table: Table, task: Task) -> dict[str, Any]:
    """`class_weights` and `label_smoothing` as label knowledge takes them.

    Args:
        table: training rows; with `balanced`, a class with n of their N labels has the weight N / (C n): the mean over rows is 1.

    Raises:
        ConfigError: the task has no classes, or a weight is given to a label that it does not have.
    """
    given = config.class_weights
    if not task.classes and (given is not None or config.label_smoothing):
        raise ConfigError(
            f"train.class_weights and train.label_smoothing need a classification task, this is {task.kind}: remove them"
        )
    weights: list[float] = []
    if isinstance(given, dict):
        for label in given:
            if label not in task.labels:
                known = ", ".join(task.labels[:20])
                raise ConfigError(
                    f"train.class_weights: no label {label!r}; the labels: {known}.{did_you_mean(label, task.labels)}"
                )
        weights = [given.get(label, 1.0) for label in task.labels]
    elif given is not None:
        counts = np.bincount(table.labels[has_label(table.labels)], minlength=len(task.labels))
        weights = [round(float(counts.sum() / (len(counts) * count)), 6) if count else 1.0 for count in counts]
    return {"class_weights": tuple(weights), "label_smoothing": config.label_smoothing}


def assemble(config: MethodConfig, layout: Layout, teachers: TeacherSelector | None, seed: int) -> Method:
    """The method for these models; its random weights (projections) depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_method(config, layout, teachers)


def check_for_tokens(method: Method, keep: str = "top") -> None:
    """Refuse what language models do not have, whose classes differ from token to token.

    Args:
        keep: what is kept of teacher outputs, `signals.tokens.keep`.

    Raises:
        MethodError: names the part and what to take instead.
    """
    for selector in method.selectors.values():
        if selector.needs.features or selector.needs.credit:
            raise MethodError(
                f"selector {selector.name!r} compares the outputs of rows class by class, but those of a language model are of other tokens at "
                "each place: take rlkd (with reward: 1), gate, confidence or uniform"
            )
    for kind in method.knowledge:
        if isinstance(kind, Response) and kind.distance == "mse":
            raise MethodError(
                "knowledge: response has distance: mse, but not all logits of a language model are there: use kl"
            )
        if isinstance(kind, Response) and keep == "samples" and not _fits_samples(kind):
            raise MethodError(
                f"signals.tokens.keep is samples, whose shares are right for distance: kl at temperature 1 alone; {kind.name} has "
                f"{kind.distance} at {kind.options.temperature:g}: set method.temperature=1 and distance: kl, or keep: top"
            )


def _fits_samples(kind: Response) -> bool:
    last = kind.options.final_temperature
    return kind.distance == "kl" and kind.options.temperature == 1 and last in (None, 1)


def set_up(context: SelectionContext, *selectors: Any) -> None:
    """Let selectors learn what they may before training; a value that one of them refuses is the user's error."""
    for selector in selectors:
        try:
            selector.setup(context)
        except ValueError as error:
            raise MethodError(f"selector {selector.name!r}: {error}") from None


def sampler_of(table: Table, prepared: Prepared) -> Callable[..., TrainingSample]:
    """`SelectionContext.sample` over a training table; draws units by identity, so that their order does not matter."""

    def sample(limit: int, labelled: bool = False) -> TrainingSample:
        keys = table.unit_keys()
        units = np.flatnonzero(has_label(table.labels)) if labelled else np.arange(table.num_units)
        units = units[np.unique(keys[units], return_index=True)[1]]  # ascending keys; equal texts once
        if len(units) > limit:
            draws = row_uniform(torch.from_numpy(keys[units]), 0, 0, "sample").numpy()
            units = units[np.sort(np.argsort(draws, kind="stable")[:limit])]
        source, vectors = prepared.source, prepared.vectors
        assert source is not None
        rows, places = table.locate(units)
        return TrainingSample(
            torch.from_numpy(keys[units]),
            torch.tensor(table.labels[units]),
            source.fetch(table, rows, [[] for _ in source.names]).judged.cpu()[places],
            vectors.fetch(table, rows, [[]]).logits[:, 0].cpu()[places] if vectors else None,
            position_of(table, units),
        )

    return sample


def credit_source(method: Method) -> CreditRows | None:
    """Where the credit rows of a method's selectors come from; None where none of them needs any.

    Raises:
        MethodError: they want different ones.
    """
    wanted = {selector.needs.credit for selector in method.selectors.values()} - {None}
    if len(wanted) > 1:
        raise MethodError(
            f"selectors want credit rows of {', '.join(sorted(map(str, wanted)))}: give them the same rows"
        )
    return wanted.pop() if wanted else None


def set_apart(validation: Table, source: CreditRows | None) -> tuple[Table, Table | None]:
    """The validation rows that choose the checkpoint, and the credit rows; None: these are the labelled rows of train, or not needed.

    Half of the validation split, at most `CREDIT_ROWS` of it, is drawn by text, whatever the order of the file; classes keep
    their shares.

    Raises:
        MethodError: the validation split cannot be divided.
    """
    if source != "validation":
        return validation, None
    try:
        rest, apart = hold_out(validation, max(1, min(len(validation) // 2, CREDIT_ROWS)), seed=0)
    except DataError as error:
        raise MethodError(f"rows: validation: {error}; or set rows: train") from None
    return validation.take(rest), validation.take(apart)


def training_rows(
    student: Student, table: Table, validation: Table, task: Task, credit: Table | None = None
) -> TrainingRows:
    """Training, validation and credit rows, tokenised for the student. Says what is cut."""
    return TrainingRows(
        table=table,
        encoded=student.encode(table),
        validation=validation,
        validation_encoded=student.encode(validation),
        task=task,
        cls_token_id=student.tokenizer.cls_token_id,
        credit=credit,
        credit_encoded=None if credit is None else student.encode(credit),
    )
