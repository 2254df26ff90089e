"""One student from top to bottom: stages, training, scores, files."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import RunConfig, dump_config, parse_config, set_value
from distilect.data import Table
from distilect.evaluation import Prompts
from distilect.export import write_model_card
from distilect.files import atomic_write
from distilect.models import Student, has_adapters, merge_adapters
from distilect.pipeline.budget import Deadline
from distilect.pipeline.folders import claim, save_student
from distilect.pipeline.generations import GENERATIONS, Generations, generations, prompts_for, teachers_write
from distilect.pipeline.metrics import (
    costs,
    data_fingerprint,
    machine,
    row_counts,
    speeds,
    student_size,
    teacher_size,
    thresholds_by_label,
    versions,
)
from distilect.pipeline.predictions import PREDICTIONS, write_predictions
from distilect.pipeline.stages import Ready, Trained, drop_stages, prepare_stages, train_stages
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.report import build_report
from distilect.selection import asks_teachers
from distilect.tasks import Task


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


def distil(
    bench: Workbench,
    folder: Path,
    config: RunConfig,
    overwrite: bool,
    *,
    report: bool = True,
    deadline: Deadline | None = None,
    asked: RunConfig | None = None,
) -> RunResult:
    """Train one student by one method and write the run's folder; `metrics.json` marks it as finished.

    Args:
        report: write the run's page; a comparison has one page for all of its runs.
        deadline: when this student and those after it have to be done.
        asked: what the user's config was before a search changed it; an unfinished run is known by it.
    """
    started = datetime.now(timezone.utc)
    bench = replace(bench, config=config)

    # The student, and every stage's method with the signals of its teachers: what can fail before training fails now.
    student = bench.new_student()
    prompts = prompts_for(bench, student)
    stages = prepare_stages(bench, student)
    _announce(student, stages, timed=deadline is not None)

    # Everything that can fail before training has worked, so an earlier run may be replaced now.
    ranks.on_main(claim, folder, asked or config, overwrite)
    speed = _speeds(bench, student)
    dev = bench.data.dev
    if deadline is not None and dev is not None:  # what the report needs of the teachers is no surprise at the end
        for teacher in bench.teachers:
            bench.outputs(teacher, dev)
        teachers_write(bench, prompts)
    trained = train_stages(student, stages, folder, deadline, len(dev) if dev is not None else 0)
    ranks.on_main(save_student, student, folder / "student")

    reported = _report_outputs(bench, student, trained, prompts)
    metrics = {
        **_result(bench, student, folder, trained, reported, speed),
        "rows": row_counts(bench.data, max(ready.rows.encoded.truncated for ready in stages)),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if not ranks.is_main():
        return RunResult(folder, metrics, None)

    if reported.outputs:
        split, table, task = reported.split, reported.table, bench.data.task
        write_predictions(folder / PREDICTIONS, split, table, task, reported.outputs, student.tokenizer)
    reported.generations.write(folder / GENERATIONS)
    write_model_card(folder / "student", metrics, config)
    if deadline is not None or asked is not None:  # from now on config.yaml repeats the run without budget and search
        atomic_write(folder / "config.yaml", dump_config(settled(config, trained)))
    atomic_write(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    drop_stages(folder)
    return RunResult(folder, metrics, build_report(folder) if report else None)


def _announce(student: Student, stages: Sequence[Ready], timed: bool) -> None:
    """Print what was decided and what was cut, each line once."""
    lines = [line for ready in stages for line in [*ready.prepared.report, *ready.rows.report("student")]]
    lines += [ready.plan(timed) for ready in stages if ready.of_run]
    for line in dict.fromkeys([*student.report, *lines]):
        console.print(line, markup=False)


def _speeds(bench: Workbench, student: Student) -> dict[str, Any]:
    """Speed of the student and of its teachers, timed once per shape of student; nothing where it is not asked for."""
    if bench.speeds is None or not ranks.is_main():
        return {}
    shape = f"{student.source['init']} {student.num_layers}"
    if shape not in bench.speeds:
        timed = student
        if has_adapters(student.model):  # it is shipped without
            timed = replace(student, model=merge_adapters(copy.deepcopy(student.model)))
        bench.speeds[shape] = speeds(timed, bench.teachers, bench.data)
    return bench.speeds[shape]


@dataclass(frozen=True)
class _Reported:
    """Outputs of the student and of the teachers on the rows that the report is about.

    Attributes:
        split, table: dev; without it the validation split, which has chosen the checkpoint and so gives no scores.
        outputs: logits by `student` or `teacher/NAME`.
        thresholds: of a multi-label task, by the same names, chosen on the validation split.
        generations: completions that language models have written.
    """

    split: str
    table: Table
    outputs: dict[str, Any]
    thresholds: dict[str, Any]
    generations: Generations

    def scores(self, task: Task, name: str) -> dict[str, float]:
        """The scores of one model on dev."""
        if self.split != "dev" or name not in self.outputs:
            return {}
        scores = task.score(self.outputs[name], self.table.labels, self.thresholds[name], self.table.offsets)
        return scores | self.generations.scores(name)


def _report_outputs(bench: Workbench, student: Student, trained: Trained, prompts: Prompts | None) -> _Reported:
    """Run the student on the reported rows; of the teachers on the validation split only those that the method asks."""
    dev = bench.data.dev
    split, table = ("dev", dev) if dev is not None else ("validation", bench.data.validation)
    outputs: dict[str, Any] = {}
    if len(table):
        encoded = student.encode(table)
        for line in encoded.report("student", split) if split == "dev" else ():
            console.print(line, markup=False)
        outputs["student"] = trained.trainer.predict_rows(encoded)
        if split == "dev" or asks_teachers(bench.config.method):
            outputs |= {f"teacher/{t.name}": bench.outputs(t, table) for t in bench.teachers}
    cuts = {"student": trained.fitted.thresholds}
    cuts |= {f"teacher/{t.name}": bench.thresholds(t) for t in bench.teachers if f"teacher/{t.name}" in outputs}
    return _Reported(split, table, outputs, cuts, generations(bench, student, prompts))


def _result(
    bench: Workbench, student: Student, folder: Path, trained: Trained, reported: _Reported, speed: dict[str, Any]
) -> dict[str, Any]:
    """What `metrics.json` says of models, cost and origin."""
    config, data, task = bench.config, bench.data, bench.data.task
    calibrations = trained.signals.calibrations
    return {
        "name": config.name,
        "task": task.to_dict(),
        "method": config.method.name,
        "seed": config.seed,
        "primary": task.primary,
        "student": {
            "scores": reported.scores(task, "student"),
            "validation": trained.fitted.validation,
            **thresholds_by_label(task, reported.thresholds["student"]),
            **student_size(student, folder / "student"),
            **speed.get("student", {}),
        },
        "teachers": [
            {"name": teacher.name, "scores": reported.scores(task, f"teacher/{teacher.name}")}
            | thresholds_by_label(task, reported.thresholds.get(f"teacher/{teacher.name}"))
            | ({"calibration": calibrations[teacher.name]} if teacher.name in calibrations else {})
            | teacher_size(teacher)
            | ({"answers": answered} if (answered := bench.answered(teacher)) else {})
            | speed.get(f"teacher/{teacher.name}", {})
            for teacher in bench.teachers
        ],
        "cost": costs(
            trained.fitted, trained.signals, trained.live_forwards, bench.finetune_seconds, trained.selection
        ),
        **({"selection": trained.selection} if trained.selection is not None else {}),
        **({"stages": trained.by_stage} if trained.by_stage else {}),
        **reported.generations.about(),
        "validation_labels": "teachers" if data.agreement else "table",
        "class_weights": dict(zip(task.labels, bench.label_options["class_weights"], strict=False)),
        "signals": {
            "scored_rows": trained.signals.forwards,
            "reused_rows": trained.signals.reused,
            "live": config.signals.live,
        },
        "versions": versions(),
        "machine": machine(),
        "data_fingerprint": data_fingerprint(data),
    }


def settled(config: RunConfig, trained: Trained) -> RunConfig:
    """The config with the epochs that its budget came to, in place of the budget."""
    if config.budget is None:
        return config
    raw = config.model_dump(mode="json")
    for stage, epochs in zip(trained.by_stage, trained.epochs, strict=False):
        set_value(raw, ["method", "stages", stage["name"], "train", "epochs"], epochs, "budget")
    if not trained.by_stage:
        raw["train"] |= {"epochs": trained.epochs[0], "token_budget": None}
    return parse_config(raw | {"budget": None})
