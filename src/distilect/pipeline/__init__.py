"""The whole job, from a table and checkpoints to a run's folder: what the command line and `distill` call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import RunConfig, TeacherConfig, parse_config, set_value
from distilect.data import encode, load_table
from distilect.errors import ConfigError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher, load_teacher, resolve_path
from distilect.pipeline.folders import check_free, owned, plan_folders
from distilect.pipeline.metrics import score_text, versions
from distilect.pipeline.teachers import Outputs
from distilect.pipeline.work import RunResult, Workbench
from distilect.progress import console
from distilect.selection import asks_teachers, get_preset

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
    functions = _functions(teachers)
    raw: dict[str, Any] = {
        "name": name,
        "output": output,
        "data": {"train": train, "dev": dev},
        "teachers": [t if isinstance(t, str) else dict(t) for t in teachers if not callable(t)],
        "student": student,
        "method": method if isinstance(method, str) else dict(method),
    }
    for key, value in settings.items():
        if isinstance(value, Mapping):  # data={"text": "review"} adds to train and dev, it does not replace them
            for part, inner in value.items():
                set_value(raw, [*key.split("__"), part], inner, f"{key}={value!r}")
        else:
            set_value(raw, key.split("__"), value, f"{key}={value!r}")
    return run(parse_config(raw), overwrite=overwrite, functions=functions)[0]


def _functions(teachers: Sequence[Any]) -> dict[str, Outputs]:
    """The teachers that are functions, by name.

    Raises:
        ConfigError: two have the same name (two lambdas, say): one would silently take the other's place.
    """
    found: dict[str, Outputs] = {}
    for teacher in teachers:
        if callable(teacher):
            name = getattr(teacher, "__name__", type(teacher).__name__)
            if name in found:
                raise ConfigError(
                    f"two teachers are functions called {name!r}: give them different names (def, not lambda)"
                )
            found[name] = teacher
    return found


def run(
    config: RunConfig, *, overwrite: bool = False, functions: Mapping[str, Outputs] | None = None
) -> list[RunResult]:
    """Do all that `config` asks for: teachers, signals, the method's student and one for each baseline.

    Several processes (`torchrun`, `accelerate launch`) all call it and train one student together; rank 0 writes.

    A run that was stopped goes on from its last checkpoint; teachers and signals that exist are reused.

    Args:
        overwrite: replace earlier runs with these names; each is kept until its successor is about to be trained.
        functions: further teachers, name → function.

    Raises:
        DistilectError: before anything is trained, where possible.
    """
    plans = plan_folders(config)
    for method in (config.method, *config.baselines):
        get_preset(method.name)
    ranks.start()
    results = []
    with owned([folder for folder, _ in plans]):
        for folder, single in plans:
            if ranks.is_main():
                check_free(folder, single, overwrite)
        bench = Workbench.open(config, functions or {})
        for folder, single in plans:
            results.append(bench.distil(folder, single, overwrite))
            student = results[-1].metrics["student"]
            scores = score_text(student["scores"] or student["validation"])
            console.print(f"[green]done[/green] {single.name}: {scores} → {results[-1].folder}")
    return results


def score(config: RunConfig) -> list[str]:
    """Fill the store with the teacher signals that the run would need; returns what was done, a line each.

    Several processes share the rows out; all of them call this.
    """
    ranks.start()
    bench = Workbench.open(config, {})
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
    config = parse_config(
        {
            "name": path.name,
            "output": str(path.parent),
            "data_dir": data_dir,
            "data": {"train": train, "dev": dev, "text": text, "label": label},
            "student": init,
            "method": "finetune",
            "seed": seed,
            "train": {
                "epochs": epochs,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "max_length": max_length,
            },
        }
    )
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
    table, task = load_table(data, text=text, label=label, data_dir=Path(data_dir), like=Path(resolve_path(model)))
    teacher = load_teacher(TeacherConfig(path=model), task, precision=precision, max_length=max_length)
    assert isinstance(teacher, CheckpointTeacher)
    encoded = encode(table, teacher.tokenizer, teacher.max_length)
    logits = predict(teacher.model, encoded, precision=precision)
    return {"scores": task.score(logits[:, teacher.order], table.labels), "rows": len(table), "task": task.to_dict()}
