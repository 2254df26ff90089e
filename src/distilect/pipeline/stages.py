"""The stages of a run: all are prepared before any training; then each is trained from the weights that the one before it gave.

A method without stages is a single one, trained in the run's own folder. Stage NAME of several has `stages/NAME/` there: its checkpoints,
then its student and `stage.json`, which mark it as finished. A run that was stopped skips finished stages. All write one history.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distilect import ranks
from distilect.errors import RunError
from distilect.files import atomic, atomic_write
from distilect.knowledge import Knowledge
from distilect.models import Student, has_adapters, merge_adapters, save_adapters
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.budget import PLAN, Deadline, plan_epochs
from distilect.pipeline.folders import STAGES, save_student
from distilect.pipeline.metrics import data_fingerprint, score_text, versions
from distilect.pipeline.pace import measure_pace
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.selection import EpisodicSelector, Method, Stage, artefact
from distilect.signals import Prepared
from distilect.training import DistillationTrainer, Fitted, TrainingRows, drop_episodes, fit, load_weights, run_episodes

FINISHED = "stage.json"  # what a stage gave, written last


@dataclass(frozen=True)
class Ready:
    """A stage that can be trained.

    Attributes:
        bench: with the stage's settings and rows.
        stage: its name and settings.
        method, prepared: for these models; the signals of the teachers that it asks.
        rows: for the student.
        of_run: "2 of 3"; empty for the only one.
    """

    bench: Workbench
    stage: Stage
    method: Method
    prepared: Prepared
    rows: TrainingRows
    of_run: str

    @property
    def description(self) -> str:
        """For progress bars."""
        name = self.bench.config.name
        return f"{name} · {self.stage.name} ({self.of_run})" if self.of_run else name

    def plan(self, timed: bool) -> str:
        """What will be done in it, for the user; `timed`: its length is still to be planned."""
        method, train = self.method, self.stage.train
        asked = self.prepared.source.names if self.prepared.source is not None else ()
        how = f" from {', '.join(asked)} ({method.teachers.name})" if asked and method.teachers is not None else ""
        length = f"{train.epochs:g} epochs" if train.token_budget is None else f"{train.token_budget:,} tokens"
        if timed and self.stage.share:
            length = f"{self.stage.share:.0%} of the time"
        kinds = ", ".join(map(_kind_text, method.knowledge))
        return (
            f"stage {self.stage.name} ({self.of_run}): {kinds}{how}; {method.loss_weights.name} weights, {length}, "
            f"{len(self.rows.table):,} rows, learning rate {train.learning_rate:g}"
        )

    def length(self, deadline: Deadline | None) -> float:
        """Steps, tokens or a share of the time, to be compared with other stages of the run."""
        if deadline is not None and self.stage.share:
            return self.stage.share
        train = self.stage.train
        return train.token_budget or train.epochs * math.ceil(len(self.rows.table) / train.batch_size)

    def folder(self, run: Path) -> Path:
        """Where it is trained."""
        return run / STAGES / self.stage.name if self.of_run else run


@dataclass(frozen=True)
class Trained:
    """What the stages gave together.

    Attributes:
        trainer: of the last one.
        fitted: costs of all of them, scores of the last one.
        signals: what asking the teachers took.
        live_forwards: rows that teachers were run on in the steps, over all ranks.
        selection: of the stage whose selector learned in episodes, what `learn_selection` returned.
        by_stage: a line for each stage; empty for a method without stages.
        epochs: of each stage, as they were planned.
    """

    trainer: DistillationTrainer
    fitted: Fitted
    signals: Prepared
    live_forwards: int
    selection: dict[str, Any] | None
    by_stage: list[dict[str, Any]]
    epochs: list[float]


def prepare_stages(bench: Workbench, student: Student) -> list[Ready]:
    """Every stage of the bench's method, with the signals of its teachers and its rows."""
    stages = bench.stages(bench.config.method, student)
    ready: list[Ready] = []
    rows: dict[tuple[bool, bool], TrainingRows] = {}  # with and without extra and credit rows, tokenised once
    for number, stage in enumerate(stages, start=1):
        own = bench.at(stage)
        method, prepared = own.prepare(stage.method, student)
        # Only teachers can label the extra rows: a method without teachers trains on the labelled ones alone.
        extra = method.teachers is not None and own.data.extra is not None
        validation, credit = own.credit_rows(method)
        kind = extra, credit is not None
        if kind not in rows:
            table = own.data.distillation if extra else own.data.train
            rows[kind] = training_rows(student, table, validation, own.data.task, credit)
        ready.append(
            Ready(own, stage, method, prepared, rows[kind], f"{number} of {len(stages)}" if len(stages) > 1 else "")
        )
    return ready


def train_stages(
    student: Student, stages: Sequence[Ready], run: Path, deadline: Deadline | None = None, reported: int = 0
) -> Trained:
    """Train the student in place, stage after stage; goes on where a run in that folder was stopped. Adapters are merged in the end.

    Args:
        deadline: when the run has to be done: stages are as long as that allows.
        reported: rows of dev, which the student is run on after that.
    """
    before: Fitted | None = None
    by_stage: list[dict[str, Any]] = []
    epochs: list[float] = []
    selection: dict[str, Any] | None = None
    for number, ready in enumerate(stages):
        folder, last = ready.folder(run), number == len(stages) - 1
        folder.mkdir(parents=True, exist_ok=True)
        fitted = None if last else _finished(folder, student)
        if fitted is None:
            new_student = ready.bench.new_student if before is None else _copies(student)
            learned = learn_selection(ready, run, new_student)
            selection = learned if learned is not None else selection
            train, seed = ready.stage.train, _seed(ready.bench.config.seed, number)
            if deadline is not None and ready.stage.share:
                share = ready.stage.share / sum(later.stage.share for later in stages[number:])
                pace_of = partial(measure_pace, student, ready.rows, ready.method, ready.prepared, train, seed)
                train = plan_epochs(deadline, share, pace_of, train, folder, len(ready.rows.validation), reported)
            trainer, fitted = fit(
                student,
                ready.rows,
                ready.method,
                ready.prepared.source,
                train,
                folder,
                seed=seed,
                description=ready.description,
                vectors=ready.prepared.vectors,
                log=run,
                stage=ready.stage.name,
                before=before,
                later=sum(each.length(deadline) for each in stages[number + 1 :]) / ready.length(deadline),
            )
            if not last:
                ranks.on_main(_finish, folder, student, fitted)
                del trainer
                gc.collect()  # a Trainer holds itself in circles: its optimiser would stay in memory
        if ready.of_run:
            console.print(
                f"stage {ready.stage.name}: {fitted.steps:,} steps, validation {score_text(fitted.validation)}"
            )
            by_stage.append({"name": ready.stage.name, "method": ready.stage.method.name, **_line(fitted)})
        epochs.append(fitted.planned_epochs)
        before = fitted if before is None else fitted.after(before)
    assert before is not None
    student.model = merge_adapters(student.model)
    if by_stage:
        ranks.on_main(_join_records, run, stages, [line["epochs"] for line in by_stage])
    sources = [ready.prepared.source for ready in stages if ready.prepared.source is not None]
    live = int(ranks.total(sum(source.forwards for source in sources)))
    return Trained(trainer, before, _together([ready.prepared for ready in stages]), live, selection, by_stage, epochs)


def drop_stages(run: Path) -> None:
    """Once the run's student is saved: what stages kept for going on is not needed any more."""
    shutil.rmtree(run / STAGES, ignore_errors=True)
    (run / PLAN).unlink(missing_ok=True)


def learn_selection(ready: Ready, run: Path, new_student: Callable[[int], Student]) -> dict[str, Any] | None:
    """Stage A of a loss-weight selector that learns in episodes; its artefact is kept in the run's folder.

    Returns:
        where the artefact is, its fingerprint, and what learning it cost; None for a selector without artefact.
    """
    bench, config, method, folder = ready.bench, ready.bench.config, ready.method, ready.folder(run)
    selector = method.loss_weights
    if not isinstance(selector, EpisodicSelector):
        return None
    if selector.episodes is None:
        return selector.origin()
    place = run / (f"{artefact.FOLDER}-{ready.stage.name}" if ready.of_run else artefact.FOLDER)
    if ranks.from_main(int((place / artefact.DESCRIPTION).exists())):  # this run was stopped in stage B
        try:
            selector.adopt(place)
        except ValueError as error:
            raise RunError(f"{error}, or remove {place} to learn it again in this run") from None
    else:
        learned = run_episodes(
            new_student,
            ready.rows,
            method,
            ready.prepared.source,
            config.train,
            folder,
            seed=config.seed,
            description=ready.description,
            vectors=ready.prepared.vectors,
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


def _seed(seed: int, number: int) -> int:
    """Of a stage; the run's own for the first one."""
    return int(np.random.SeedSequence([seed % 2**64, number]).generate_state(1)[0]) if number else seed


def _copies(student: Student) -> Callable[[int], Student]:
    """Seed → a copy of the student as it is when a later stage begins; nothing of it is drawn at random."""
    return lambda seed: replace(student, model=copy.deepcopy(student.model))


def _finished(folder: Path, student: Student) -> Fitted | None:
    """What the stage in that folder gave, and the student with its weights; None where it is still to be trained."""
    file = folder / FINISHED
    if not ranks.from_main(int(file.exists())):
        return None
    load_weights(student.model, folder / "student", sharded=False)
    values = json.loads(file.read_text(encoding="utf-8"))
    return Fitted(**values | {"thresholds": None if values["thresholds"] is None else tuple(values["thresholds"])})


def _finish(folder: Path, student: Student, fitted: Fitted) -> None:
    if has_adapters(student.model):  # the next stage trains on
        save_adapters(student.model, folder / "student")
    else:
        save_student(student, folder / "student")
    atomic_write(folder / FINISHED, json.dumps(asdict(fitted)), sync=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _kind_text(kind: Knowledge) -> str:
    """`feature (row means)` where tokens are not compared one by one, as those of another tokenizer cannot be."""
    return f"{kind.name} (row means)" if getattr(kind.options, "tokens", None) == "mean" else kind.name


def _line(fitted: Fitted) -> dict[str, Any]:
    """Of metrics.json."""
    kept = ("epochs", "steps", "tokens", "student_tokens", "seconds", "validation")
    return {name: getattr(fitted, name) for name in kept}


def _together(prepared: Sequence[Prepared]) -> Prepared:
    """What asking took: a row that one stage scored is read from the store by the next, and counted once. All see the same calibrations."""
    forwards = sum(each.forwards for each in prepared)
    most = max(each.forwards + each.reused for each in prepared)
    seconds = sum(each.seconds for each in prepared)
    calibrations = {name: value for each in prepared for name, value in each.calibrations.items()}
    return Prepared(None, seconds=seconds, forwards=forwards, reused=max(0, most - forwards), calibrations=calibrations)


def _join_records(run: Path, stages: Sequence[Ready], epochs: Sequence[float]) -> None:
    """One `selection.parquet` and one `rows.parquet` of all stages, whose epochs are counted on; `examples.parquet` of the last one that has it."""
    examples = [file for ready in stages if (file := ready.folder(run) / "examples.parquet").exists()]
    if examples:
        shutil.copyfile(examples[-1], run / "examples.parquet")
    for name in ("selection.parquet", "rows.parquet"):
        tables, first = [], 0
        for ready, of_stage in zip(stages, epochs, strict=True):
            table = pq.read_table(ready.folder(run) / name)
            if table.num_rows:
                counted = pc.add(table["epoch"], first)
                table = table.set_column(table.column_names.index("epoch"), "epoch", counted)
                tables.append(table.append_column("stage", pa.array([ready.stage.name] * table.num_rows)))
            first += math.ceil(of_stage)
        with atomic(run / name) as temporary:
            pq.write_table(pa.concat_tables(tables, promote_options="default"), temporary, compression="zstd")
