"""A whole job from top to bottom: `run` opens what its methods share, `distil` makes one student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import RunConfig
from distilect.errors import RunError
from distilect.export import write_model_card
from distilect.files import atomic_write
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.folders import check_free, claim, owned, plan_folders, save_student
from distilect.pipeline.metrics import (
    costs,
    data_fingerprint,
    machine,
    row_counts,
    score_text,
    speeds,
    student_size,
    teacher_size,
    thresholds_by_label,
    versions,
)
from distilect.pipeline.predictions import PREDICTIONS, write_predictions
from distilect.pipeline.teachers import Outputs
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.report import build_report
from distilect.selection import EpisodicSelector, Method, artefact, asks_teachers, get_preset
from distilect.signals import Prepared
from distilect.training import TrainingRows, drop_episodes, fit, run_episodes


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


def run(
    config: RunConfig, *, overwrite: bool = False, functions: Mapping[str, Outputs] | None = None
) -> list[RunResult]:
    """Do all that `config` asks for: data, teachers, signals, the method's student and one for each baseline.

    A run that was stopped goes on from its last checkpoint, and a finished one for more epochs where the config differs in nothing
    else; teachers and signals that exist are reused. With several processes
    (`torchrun`, `accelerate launch`) all of them call this and train the student jointly; rank 0 writes.

    Args:
        overwrite: replace earlier runs with these names; each is kept until its successor is about to be trained.
        functions: further teachers, name → function.

    Raises:
        DistilectError: before anything is trained, where possible.
    """
    plans = plan_folders(config)
    for _, single in plans:
        get_preset(single.method.name)  # a misspelt method must not wait for the ones before it
    ranks.start()
    with owned([folder for folder, _ in plans]):
        if ranks.is_main():
            for folder, single in plans:
                check_free(folder, single, overwrite)
        bench = Workbench.open(config, functions)  # data and teachers
        results = []
        for folder, single in plans:
            results.append(distil(bench, folder, single, overwrite))
            student = results[-1].metrics["student"]
            shown = score_text(student["scores"] or student["validation"])
            console.print(f"[green]done[/green] {single.name}: {shown} → {folder}")
        return results


def distil(bench: Workbench, folder: Path, config: RunConfig, overwrite: bool, *, report: bool = True) -> RunResult:
    """Train one student by one method and write the run's folder; `metrics.json` marks it as finished.

    Args:
        report: write the run's page; a comparison has one page for all of its runs.
    """
    started = datetime.now(timezone.utc)
    task, data = bench.data.task, bench.data

    # Student, method, and the signals of the teachers that the method asks.
    student = bench.new_student()
    method, prepared = bench.prepare(config.method, student)
    for line in [*student.report, *prepared.report]:
        console.print(line, markup=False)
    # Only teachers can label the extra rows: a method without teachers trains on the labelled ones alone.
    table = data.distillation if method.teachers is not None else data.train
    rows = training_rows(student, table, data.validation, task)
    for line in rows.report("student"):
        console.print(line, markup=False)

    # Everything that can fail before training has worked, so an earlier run may be replaced now.
    ranks.on_main(claim, folder, config, overwrite)

    # Stage A, where the loss-weight selector has one; then the training itself.
    selection = learn_selection(bench, config, method, prepared, rows, folder)
    trainer, fitted = fit(
        student,
        rows,
        method,
        prepared.source,
        config.train,
        folder,
        seed=config.seed,
        description=config.name,
        vectors=prepared.vectors,
    )
    live_forwards = int(ranks.total(prepared.source.forwards if prepared.source else 0))
    ranks.on_main(save_student, student, folder / "student")

    # Outputs of the student and the teachers on dev. Without dev on the validation split, where only the teachers
    # that the method asks have been run; it has chosen the checkpoint, so it gives no score to report.
    split, reported = ("dev", data.dev) if data.dev is not None else ("validation", data.validation)
    outputs: dict[str, Any] = {}
    if len(reported):
        encoded = student.encode(reported)
        for line in encoded.report("student", split) if split == "dev" else ():
            console.print(line, markup=False)
        outputs["student"] = trainer.predict_rows(encoded)
        if split == "dev" or asks_teachers(config.method):
            outputs |= {f"teacher/{t.name}": bench.outputs(t, reported) for t in bench.teachers}
    cuts = {"student": fitted.thresholds}  # of a multi-label task, from the validation split
    cuts |= {f"teacher/{t.name}": bench.thresholds(t) for t in bench.teachers if f"teacher/{t.name}" in outputs}
    scores = {
        name: task.score(logits, reported.labels, cuts[name]) for name, logits in outputs.items() if split == "dev"
    }
    speed = {}
    if bench.speeds is not None and ranks.is_main():
        shape = f"{student.source['init']} {student.num_layers}"
        if shape not in bench.speeds:
            bench.speeds[shape] = speeds(student, bench.teachers, data)
        speed = bench.speeds[shape]

    metrics = {
        "name": config.name,
        "task": task.to_dict(),
        "method": config.method.name,
        "seed": config.seed,
        "primary": task.primary,
        "student": {
            "scores": scores.get("student", {}),
            "validation": fitted.validation,
            **thresholds_by_label(task, cuts["student"]),
            **student_size(student, folder / "student"),
            **speed.get("student", {}),
        },
        "teachers": [
            {"name": teacher.name, "scores": scores.get(f"teacher/{teacher.name}", {})}
            | thresholds_by_label(task, cuts.get(f"teacher/{teacher.name}"))
            | teacher_size(teacher)
            | speed.get(f"teacher/{teacher.name}", {})
            for teacher in bench.teachers
        ],
        "cost": costs(fitted, prepared, live_forwards, bench.finetune_seconds, selection),
        **({"selection": selection} if selection is not None else {}),
        "rows": row_counts(data, rows.encoded.truncated),
        "validation_labels": "teachers" if data.agreement else "table",
        "class_weights": dict(zip(task.labels, bench.label_options["class_weights"], strict=False)),
        "signals": {"scored_rows": prepared.forwards, "reused_rows": prepared.reused, "live": config.signals.live},
        "versions": versions(),
        "machine": machine(),
        "data_fingerprint": data_fingerprint(data),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if not ranks.is_main():
        return RunResult(folder, metrics, None)

    if outputs:
        write_predictions(folder / PREDICTIONS, split, reported, task, outputs)
    write_model_card(folder / "student", metrics, config)
    atomic_write(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return RunResult(folder, metrics, build_report(folder) if report else None)


def learn_selection(
    bench: Workbench, config: RunConfig, method: Method, prepared: Prepared, rows: TrainingRows, folder: Path
) -> dict[str, Any] | None:
    """Stage A of a loss-weight selector that learns in episodes; its artefact is kept in the run's folder.

    Returns:
        where the artefact is, its fingerprint, and what learning it cost; None for a selector without artefact.
    """
    selector = method.loss_weights
    if not isinstance(selector, EpisodicSelector):
        return None
    if selector.episodes is None:
        return selector.origin()
    place = folder / artefact.FOLDER
    if ranks.from_main(int((place / artefact.DESCRIPTION).exists())):  # this run was stopped in stage B
        try:
            selector.adopt(place)
        except ValueError as error:
            raise RunError(f"{error}, or remove {place} to learn it again in this run") from None
    else:
        learned = run_episodes(
            bench.new_student,
            rows,
            method,
            prepared.source,
            config.train,
            folder,
            seed=config.seed,
            description=config.name,
            vectors=prepared.vectors,
        )
        description = {
            "task": bench.data.task.to_dict(),
            "data_fingerprint": data_fingerprint(bench.data),
            "seed": config.seed,
            "student": config.student.init,
            "teachers": [teacher.name for teacher in bench.teachers],
            "method": config.method.model_dump(exclude_none=True),
            "train": config.train.model_dump(exclude_defaults=True),
            **learned.to_dict(),
            "versions": versions(),
        }
        ranks.on_main(selector.save, place, description)
        selector.freeze()
    ranks.on_main(drop_episodes, folder)
    about = artefact.described(place)["about"]
    selector.spent_tokens = about["student_tokens"]
    console.print(
        f"stage A: {about['episodes']} episodes, {about['steps']:,} steps, {about['seconds']:.0f} s → {place}"
    )
    return {"selector": str(place), "fingerprint": artefact.fingerprint(place), "learned": "in this run"} | about
