"""Small trainings over tiny random models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from distilect.config import MethodConfig, StudentConfig, TeacherConfig, TrainConfig
from distilect.data import Table, encode
from distilect.knowledge import Response
from distilect.models import EncoderTeacher, Student, Teacher, build_student, load_teacher, set_dropout
from distilect.pipeline.assembly import credit_source, layout_of, sampler_of, set_apart
from distilect.selection import Method, SelectionContext, build_method, build_teacher_selector
from distilect.signals import LiveSignals, Prepared, SignalSource
from distilect.tasks import Task
from distilect.training import DistillationTrainer, TrainingRows
from distilect.training.callbacks import Preemption
from distilect.training.checkpoints import last_checkpoint
from tests.language import TASK as TEXTS
from tests.language import toy_tokens
from tests.tiny import SENTENCES, tiny_bert, tiny_llama

TASK = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
SCORES = Task("toy-scores", "regression", (), ("pearson",), 1)


TOPICS = Task("toy-topics", "multi-label", ("a", "b", "c"), ("micro_f1", "map"), 1)
# fits the tiny bench: a policy that acts from the start, three short phases
EAGER: dict[str, dict[str, Any]] = {
    "rlkd": {"teachers": {"policy_updates": 4}},
    "rlkd-published": {"teachers": {"warmup_epochs": 0, "policy_rows": 16, "update_every": 1}},
    "akskd": {"loss_weights": {"phases": 3}},
    "akskd-hard": {"loss_weights": {"phases": 3}},
}

TAGS = Task("toy-tags", "tokens", ("O", "B-thing", "I-thing"), ("entity_f1", "accuracy"), 1)


def toy_table(rows: int, seed: int = 0, regression: bool = False, multi_label: bool = False) -> Table:
    """Sentences of different lengths with random labels."""
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(rng.choice(words, size=int(rng.integers(3, 14)))) for _ in range(rows)]
    labels = rng.normal(size=rows).astype(np.float32) if regression else rng.integers(0, 2, size=rows)
    if multi_label:
        labels = (rng.random((rows, 3)) < (0.5, 0.3, 0.2)).astype(np.int8)
    return Table.from_texts(texts, labels)


def toy_words(rows: int, seed: int = 0) -> Table:
    """Rows of 3 to 13 words with random tags, which follow the BIO scheme."""
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).replace(",", "").split()
    texts = [rng.choice(words, size=int(rng.integers(3, 14))).tolist() for _ in range(rows)]
    tags = []
    for text in texts:
        drawn = rng.integers(0, 3, size=len(text))
        tags.append(
            [1 if tag == 2 and (place == 0 or not drawn[place - 1]) else int(tag) for place, tag in enumerate(drawn)]
        )
    return Table.from_words(texts, tags)


class Bench:
    """Two tiny teachers, a tiny student and a table; builds trainers that start from the same weights."""

    def __init__(
        self,
        folder: Path,
        rows: int = 40,
        regression: bool = False,
        multi_label: bool = False,
        words: bool = False,
        tokens: bool = False,
    ) -> None:
        self.folder = folder
        self.task = TEXTS if tokens else TAGS if words else SCORES if regression else TOPICS if multi_label else TASK
        labels: Any = 1 if regression else list(self.task.labels)
        more: Any = {"problem_type": "multi_label_classification"} if multi_label else {"words": words}
        if (folder / "student").exists():  # made by another process
            self.teacher_paths = [str(folder / f"teacher-{i}") for i in (1, 2)]
            self.student_path = str(folder / "student")
        elif tokens:
            self.teacher_paths = [tiny_llama(folder / f"teacher-{i}", i, layers=4) for i in (1, 2)]
            self.student_path = tiny_llama(folder / "student", 9, tied=True)
        else:
            self.teacher_paths = [tiny_bert(folder / f"teacher-{i}", labels, seed=i, layers=4, **more) for i in (1, 2)]
            self.student_path = tiny_bert(folder / "student", labels, seed=9, layers=2, **more)
        self.table = toy_table(rows, regression=regression, multi_label=multi_label)
        self.validation = toy_table(12, seed=1, regression=regression, multi_label=multi_label)
        if words:
            self.table, self.validation = toy_words(rows), toy_words(12, seed=1)
        if tokens:
            self.table, self.validation = toy_tokens(rows), toy_tokens(12, seed=1)
        self.teachers: list[Teacher] = [
            load_teacher(TeacherConfig(name=f"t{i}", path=path), self.task, precision="fp32", max_length=32)
            for i, path in enumerate(self.teacher_paths)
        ]

    def student(self) -> Student:
        return build_student(StudentConfig(init=self.student_path), self.task, {}, 0, max_length=32)

    def trainer(
        self,
        method: str | dict[str, Any] = "uniform",
        *,
        name: str = "out",
        seed: int = 0,
        source: SignalSource | None = None,
        student: Student | None = None,
        callbacks: Any = None,
        preemption: Preemption | None = None,
        **train: Any,
    ) -> DistillationTrainer:
        settings: dict[str, Any] = {
            "epochs": 2,
            "batch_size": 8,
            "precision": "fp32",
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "dropout": None,
        }
        config = TrainConfig(**(settings | train))
        spec = MethodConfig.model_validate({"name": method} if isinstance(method, str) else method)
        student = student or self.student()
        selector = build_teacher_selector(spec)
        pool = self.teachers if selector is not None else []
        if config.dropout is not None:
            set_dropout(student.model, config.dropout)
        layout = layout_of(student, pool, self.task)
        built = build_method(spec, layout, selector)
        if source is None and pool:
            source = LiveSignals(pool)
        vectors = self.vectors(built)
        nobody: list[list[str]] = [[] for _ in pool]
        said = LiveSignals(pool).fetch(self.validation, np.arange(len(self.validation)), nobody) if pool else None
        context = SelectionContext(
            validation_logits=None if said is None else said.logits.numpy(),
            teachers=layout.teachers,
            kinds=built.kinds,
            validation_scores=(0.5,) * len(pool),
            seed=seed,
            regression=layout.regression,
            multi_label=layout.multi_label,
            tokens=self.table.tokens is not None,
            student_width=layout.student_width,
            teacher_widths=layout.teacher_widths,
            validation_labels=self.validation.labels,
            teacher_sizes=tuple(range(1, len(pool) + 1)),
            num_labelled=self.table.num_labelled_units,
            num_rows=self.table.num_units,
            sample=sampler_of(self.table, Prepared(source, vectors=vectors)),
        )
        validation, credit = set_apart(self.validation, credit_source(built))
        if credit is not None:
            context = replace(context, credit=sampler_of(credit, Prepared(source, vectors=vectors)))
        for part in built.selectors.values():
            part.setup(_with_response(context, built))
        rows = TrainingRows(
            self.table,
            encode(self.table, student.tokenizer, 32),
            validation,
            encode(validation, student.tokenizer, 32),
            self.task,
            student.tokenizer.cls_token_id,
            credit,
            None if credit is None else encode(credit, student.tokenizer, 32),
        )
        return DistillationTrainer(
            student.model,
            rows,
            built,
            source,
            config,
            self.folder / name,
            seed,
            callbacks=callbacks,
            vectors=vectors,
            preemption=preemption,
        )

    def vectors(self, method: Method) -> SignalSource | None:
        """Row vectors of the frozen encoder, where a selector looks at them: the student's checkpoint as it was."""
        wanted = [s.needs.encoder for s in method.selectors.values() if s.needs.encoder is not None]
        if not wanted or self.table.tokens is not None:
            return None
        pooling = wanted[0].pooling
        return LiveSignals([EncoderTeacher(self.student_path, pooling=pooling, max_length=32, precision="fp32")])


def _with_response(context: SelectionContext, method: Method) -> SelectionContext:
    """The context with the method's own response loss, as the pipeline gives it."""
    for kind in method.knowledge:
        if isinstance(kind, Response):
            return replace(context, response=kind.distance_to)
    return context


def weights(trainer: DistillationTrainer) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in trainer.model.named_parameters()}


class Kept(TrainerCallback):
    """Copies a training's folder as it is after each step of `steps`: what a kill right there would leave behind."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder = folder
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save |= state.global_step in self.steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps:
            shutil.copytree(args.output_dir, self.folder / f"at-{state.global_step}")


def whole_and_resumed(
    build: Callable[..., DistillationTrainer], folder: Path, *at: int
) -> tuple[DistillationTrainer, list[DistillationTrainer]]:
    """An uninterrupted training in `folder/whole`, and one in `folder/at-N` for each step N of `at` that goes on from there.

    Args:
        build: (folder, *callbacks) -> a trainer of that folder
    """
    whole = build(folder / "whole", Kept(folder, at))
    whole.train()
    resumed = []
    for step in at:
        torch.manual_seed(99 + step)  # a new process starts with another random state
        trainer = build(folder / f"at-{step}")
        checkpoint = last_checkpoint(folder / f"at-{step}")
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{step}"
        trainer.load_extra_state(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        resumed.append(trainer)
    return whole, resumed
