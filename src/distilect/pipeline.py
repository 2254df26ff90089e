"""The whole job, from a table and checkpoints to a run's folder: what the command line and `distill` call."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from distilect import __version__
from distilect.config import (
    FinetuneConfig,
    MethodConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    dump_config,
)
from distilect.config import parse_config as _parse
from distilect.data import Data, Table, encode, load_data, load_table
from distilect.errors import ConfigError, MethodError, RunError
from distilect.evaluation import bytes_on_disk, flops_per_token, measure_speed, parameters
from distilect.evaluation import predict as _predict
from distilect.export import write_model_card
from distilect.knowledge import Layout
from distilect.models import (
    CallableTeacher,
    CheckpointTeacher,
    Student,
    Teacher,
    build_student,
    checkpoint_fingerprint,
    default_device,
    load_teacher,
    quiet,
    resolve_path,
    same_tokens,
)
from distilect.progress import console
from distilect.report import build_report
from distilect.selection import (
    SelectionContext,
    TeacherSelector,
    asks_teachers,
    build_method,
    build_teacher_selector,
    get_preset,
)
from distilect.signals import Prepared, SignalStore, prepare_signals
from distilect.tasks import Task
from distilect.training import Fitted, TrainingRows, fit

Outputs = Callable[[list[Any]], Any]  # texts → array [N, C]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: holds `student/`, `metrics.json` and the other files of a run.
        metrics: the content of `metrics.json`.
        report: the page to look at.
    """

    folder: Path
    metrics: dict[str, Any]
    report: Path | None


def distill(
    train: str,
    dev: str | None = None,
    *,
    teachers: Sequence[str | Mapping[str, Any] | Outputs] = (),
    student: str,
    method: str | Mapping[str, Any] = "kd",
    name: str = "run",
    output: str = "runs",
    overwrite: bool = False,
    **settings: Any,
) -> RunResult:
    """Distil `teachers` into a small student in one call.

    Args:
        train, dev: tables (.csv .tsv .jsonl .parquet), a `datasets` folder or a hub id.
        teachers: fine-tuned checkpoints (folders or hub ids), `TeacherConfig` mappings, or functions texts → array [N, C] of
            logits (named after the function).
        student: a checkpoint or a teacher's name or path, as `NAME[layers=1,3,5]`, `NAME[layers=3]` or `NAME[fresh]`.
        method: a preset's name, or a `MethodConfig` mapping.
        settings: any other key of the configuration, nested or dotted with `__`: `train__epochs=5`, `seed=1`.

    Raises:
        DistilectError: something does not fit; the message says what, and what to do.

    Example:
        >>> result = distill("train.csv", "dev.csv", teachers=["bert-a", "bert-b"],
        ...                  student="bert-a[layers=1,3,5]", method="uniform")      # doctest: +SKIP
    """
    functions = {getattr(t, "__name__", "function"): t for t in teachers if callable(t)}
    raw: dict[str, Any] = {
        "name": name,
        "output": output,
        "data": {"train": train, "dev": dev},
        "teachers": [t if isinstance(t, str) else dict(t) for t in teachers if not callable(t)],
        "student": student,
        "method": method if isinstance(method, str) else dict(method),
    }
    for key, value in settings.items():
        _nest(raw, key.split("__"), value)
    return run(_parse(raw), overwrite=overwrite, functions=functions)[0]


def _nest(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        raw = raw.setdefault(key, {})
    raw[last] = (
        value | raw.get(last, {}) if isinstance(value, dict) and isinstance(raw.get(last), dict) else value
    )


def run(
    config: RunConfig, *, overwrite: bool = False, functions: Mapping[str, Outputs] | None = None
) -> list[RunResult]:
    """Do all that `config` asks for: teachers, signals, the method's student and one for each baseline.

    A run that was stopped goes on from its last checkpoint; teachers and signals that exist are reused.

    Args:
        overwrite: remove folders of earlier runs with these names.
        functions: further teachers, name → function.

    Raises:
        DistilectError: before anything is trained, where possible.
    """
    plans = _plan_folders(config)
    for method in (config.method, *config.baselines):
        get_preset(method.name)
    for folder, single in plans:
        _claim(folder, single, overwrite)
    bench = _Workbench.open(config, functions or {})
    results = []
    for folder, single in plans:
        results.append(bench.distil(folder, single))
        console.print(
            f"[green]done[/green] {single.name}: {_score_line(results[-1].metrics)} → {results[-1].folder}"
        )
    return results


def score(config: RunConfig) -> list[str]:
    """Fill the store with the teacher signals that the run would need; returns what was done, a line each."""
    bench = _Workbench.open(config, {})
    lines = []
    for method in (config.method, *config.baselines):
        if asks_teachers(method):
            _, _, prepared = bench.prepare(method, bench.new_student(config.seed))
            lines += [f"{method.name}: {line}" for line in prepared.report]
    return lines or ["no method of this config asks a teacher: nothing to score"]


# ---- the folders of a run ------------------------------------------------------------------------------------------


def _plan_folders(config: RunConfig) -> list[tuple[Path, RunConfig]]:
    """(folder, config) for the method and for each baseline; repeated names get a number."""
    store = Path(config.signals.store).parts[0]
    plans, seen = [], {"teachers", store}
    if config.name in seen:
        raise ConfigError(
            f"name: {config.name!r} is kept for the folder of that name beside the runs: choose another"
        )
    for number, method in enumerate((config.method, *config.baselines)):
        name = config.name if number == 0 else f"{config.name}-{method.name}"
        while name in seen:
            name = f"{name}-{number}"
        seen.add(name)
        single = config.model_copy(update={"name": name, "method": method, "baselines": []})
        plans.append((Path(config.output) / name, single))
    return plans


def _claim(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Make the folder ours: empty, or an unfinished run of the same configuration that can go on.

    Raises:
        RunError: it holds something else, which is left as it is.
    """
    recorded = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a folder for the run: choose another name or output")
    if folder.exists() and any(folder.iterdir()):
        is_run = recorded.exists()
        if overwrite and is_run:
            shutil.rmtree(folder)
        elif not is_run:
            raise RunError(
                f"output folder {folder} is not empty and holds no run: choose another name= or output="
            )
        elif (folder / "metrics.json").exists():
            raise RunError(f"output folder {folder} holds a finished run: use --overwrite, or another name=")
        elif recorded.read_text(encoding="utf-8") != dump_config(config):
            raise RunError(
                f"output folder {folder} holds an unfinished run with other settings: use --overwrite, or another name= "
                f"(to go on with it: distilect run {recorded})"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(recorded, dump_config(config))
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; choose another output=") from None


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# ---- the work ------------------------------------------------------------------------------------------------------


@dataclass
class _Workbench:
    """Everything that the methods of one config share: rows, teachers, the store."""

    config: RunConfig
    data: Data
    teachers: list[Teacher]
    finetune_seconds: float
    store: SignalStore

    @classmethod
    def open(cls, config: RunConfig, functions: Mapping[str, Outputs]) -> _Workbench:
        data = load_data(config.data, config.task, config.seed, Path(config.data_dir))
        for line in data.report:
            console.print(line)
        started = time.perf_counter()
        teachers = _teachers(config, data, functions)
        store = SignalStore(Path(config.output) / config.signals.store)
        return cls(config, data, teachers, time.perf_counter() - started, store)

    @property
    def task(self) -> Task:
        return self.data.task

    def new_student(self, seed: int) -> Student:
        """The student as it is before training; the same for every method with this seed."""
        paths = {t.name: str(t.path) for t in self.teachers if isinstance(t, CheckpointTeacher)}
        return build_student(
            self.config.student, self.task, paths, seed, max_length=self.config.train.max_length
        )

    def prepare(
        self, method: MethodConfig, student: Student
    ) -> tuple[TeacherSelector | None, list[Teacher], Prepared]:
        """The teacher selector, the teachers that it keeps, and their signals on all rows that will be asked for."""
        selector = build_teacher_selector(method)
        if selector is None:
            return None, [], Prepared.none()
        if not self.teachers:
            raise MethodError(f"method {method.name!r} needs a teacher, the config names none: add teachers:")
        pool = self.teachers
        held_out = self._signals(pool, self.data.reward, [[] for _ in pool])
        _setup(selector, self._context(method, pool, held_out))
        kept = selector.keeps() if hasattr(selector, "keeps") else None
        if kept is not None:
            pool = [pool[k] for k in kept]
            held_out = self._signals(pool, self.data.reward, [[] for _ in pool])
        built = build_method(method, _layout(student, pool, self.task), selector)
        _setup(built.teachers, self._context(method, pool, held_out, built.kinds))
        prepared = self._signals(pool, self.data.distillation, built.fields(len(pool)))
        return selector, pool, prepared

    def _signals(self, pool: list[Teacher], table: Table, fields: list[list[str]]) -> Prepared:
        config = self.config.signals
        return prepare_signals(
            pool, table, self.store, fields,
            budget_gb=config.disk_budget_gb, max_tokens=config.max_tokens, live=config.live,
        )  # fmt: skip

    def _context(
        self, method: MethodConfig, pool: list[Teacher], held_out: Prepared, kinds: tuple[str, ...] = ()
    ) -> SelectionContext:
        """What selectors may learn before training; the reward split only."""
        rows = np.arange(len(self.data.reward))
        source, labels = held_out.source, self.data.reward.labels
        assert source is not None
        logits = source.fetch(self.data.reward, rows, [[] for _ in pool]).logits.numpy() if len(rows) else None
        scores: tuple[float, ...] = ()
        if logits is not None:
            scores = tuple(self.task.score(logits[:, k], labels)[self.task.primary] for k in range(len(pool)))
        return SelectionContext(
            teachers=tuple(t.name for t in pool),
            kinds=kinds,
            regression=self.task.kind == "regression",
            held_out_logits=logits,
            held_out_labels=labels,
            held_out_scores=scores,
            seed=self.config.seed,
        )

    def distil(self, folder: Path, config: RunConfig) -> RunResult:
        """Train one student by one method and write the run's folder."""
        started = datetime.now(timezone.utc)
        student = self.new_student(config.seed)
        selector, pool, prepared = self.prepare(config.method, student)
        for line in prepared.report:
            console.print(line)
        method = build_method(config.method, _layout(student, pool, self.task), selector)
        kinds = method.kinds
        context = SelectionContext(teachers=tuple(t.name for t in pool), kinds=kinds, seed=config.seed)
        for part in (method.rows, method.mix):
            _setup(part, context)
        table = self.data.distillation if method.teachers is not None else self.data.train
        rows = _training_rows(student, table, self.data.reward, self.task)
        trainer, fitted = fit(
            student,
            rows,
            method,
            prepared.source,
            config.train,
            folder,
            seed=config.seed,
            description=config.name,
        )
        dev_encoded = (
            encode(self.data.dev, student.tokenizer, student.max_length)
            if self.data.dev is not None
            else None
        )
        dev_logits = trainer.predict_rows(dev_encoded) if dev_encoded is not None else None
        _save_student(student, folder / "student")
        metrics = self._metrics(config, folder, student, fitted, prepared, rows, dev_logits, started)
        _write(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        write_model_card(folder / "student", metrics, config)
        return RunResult(folder, metrics, build_report(folder))

    # ---- what is reported -------------------------------------------------------------------------------------------

    def _metrics(
        self, config: RunConfig, folder: Path, student: Student, fitted: Fitted, prepared: Prepared,
        rows: TrainingRows, dev_logits: np.ndarray | None, started: datetime,
    ) -> dict[str, Any]:  # fmt: skip
        speeds = self._speeds(student)
        size = parameters(student.model)
        forwards = prepared.forwards + (prepared.source.forwards if prepared.source is not None else 0)
        dev = self.data.dev
        return {
            "name": config.name,
            "task": self.task.to_dict(),
            "method": config.method.name,
            "seed": config.seed,
            "primary": self.task.primary,
            "student": {
                "scores": {}
                if dev is None or dev_logits is None
                else self.task.score(dev_logits, dev.labels),
                "held_out": fitted.held_out,
                "parameters": size.total,
                "parameters_without_embeddings": size.without_embeddings,
                "bytes": bytes_on_disk(folder / "student"),
                "layers": student.num_layers,
                "flops_per_token": flops_per_token(student.model),
                "source": student.source,
                **speeds.get("student", {}),
            },
            "teachers": self._teacher_metrics(speeds),
            "cost": {
                "train_seconds": round(fitted.seconds, 3),
                "scoring_seconds": round(prepared.seconds, 3),
                "finetune_seconds": round(self.finetune_seconds, 3),
                "teacher_forwards": forwards,
                "steps": fitted.steps,
                "tokens": fitted.tokens,
                "resumed_at_step": fitted.resumed,
            },
            "rows": {
                "train": len(self.data.train),
                "reward": len(self.data.reward),
                "dev": 0 if dev is None else len(dev),
                "extra": 0 if self.data.extra is None else len(self.data.extra),
                "truncated": rows.encoded.truncated,
            },
            "signals": {
                "reused_rows": prepared.reused,
                "scored_rows": prepared.forwards,
                "live": config.signals.live,
            },
            "versions": versions(),
            "machine": {
                "platform": platform.platform(),
                "device": str(default_device()),
                "cores": os.cpu_count(),
            },
            "data_fingerprint": _data_fingerprint(self.data),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _teacher_metrics(self, speeds: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Scores of all teachers on dev (through the store: they run once), size and speed."""
        dev, found = self.data.dev, []
        for teacher in self.teachers:
            line: dict[str, Any] = {"name": teacher.name, "scores": {}, "parameters": None}
            if dev is not None:
                source = self._signals([teacher], dev, [[]]).source
                assert source is not None
                logits = source.fetch(dev, np.arange(len(dev)), [[]]).logits[:, 0].numpy()
                line["scores"] = self.task.score(logits, dev.labels)
            if isinstance(teacher, CheckpointTeacher):
                line |= {
                    "parameters": parameters(teacher.model).total,
                    "bytes": bytes_on_disk(teacher.path),
                    "path": str(teacher.path),
                    "layers": teacher.num_layers,
                }
            found.append(line | speeds.get(f"teacher {teacher.name}", {}))
        return found

    def _speeds(self, student: Student) -> dict[str, dict[str, Any]]:
        """Latency and throughput of student and teachers, measured together on the first texts."""
        table = self.data.dev if self.data.dev is not None else self.data.train
        texts = table.text(np.arange(min(64, len(table))))
        models = {"student": (student.model, student.tokenizer, student.max_length)}
        for teacher in self.teachers:
            if isinstance(teacher, CheckpointTeacher):
                models[f"teacher {teacher.name}"] = (teacher.model, teacher.tokenizer, teacher.max_length)
        measured = measure_speed(models, texts, repeats=40)
        return {name: speed.to_dict() for name, speed in measured.items()}


def _setup(selector: Any, context: SelectionContext) -> None:
    """Let a selector learn what it may before training; a value that it refuses is the user's error."""
    try:
        selector.setup(context)
    except ValueError as error:
        raise MethodError(f"selector {selector.name!r}: {error}") from None


def _layout(student: Student, pool: list[Teacher], task: Task) -> Layout:
    """What kinds of knowledge have to know of the models."""
    checkpoints = [t if isinstance(t, CheckpointTeacher) else None for t in pool]
    return Layout(
        regression=task.kind == "regression",
        student_layers=student.num_layers,
        student_width=student.hidden_size,
        teachers=tuple(t.name for t in pool),
        teacher_layers=tuple(t.num_layers if t else 0 for t in checkpoints),
        teacher_widths=tuple(t.hidden_size if t else 0 for t in checkpoints),
        same_tokens=tuple(t is not None and same_tokens(student, t) for t in checkpoints),
    )


def _training_rows(student: Student, table: Table, held_out: Table, task: Task) -> TrainingRows:
    return TrainingRows(
        table=table,
        encoded=encode(table, student.tokenizer, student.max_length),
        held_out=held_out,
        held_out_encoded=encode(held_out, student.tokenizer, student.max_length),
        task=task,
        cls_token_id=student.tokenizer.cls_token_id,
    )


def _save_student(student: Student, folder: Path) -> None:
    """A plain Hugging Face checkpoint with its tokenizer, whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        student.model.save_pretrained(temporary)
        student.tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import accelerate
    import tokenizers
    import torch
    import transformers

    modules = {
        "torch": torch,
        "transformers": transformers,
        "tokenizers": tokenizers,
        "accelerate": accelerate,
    }
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"distilect": __version__, "python": platform.python_version(), "numpy": np.__version__, **found}


def _data_fingerprint(data: Data) -> str:
    parts = [data.train, data.reward, data.dev, data.extra]
    text = " ".join("-" if part is None else part.fingerprint() for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _score_line(metrics: Mapping[str, Any]) -> str:
    scores = metrics["student"]["scores"] or metrics["student"]["held_out"]
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


# ---- teachers ------------------------------------------------------------------------------------------------------


def _teachers(config: RunConfig, data: Data, functions: Mapping[str, Outputs]) -> list[Teacher]:
    """All teachers of the config, in its order, then the functions; fine-tunes those that do not exist yet."""
    named = _named(config)
    found: list[Teacher] = []
    for name, spec in named.items():
        if spec.finetune is not None:
            folder = finetuned_teacher(name, spec.finetune, data, config)
            spec = TeacherConfig(name=name, path=str(folder), max_length=spec.max_length)
        found.append(
            load_teacher(
                spec.model_copy(update={"name": name}), data.task,
                precision=config.signals.precision, max_length=config.train.max_length, data_dir=Path(config.data_dir),
            )
        )  # fmt: skip
    found += [CallableTeacher(name, function, data.task) for name, function in functions.items()]
    names = [teacher.name for teacher in found]
    if len(set(names)) != len(names):
        raise ConfigError(f"teachers need different names, got {', '.join(names)}: set name: on each")
    return found


def _named(config: RunConfig) -> dict[str, TeacherConfig]:
    """Teachers by name; an unnamed one is called after the last part of its path."""
    named: dict[str, TeacherConfig] = {}
    for number, spec in enumerate(config.teachers, start=1):
        name = spec.name or (
            Path(spec.table).stem if spec.table else Path(spec.path or f"teacher-{number}").name
        )
        if name in named:
            raise ConfigError(f"two teachers are called {name!r}: set a different name: on each")
        named[name] = spec
    return named


def finetuned_teacher(name: str, spec: FinetuneConfig, data: Data, config: RunConfig) -> Path:
    """The folder of a fine-tuned teacher; trained now unless the same one exists.

    The same one means: same weights to start from, same settings, same training rows. A teacher never sees the rows held
    out of train, so they can be used for rewards and choices.
    """
    start, _, _ = spec.init.partition("[")
    identity = {
        "spec": spec.model_dump(),
        "init": checkpoint_fingerprint(resolve_path(start)),
        "rows": [data.train.fingerprint(), data.reward.fingerprint()],
        "task": data.task.to_dict(),
        "max_length": config.train.max_length,
        "precision": config.train.precision,
        "format": 1,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(config.output) / "teachers" / f"{name}-{digest}"
    if (folder / "distilect-teacher.json").exists():
        console.print(f"teacher {name}: reused from {folder}")
        return folder
    work = folder.with_name(folder.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    student = build_student(
        StudentConfig(init=spec.init), data.task, {}, spec.seed, max_length=config.train.max_length
    )
    settings = config.train.model_copy(
        update={"epochs": spec.epochs, "learning_rate": spec.learning_rate, "batch_size": spec.batch_size,
                "accumulation": 1, "patience": None, "dropout": None, "evaluations": 1}
    )  # fmt: skip
    fitted = _finetune(student, data, settings, work, spec.seed, f"teacher {name}")
    _save_student(student, work / "model")
    record = {
        "identity": identity,
        "held_out": fitted.held_out,
        "seconds": fitted.seconds,
        "versions": versions(),
    }
    (work / "model" / "distilect-teacher.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    os.replace(work / "model", folder)
    shutil.rmtree(work, ignore_errors=True)
    console.print(
        f"teacher {name}: fine-tuned in {fitted.seconds:.0f} s, held out {_values(fitted.held_out)} → {folder}"
    )
    return folder


def _finetune(
    student: Student, data: Data, settings: TrainConfig, folder: Path, seed: int, what: str
) -> Fitted:
    """Train on gold labels only."""
    method = build_method(MethodConfig(name="finetune"), _layout(student, [], data.task), None)
    context = SelectionContext(teachers=(), kinds=method.kinds, seed=seed)
    for part in (method.rows, method.mix):
        _setup(part, context)
    rows = _training_rows(student, data.train, data.reward, data.task)
    _, fitted = fit(student, rows, method, None, settings, folder, seed=seed, description=what)
    return fitted


def _values(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


# ---- single verbs --------------------------------------------------------------------------------------------------


def finetune(
    train: str,
    *,
    init: str,
    output: str,
    dev: str | None = None,
    epochs: float = 3.0,
    learning_rate: float = 5e-5,
    batch_size: int = 32,
    seed: int = 0,
    text: list[str] | None = None,
    label: str | None = None,
    max_length: int = 128,
    data_dir: str = ".",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fine-tune a checkpoint on a table: how teachers are made. The run's folder is `output`, the model `output/student`."""
    path = Path(output)
    config = _parse(
        {
            "name": path.name,
            "output": str(path.parent),
            "data_dir": data_dir,
            "data": {"train": train, "dev": dev, "text": text, "label": label},
            "student": init,
            "method": "finetune",
            "seed": seed,
            "train": {
                "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "max_length": max_length
            },
        }
    )  # fmt: skip
    return run(config, overwrite=overwrite)[0].metrics


def evaluate(
    model: str,
    data: str,
    *,
    text: list[str] | None = None,
    label: str | None = None,
    data_dir: str = ".",
    max_length: int = 128,
    precision: str = "auto",
) -> dict[str, Any]:
    """Scores of any classification or regression checkpoint on a labelled table."""
    table, task = load_table(
        data, text=text, label=label, data_dir=Path(data_dir), like=Path(resolve_path(model))
    )
    teacher = load_teacher(TeacherConfig(path=model), task, precision=precision, max_length=max_length)
    assert isinstance(teacher, CheckpointTeacher)
    encoded = encode(table, teacher.tokenizer, teacher.max_length)
    logits = _predict(teacher.model, encoded, precision=precision)
    return {
        "scores": task.score(logits[:, teacher.order], table.labels),
        "rows": len(table),
        "task": task.to_dict(),
    }
