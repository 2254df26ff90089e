"""The whole job, from a table and checkpoints to a run's folder: what the command line and `distill` call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import (
    GenerationConfig,
    RunConfig,
    TaskConfig,
    TeacherConfig,
    apply_overrides,
    parse_config,
    parse_part,
    set_values,
)
from distilect.data import TokenReader, load_table, load_token_table, pad_id
from distilect.errors import ConfigError, TeacherError
from distilect.evaluation import predict
from distilect.models import (
    CheckpointTeacher,
    is_language_checkpoint,
    load_teacher,
    load_tokenizer,
    resolve_path,
    usable_length,
)
from distilect.pipeline.advise import advise
from distilect.pipeline.generations import evaluated
from distilect.pipeline.inputs import is_model, smaller, student_name, table_path, teacher_settings
from distilect.pipeline.job import RunResult
from distilect.pipeline.metrics import versions
from distilect.pipeline.pretrain import pretrain
from distilect.pipeline.runs import run
from distilect.pipeline.teachers import Outputs
from distilect.pipeline.trim import trim
from distilect.pipeline.work import Workbench
from distilect.selection import asks_teachers

__all__ = ["RunResult", "advise", "distill", "evaluate", "finetune", "pretrain", "run", "score", "trim", "versions"]


KEEP_EPOCHS = 10  # of the recipe in a call that says nothing of its length


def distill(
    train: Any,
    dev: Any = None,
    *,
    teachers: Sequence[Any] = (),
    student: Any = None,
    layers: int | None = None,
    method: str | Mapping[str, Any] = "keep",
    budget: str | None = None,
    name: str = "run",
    output: str | Path = "runs",
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> RunResult:
    """Distil `teachers` into a small student in one call.

    By default the student is half of the first teacher's layers and learns by the recipe `keep`, for as long as the budget allows; without
    one for 10 epochs.

    Args:
        train, dev: tables: paths (.csv .tsv .jsonl .parquet, a `datasets` folder, a hub id), pandas `DataFrame`s or
            `datasets.Dataset`s.
        teachers: fine-tuned checkpoints (folders or hub ids), `TeacherConfig` mappings, transformers models or pipelines, or functions
            texts → array [N, C] of logits (named after the function).
        student: a checkpoint or a teacher's name or path, as `NAME[layers=1,3,5]`, `NAME[layers=3]` or `NAME[fresh]`; or a model.
        layers: of the first teacher, evenly spaced, where no student is given.
        method: a preset's name, or a `MethodConfig` mapping.
        budget: time for the whole run, such as `30min`.
        overwrite: replace an earlier run of this name.
        overrides: further settings as `key.sub=value`, such as `train.warmup_ratio=0.06`.
        settings: any other key of the configuration, nested or dotted with `__`: `train__epochs=5`, `seed=1`.

    Raises:
        DistilectError: something does not fit; the message says what, and what to do.

    Example:
        >>> result = distill("train.csv", "dev.csv", teachers=["bert-a"], layers=6, budget="1h")    # doctest: +SKIP
    """
    folder = Path(output)
    functions = {_name_of(t): t for t in teachers if _is_function(t)}
    if len(functions) < sum(map(_is_function, teachers)):
        raise ConfigError("two teachers are functions of one name: give them different names (def, not lambda)")
    found = [teacher_settings(t, folder) for t in teachers if not _is_function(t)]
    raw: dict[str, Any] = {
        "name": name,
        "output": str(output),
        "data": {"train": train, "dev": dev},
        "teachers": found,
        "student": smaller(found, layers) if student is None else student_name(student, folder),
        "method": method if isinstance(method, str) else dict(method),
        "budget": budget,
    }
    if student is not None and layers is not None:
        raise ConfigError(f"got both student={student!r} and layers={layers}: write {student}[layers={layers}]")
    set_values(raw, settings)
    apply_overrides(raw, overrides)
    named = raw["method"] if isinstance(raw["method"], str) else raw["method"].get("name")
    if named == "keep" and raw["budget"] is None:
        raw["train"] = {"epochs": KEEP_EPOCHS} | dict(raw.get("train") or {})
    raw["data"] |= {
        role: table_path(raw["data"].get(role), role, folder) for role in ("train", "dev", "validation", "extra")
    }
    return run(parse_config(raw), overwrite=overwrite, functions=functions)[0]


def _is_function(teacher: Any) -> bool:
    return callable(teacher) and not is_model(teacher)


def _name_of(function: Outputs) -> str:
    return getattr(function, "__name__", type(function).__name__)


def score(config: RunConfig) -> list[str]:
    """Fill the store with the teacher signals that the run would need; returns what was done, a line each.

    With several processes all of them call this and share the rows out.
    """
    ranks.start()
    bench = Workbench.open(config)
    lines = []
    for method in (config.method, *config.baselines):
        if asks_teachers(method):
            _, prepared = bench.prepare(method, bench.new_student())
            lines += [f"{method.name}: {line}" for line in prepared.report]
    return lines or ["no method of this config asks a teacher: nothing to score"]


# short names of what `finetune` is most often told, as on the command line
_SHORT = {
    **{name: f"train__{name}" for name in ("epochs", "learning_rate", "batch_size", "max_length")},
    **{name: f"task__{name}" for name in ("kind", "labels", "metrics")},
    **{name: f"data__{name}" for name in ("text", "label")},
}


def finetune(
    train: Any,
    *,
    init: Any,
    output: str | Path,
    dev: Any = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune a checkpoint on a table: how teachers are made.

    Args:
        train, dev: tables, as in `distill`.
        init: the checkpoint to start from, as the student in `distill`.
        output: the run's folder; the model is in its `student/`.
        overrides: settings of the run as `key.sub=value`, such as `train.warmup_ratio=0.06`.
        settings: as in `distill`; `epochs`, `learning_rate`, `batch_size`, `max_length`, `kind`, `labels`, `metrics`, `text` and
            `label` need no prefix.

    Returns:
        the content of the run's `metrics.json`.
    """
    path = Path(output)
    raw: dict[str, Any] = {
        "name": path.name,
        "output": str(path.parent),
        "student": student_name(init, path.parent),
        "method": "finetune",
        "train": {"dropout": None},  # a teacher's own
    }
    raw["data"] = {"train": table_path(train, "train", path.parent), "dev": table_path(dev, "dev", path.parent)}
    set_values(raw, {_SHORT.get(key, key): value for key, value in settings.items()})
    apply_overrides(raw, overrides)
    return run(parse_config(raw), overwrite=overwrite)[0].metrics


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    text: list[str] | None = None,
    label: str | list[str] | None = None,
    data_dir: str | Path = ".",
    max_length: int | None = None,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    precision: str = "auto",
    generate: int = 0,
    max_new_tokens: int = 256,
    answer_after: str | None = None,
) -> dict[str, Any]:
    """Scores of any classification, multi-label or regression checkpoint on a labelled table; of a language model on its completions.

    Args:
        label: label column; or one column per label of a multi-label checkpoint.
        max_length: in tokens; default: the length that comes with the checkpoint.
        kind, labels, metrics: as in `TaskConfig`; default: those of the checkpoint, and the metrics of such a task.
            `labels` are the names of the checkpoint's outputs, in their order.
        generate: of a language model, rows whose completions it writes, to be scored too.
        max_new_tokens, answer_after: of these, as in `GenerationConfig`.

    Returns:
        scores, rows, task; of entities also `types`: type → precision, recall, f1, entities; report: lines about rows that were cut and
        text that the tokenizer does not know.
    """
    given = {"kind": kind, "labels": labels, "metrics": metrics}
    settings = parse_part(TaskConfig, {key: value for key, value in given.items() if value is not None})
    written = {"rows": generate, "max_new_tokens": max_new_tokens, "answer_after": answer_after}
    wanted = parse_part(GenerationConfig, written)
    like = Path(resolve_path(str(model)))
    if kind == "causal-lm" or (kind is None and is_language_checkpoint(str(like))):
        return _evaluate_tokens(str(model), str(data), settings, wanted, text, Path(data_dir), max_length, precision)
    if wanted.rows:
        raise ConfigError("completions are wanted (--generate), but only language models write: leave it out")
    table, task = load_table(str(data), text=text, label=label, data_dir=Path(data_dir), like=like, given=settings)
    spec = TeacherConfig(path=str(model), labels=list(labels) if labels else None)
    teacher = load_teacher(spec, task, precision=precision, max_length=max_length)
    assert isinstance(teacher, CheckpointTeacher)
    encoded = teacher.encode(table)
    logits = predict(teacher.model, encoded, precision=precision)[:, teacher.order]
    types = task.type_scores(logits, table.labels, table.offsets)
    return {
        "scores": task.score(logits, table.labels, teacher.thresholds, table.offsets),
        **({"types": types} if types else {}),
        "rows": len(table),
        "task": task.to_dict(),
        "report": encoded.report(teacher.name, "evaluated"),
    }


def _evaluate_tokens(
    model: str,
    data: str,
    settings: TaskConfig,
    generation: GenerationConfig,
    text: list[str] | None,
    data_dir: Path,
    max_length: int | None,
    precision: str,
) -> dict[str, Any]:
    """`evaluate` of a language model; rows are cut at the length that comes with it, unless another one is given."""
    tokenizer = load_tokenizer(resolve_path(model), TeacherError)
    length = max_length or usable_length(None, tokenizer, None)
    reader = TokenReader(tokenizer, length, pad_id(tokenizer))
    table, task, report = load_token_table(data, reader, text=text, task=settings, data_dir=data_dir)
    teacher = load_teacher(TeacherConfig(path=model), task, precision=precision, max_length=length)
    assert isinstance(teacher, CheckpointTeacher)
    outputs = predict(teacher.model, teacher.encode(table), precision=precision)
    written = evaluated(table, tokenizer, teacher.model, generation, precision)
    return {
        "scores": task.score(outputs, table.labels, offsets=table.offsets) | written,
        "rows": len(table),
        "task": task.to_dict(),
        "report": report,
    }
