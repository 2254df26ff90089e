"""The whole job, from a table and checkpoints to a run's folder: what the command line and `distill` call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import RunConfig, TeacherConfig, apply_override, parse_config, set_value
from distilect.data import load_table
from distilect.errors import ConfigError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher, load_teacher, resolve_path
from distilect.pipeline.job import RunResult, run
from distilect.pipeline.metrics import versions
from distilect.pipeline.teachers import Outputs
from distilect.pipeline.work import Workbench
from distilect.selection import asks_teachers

__all__ = ["RunResult", "distill", "evaluate", "finetune", "run", "score", "versions"]


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
    raw: dict[str, Any] = {
        "name": name,
        "output": output,
        "data": {"train": train, "dev": dev},
        "teachers": [t if isinstance(t, str) else dict(t) for t in teachers if not callable(t)],
        "student": student,
        "method": method if isinstance(method, str) else dict(method),
    }
    for key, value in settings.items():
        # data={"text": "review"} adds to train and dev, it does not replace them.
        parts = {(part,): inner for part, inner in value.items()} if isinstance(value, Mapping) else {(): value}
        for part, inner in parts.items():
            set_value(raw, [*key.split("__"), *part], inner, f"{key}={value!r}")
    functions: dict[str, Outputs] = {}
    for teacher in teachers:
        if callable(teacher):
            called = getattr(teacher, "__name__", type(teacher).__name__)
            if called in functions:
                raise ConfigError(
                    f"two teachers are functions called {called!r}: give them different names (def, not lambda)"
                )
            functions[called] = teacher
    return run(parse_config(raw), overwrite=overwrite, functions=functions)[0]


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


def finetune(
    train: str,
    *,
    init: str,
    output: str,
    dev: str | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fine-tune a checkpoint on a table: how teachers are made.

    Args:
        init: the checkpoint to start from.
        output: the run's folder; the model is in its `student/`.
        overrides: settings of the run as `key.sub=value`, such as `train.epochs=5`.

    Returns:
        the content of the run's `metrics.json`.
    """
    path = Path(output)
    raw: dict[str, Any] = {"name": path.name, "output": str(path.parent), "data": {"train": train, "dev": dev}}
    raw |= {"student": init, "method": "finetune"}
    for override in overrides:
        apply_override(raw, override)
    return run(parse_config(raw), overwrite=overwrite)[0].metrics


def evaluate(
    model: str,
    data: str,
    *,
    text: list[str] | None = None,
    label: str | None = None,
    data_dir: str = ".",
    max_length: int | None = None,
    precision: str = "auto",
) -> dict[str, Any]:
    """Scores of any classification or regression checkpoint on a labelled table.

    Args:
        max_length: in tokens; default: the length that comes with the checkpoint.

    Returns:
        scores, rows, task; report: lines about rows that were cut and text that the tokenizer does not know.
    """
    table, task = load_table(data, text=text, label=label, data_dir=Path(data_dir), like=Path(resolve_path(model)))
    teacher = load_teacher(TeacherConfig(path=model), task, precision=precision, max_length=max_length)
    assert isinstance(teacher, CheckpointTeacher)
    encoded = teacher.encode(table)
    logits = predict(teacher.model, encoded, precision=precision)
    return {
        "scores": task.score(logits[:, teacher.order], table.labels),
        "rows": len(table),
        "task": task.to_dict(),
        "report": encoded.report(teacher.name, "evaluated"),
    }
