"""The teachers of a run: loaded, or fine-tuned first and kept for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distilect import ranks
from distilect.config import FinetuneConfig, MethodConfig, RunConfig, StudentConfig, TeacherConfig, TrainConfig
from distilect.data import Data, TokenReader, fold_of, load_data, load_token_data, pad_id
from distilect.errors import ConfigError, StudentError
from distilect.files import atomic_write
from distilect.models import (
    CallableTeacher,
    CheckpointTeacher,
    EncoderTeacher,
    EndpointTeacher,
    Teacher,
    build_student,
    checkpoint_fingerprint,
    load_teacher,
    load_tokenizer,
    parse_spec,
    resolve_path,
)
from distilect.pipeline.assembly import assemble, label_options, layout_of, set_up, training_rows
from distilect.pipeline.folders import save_student
from distilect.pipeline.metrics import score_text, versions
from distilect.progress import console
from distilect.selection import Encoder, SelectionContext
from distilect.training import fit

Outputs = Callable[[list[Any]], Any]  # texts → array [N, C]

RECORD = "distilect-teacher.json"  # what the teacher was made from, beside its weights


def data_of(config: RunConfig, like: str | None = None, seed: int | None = None) -> Data:
    """The rows of a run; those of a language model are read with the student's tokenizer.

    Args:
        like: a teacher's checkpoint, which tells the task of a table without labels.
        seed: of the split; default: the run's.
    """
    folder, seed = Path(config.data_dir), config.seed if seed is None else seed
    if config.task.kind == "causal-lm":
        _check_checkpoints(config)
        return load_token_data(config.data, config.task, seed, token_reader(config), folder)
    return load_data(config.data, config.task, seed, folder, like)


def _check_checkpoints(config: RunConfig) -> None:
    """Raises:
    ConfigError: a teacher of a language model is a table, or behind an API.
    """
    for name, spec in named_teachers(config).items():
        if spec.path is None and spec.finetune is None:
            raise ConfigError(
                f"teacher {name!r}: the teachers of a language model are checkpoints (path: or finetune:), as a table or an API does not "
                "give the probabilities of all tokens"
            )


def token_reader(config: RunConfig) -> TokenReader:
    """How the rows of a language model are read: with the tokenizer of the checkpoint that the student is cut from."""
    spec = named_teachers(config).get(parse_spec(config.student.init)[0])
    named = config.student.tokenizer or (spec.tokenizer if spec is not None else None) or backbone_path(config)
    tokenizer = load_tokenizer(resolve_path(named), StudentError)
    return TokenReader(tokenizer, config.student.max_length or config.train.max_length, pad_id(tokenizer))


def teachers_of(config: RunConfig, data: Data, functions: Mapping[str, Outputs]) -> list[Teacher]:
    """All teachers of the config, in its order, then the functions; fine-tunes those that do not exist yet."""
    found: list[Teacher] = []
    named = named_teachers(config)
    for name, spec in named.items():
        spec, copies = spec.model_copy(update={"name": name}), list[Path]()
        if spec.finetune is not None:
            folder = finetuned_teacher(name, spec.finetune, data, config, spec.tokenizer)
            copies = fold_copies(name, spec.finetune, data, config, spec.tokenizer)
            spec = TeacherConfig(name=name, path=str(folder), max_length=spec.max_length)
        if spec.endpoint is not None:
            found.append(EndpointTeacher(name, spec, data.task, Path(config.data_dir)))
            continue
        found.append(
            load_teacher(
                spec,
                data.task,
                precision=config.signals.precision,
                max_length=config.train.max_length if data.train.tokens is None else data.train.tokens.limit,
                data_dir=Path(config.data_dir),
                tokens=config.signals.tokens,
            )
        )
        found[-1].copies = copies
    if data.task.kind == "causal-lm" and functions:
        raise ConfigError("the teachers of a language model are checkpoints, not functions: give their folders")
    for name, function in functions.items():
        if name in named:
            raise ConfigError(
                f"a teacher and a function are both called {name!r}: set a different name: on the teacher"
            )
        found.append(CallableTeacher(name, function, data.task))
    return found


def load_encoder(spec: Encoder, config: RunConfig, teachers: list[Teacher]) -> EncoderTeacher:
    """The frozen encoder that a selector names: `backbone`, a teacher, or a checkpoint."""
    known = {t.name: t.path for t in teachers if isinstance(t, CheckpointTeacher)}
    path = backbone_path(config) if spec.name == "backbone" else known.get(spec.name, spec.name)
    return EncoderTeacher(
        path, pooling=spec.pooling, max_length=config.train.max_length, precision=config.signals.precision
    )


def backbone_path(config: RunConfig) -> str:
    """The pre-trained model that the student was cut from, before any fine-tuning of this run; no teacher needs to be loaded."""
    name = parse_spec(config.student.init)[0]
    spec = named_teachers(config).get(name)
    if spec is not None and spec.finetune is not None:
        name = parse_spec(spec.finetune.init)[0]
        spec = named_teachers(config).get(name)
    return spec.path if spec is not None and spec.path is not None else name


def named_teachers(config: RunConfig) -> dict[str, TeacherConfig]:
    """Teachers by name; one without a name takes the last part of its path or model, the student of a run that of the run."""
    named: dict[str, TeacherConfig] = {}
    for number, spec in enumerate(config.teachers, start=1):
        path = Path(spec.path or spec.model or f"teacher-{number}")
        last = path.parent.name if path.name == "student" and path.parent.name else path.name
        name = spec.name or (Path(spec.table).stem if spec.table else last)
        if name in named:
            raise ConfigError(f"two teachers are called {name!r}: set a different name: on each")
        named[name] = spec
    return named


def finetuned_teacher(
    name: str, spec: FinetuneConfig, data: Data, config: RunConfig, tokenizer: str | None = None
) -> Path:
    """The folder of a fine-tuned teacher; trained now unless the same one exists: same start, settings and training rows.

    A teacher never sees the validation split, so it can be used for rewards and choices. A training that was stopped goes on.
    """
    if not data.train.num_labelled:
        raise ConfigError(
            f"teacher {name!r}: finetune needs labels, train has none: give a fine-tuned checkpoint as path:"
        )
    folder = teacher_folder(name, spec, data, config, tokenizer)
    if ranks.from_main(int((folder / RECORD).exists())):
        console.print(f"teacher {name}: reused from {folder}")
        return folder
    work = folder.with_name(folder.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    task, seed = data.task, spec.seed
    init = StudentConfig(init=spec.init, tokenizer=tokenizer)
    student = build_student(init, task, {}, seed, max_length=config.train.max_length)
    train = _settings(spec, config.train)
    layout = layout_of(student, [], task, **label_options(train, data.train, task))
    method = assemble(MethodConfig(name="finetune"), layout, None, seed)
    set_up(SelectionContext(teachers=(), kinds=method.kinds, seed=seed), *method.selectors.values())
    rows = training_rows(student, data.train, data.validation, task)
    for line in [*student.report, *rows.report(f"teacher {name}")]:
        console.print(line, markup=False)
    dropout = {key: value for key, value in vars(student.model.config).items() if "dropout" in key}
    _, fitted = fit(student, rows, method, None, train, work, seed=seed, description=f"teacher {name}")
    vars(student.model.config).update(dropout)  # a student that is cut from it begins with the checkpoint's own

    def keep() -> None:
        """The folder of the teacher, whole or not at all."""
        save_student(student, work / "model")
        record = {
            "identity": _identity(spec, data, config, tokenizer),
            "validation": fitted.validation,
            "seconds": fitted.seconds,
            "versions": versions(),
        }
        atomic_write(work / "model" / RECORD, json.dumps(record, indent=2))
        os.replace(work / "model", folder)
        shutil.rmtree(work, ignore_errors=True)

    ranks.on_main(keep)
    validation = score_text(fitted.validation)
    console.print(f"teacher {name}: fine-tuned in {fitted.seconds:.0f} s, validation {validation} → {folder}")
    return folder


def fold_copies(
    name: str, spec: FinetuneConfig, data: Data, config: RunConfig, tokenizer: str | None = None
) -> list[Path]:
    """The folders of a teacher's copies, each fine-tuned without one fold of train; none unless `folds` is set."""
    if spec.folds is None:
        return []
    if data.task.kind == "causal-lm":
        raise ConfigError(f"teacher {name!r}: folds is set, which language models do not have yet: remove it")
    folds, alone = fold_of(data.train.ids, spec.folds), spec.model_copy(update={"folds": None})
    found = []
    for fold in range(spec.folds):
        part = replace(data, train=data.train.take(np.flatnonzero(folds != fold)))
        found.append(finetuned_teacher(f"{name}-without-{fold}", alone, part, config, tokenizer))
    return found


def teacher_folder(
    name: str, spec: FinetuneConfig, data: Data, config: RunConfig, tokenizer: str | None = None
) -> Path:
    """Where `finetuned_teacher` keeps this teacher; it is complete once it holds its record."""
    identity = json.dumps(_identity(spec, data, config, tokenizer), sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return Path(config.output) / "teachers" / f"{name}-{digest}"


def _identity(spec: FinetuneConfig, data: Data, config: RunConfig, tokenizer: str | None) -> dict[str, Any]:
    """Everything that the teacher's weights depend on."""
    settings = _settings(spec, config.train).model_dump(exclude={"token_budget", "dropout"}, exclude_defaults=True)
    dropout = {} if spec.dropout is None else {"dropout": spec.dropout}
    return {
        "spec": spec.model_dump(exclude_defaults=True, exclude={"dropout", "folds"}),  # dropout is in `train`
        "init": checkpoint_fingerprint(resolve_path(parse_spec(spec.init)[0])),
        "rows": [data.train.fingerprint(), data.validation.fingerprint()],
        "task": data.task.to_dict(),
        # without defaults: a setting that is added later gives no teacher another name
        "train": settings | dropout,
        "format": 1,
        **({"tokenizer": tokenizer} if tokenizer else {}),
    }


def _settings(spec: FinetuneConfig, train: TrainConfig) -> TrainConfig:
    """The teacher's own epochs, learning rate, batch size and dropout; of the run's settings those that suit a teacher."""
    changes: dict[str, Any] = {
        "epochs": spec.epochs,
        "learning_rate": spec.learning_rate,
        "batch_size": spec.batch_size,
        "gradient_accumulation_steps": 1,
        "early_stopping_patience": None,
        "dropout": spec.dropout,
        "evaluations": 1,
        "logging_steps": 10,
        "token_budget": None,
    }
    return train.model_copy(update=changes)
