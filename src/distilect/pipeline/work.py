"""The work that the methods of one config share: rows, teachers and signals once, then a student for each method."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from distilect import ranks
from distilect.augment import augment
from distilect.config import MethodConfig, RunConfig
from distilect.data import Data, Table, encode, load_data
from distilect.errors import MethodError, RunError
from distilect.export import write_model_card
from distilect.knowledge import Layout, Response
from distilect.models import CheckpointTeacher, Student, Teacher, build_student
from distilect.pipeline.assembly import assemble, layout_of, sampler_of, set_up, training_rows
from distilect.pipeline.folders import claim, save_student, write_text
from distilect.pipeline.metrics import (
    data_fingerprint,
    machine,
    row_counts,
    speeds,
    student_size,
    teacher_size,
    versions,
)
from distilect.pipeline.predictions import PREDICTIONS, write_predictions
from distilect.pipeline.teachers import Outputs, backbone_path, load_encoder, teachers_of
from distilect.progress import console
from distilect.report import build_report
from distilect.selection import (
    EpisodicSelector,
    Method,
    SelectionContext,
    artefact,
    asks_teachers,
    build_teacher_selector,
)
from distilect.signals import Prepared, SignalStore, prepare_signals
from distilect.training import (
    DistillationTrainer,
    Fitted,
    StageA,
    TrainingRows,
    drop_episodes,
    fit,
    keep_newest_checkpoint,
    run_episodes,
)

COSTS = ("seconds", "steps", "tokens", "rows", "probed_rows")  # of stage A; beside those of the run


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


@dataclass(frozen=True)
class Planned:
    """A method, not yet set up, and the teachers that it keeps.

    Attributes:
        context: what selectors may learn before training, but for a sample of train.
        validation: the teachers on the validation split; None for a method without teachers.
    """

    method: Method
    pool: list[Teacher]
    context: SelectionContext
    validation: Prepared | None

    @property
    def asks(self) -> tuple[object, ...]:
        """Two methods with the same value want the same signals."""
        encoders = {s.needs.encoder for s in self.method.selectors.values() if s.needs.encoder is not None}
        return (tuple(t.name for t in self.pool), repr(self.method.all_fields(len(self.pool))), frozenset(encoders))


@dataclass
class Workbench:
    """Everything that the methods of one config share.

    Attributes:
        speeds: speeds by student, measured once for all runs of the same models; None: measured for each run.
        timed: measure them at all; beside other work on the same machine they would mean nothing.
    """

    config: RunConfig
    data: Data
    teachers: list[Teacher]
    finetune_seconds: float
    store: SignalStore
    speeds: dict[str, Any] | None = None
    timed: bool = True

    @classmethod
    def open(cls, config: RunConfig, functions: Mapping[str, Outputs]) -> Workbench:
        """Read the data, load or fine-tune the teachers, open the store."""
        data = load_data(config.data, config.task, config.seed, Path(config.data_dir))
        if config.data.augment is not None:
            data = enlarged(data, config)
        for line in data.report:
            console.print(line)
        started = time.perf_counter()
        teachers = teachers_of(config, data, functions)
        store = SignalStore(Path(config.output) / config.signals.store)
        return cls(config, data, teachers, time.perf_counter() - started, store)

    def new_student(self, seed: int | None = None) -> Student:
        """The student as it is before training; the same for every method. `seed`: of fresh weights; default: the run's."""
        config = self.config
        paths = {t.name: str(t.path) for t in self.teachers if isinstance(t, CheckpointTeacher)}
        seed = config.seed if seed is None else seed
        return build_student(config.student, self.data.task, paths, seed, max_length=config.train.max_length)

    # ---- the method and its signals --------------------------------------------------------------------------------

    def plan(self, config: MethodConfig, student: Student) -> Planned:
        """What the method is and whom it asks, before anybody is asked on the rows of train."""
        selector = build_teacher_selector(config)
        if selector is None:
            method = assemble(config, layout_of(student, [], self.data.task), None, self.config.seed)
            return Planned(method, [], SelectionContext(teachers=(), kinds=method.kinds, seed=self.config.seed), None)
        if not self.teachers:
            raise MethodError(f"method {config.name!r} needs a teacher, the config names none: add teachers:")
        validation = self.signals(self.teachers, self.data.validation, [[] for _ in self.teachers])
        context = self._context(self.teachers, validation)
        kept = None
        if selector.narrows:  # a method that believes one teacher never asks the others
            set_up(selector, context)
            kept = selector.kept
        pool = self.teachers if kept is None else [self.teachers[k] for k in kept]
        layout = layout_of(student, pool, self.data.task)
        method = assemble(config, layout, selector, self.config.seed)
        return Planned(method, pool, _narrowed(context, kept, method, layout), validation)

    def ask(self, planned: Planned) -> Prepared:
        """The signals of its teachers on all rows that the method will ask for, and the vectors that its selectors look at."""
        fields = planned.method.all_fields(len(planned.pool))
        prepared = self.signals(planned.pool, self.data.distillation, fields)
        self._add_vectors(planned.method, prepared)
        return prepared

    def prepare(self, config: MethodConfig, student: Student) -> tuple[Method, Prepared]:
        """The method, set up, and the signals of the teachers that it keeps on all rows that it will ask for."""
        planned = self.plan(config, student)
        method, context, validation = planned.method, planned.context, planned.validation
        if validation is None:
            self._set_up(method, context)
            return method, Prepared.none()
        prepared = self.ask(planned)
        self._set_up(method, replace(context, sample=sampler_of(self.data.distillation, prepared)))
        prepared.forwards += validation.forwards + (validation.source.forwards if validation.source else 0)
        prepared.seconds += validation.seconds
        return method, prepared

    def _add_vectors(self, method: Method, prepared: Prepared) -> None:
        """Row vectors of the frozen encoder that the method's selectors look at, computed once like teacher signals."""
        wanted = {s.needs.encoder for s in method.selectors.values() if s.needs.encoder is not None}
        if not wanted:
            return
        if len(wanted) > 1:
            raise MethodError(f"selectors want different encoders {sorted(map(str, wanted))}: give them the same one")
        encoder = load_encoder(wanted.pop(), self.config, self.teachers)
        vectors = self.signals([encoder], self.data.distillation, [[]])
        prepared.vectors, prepared.report = vectors.source, [*prepared.report, *vectors.report]
        prepared.seconds += vectors.seconds
        prepared.forwards += vectors.forwards
        prepared.reused += vectors.reused

    def signals(self, pool: list[Teacher], table: Table, fields: list[list[str]]) -> Prepared:
        """The signals of some teachers on a table: scored where the store lacks them."""
        config = self.config.signals
        return prepare_signals(
            pool,
            table,
            self.store,
            fields,
            budget_gb=config.disk_budget_gb,
            max_tokens=config.max_tokens,
            live=config.live,
        )

    def _set_up(self, method: Method, context: SelectionContext) -> None:
        for selector in method.selectors.values():
            set_up(selector, context)

    def _context(self, pool: list[Teacher], validation: Prepared) -> SelectionContext:
        """What selectors may learn before training; the validation split only, never dev."""
        task, table = self.data.task, self.data.validation
        assert validation.source is not None
        logits = None
        scores: tuple[float, ...] = ()
        if len(table):
            logits = validation.source.fetch(table, np.arange(len(table)), [[] for _ in pool]).logits.cpu().numpy()
            scores = tuple(task.score(logits[:, k], table.labels)[task.primary] for k in range(len(pool)))
        return SelectionContext(
            teachers=tuple(t.name for t in pool),
            kinds=(),
            regression=task.kind == "regression",
            validation_logits=logits,
            validation_labels=table.labels,
            validation_scores=scores,
            teacher_sizes=tuple(teacher_size(t)["parameters"] or 0 for t in pool),
            seed=self.config.seed,
            epochs=self.config.train.epochs,
            num_labelled=self.data.distillation.num_labelled,
            num_rows=len(self.data.distillation),
        )

    # ---- learning to select ----------------------------------------------------------------------------------------

    def learn_selection(
        self, config: RunConfig, method: Method, prepared: Prepared, rows: TrainingRows, folder: Path
    ) -> dict[str, Any] | None:
        """Stage A, where the loss-weight selector has one, kept in the run's folder; None for every other method.

        Returns:
            where the selection module is, its fingerprint, and what learning it cost.
        """
        selector = method.loss_weights
        if not isinstance(selector, EpisodicSelector):
            return None
        if selector.episodes is None:
            return selector.origin()
        place = folder / artefact.FOLDER
        there = ranks.from_main(int((place / artefact.DESCRIPTION).exists()))
        if there:  # of this run, which was stopped in stage B
            try:
                selector.adopt(place)
            except ValueError as error:
                raise RunError(f"{error}, or remove {place} to learn it again in this run") from None
        else:
            learned = run_episodes(
                self.new_student,
                rows,
                method,
                prepared.source,
                config.train,
                folder,
                seed=config.seed,
                description=config.name,
                vectors=prepared.vectors,
            )
            if ranks.is_main():
                selector.save(place, self._learned_from(config, learned))
            selector.freeze()
        ranks.barrier()
        if ranks.is_main():
            drop_episodes(folder)
        about = artefact.described(place)["about"]
        selector.spent_tokens = about["student_tokens"]
        console.print(
            f"stage A: {about['episodes']} episodes, {about['steps']:,} steps, {about['seconds']:.0f} s → {place}"
        )
        return {"selector": str(place), "fingerprint": artefact.fingerprint(place), "learned": "in this run"} | about

    def _learned_from(self, config: RunConfig, learned: StageA) -> dict[str, Any]:
        """What the artefact says of how it was learned."""
        return {
            "task": self.data.task.to_dict(),
            "data_fingerprint": data_fingerprint(self.data),
            "seed": config.seed,
            "student": config.student.init,
            "teachers": [teacher.name for teacher in self.teachers],
            "method": config.method.model_dump(exclude_none=True),
            "train": config.train.model_dump(exclude_defaults=True),
            **learned.to_dict(),
            "versions": versions(),
        }

    # ---- one student -----------------------------------------------------------------------------------------------

    def distil(self, folder: Path, config: RunConfig, overwrite: bool, *, report: bool = True) -> RunResult:
        """Train one student by one method and write the run's folder; `metrics.json` makes it a finished one.

        Without `report` no page is written: a comparison has one page for all of its runs.
        """
        started = datetime.now(timezone.utc)
        student = self.new_student()
        method, prepared = self.prepare(config.method, student)
        for line in prepared.report:
            console.print(line)
        # a method without teachers has nothing to learn on rows that only teachers can label
        table = self.data.distillation if method.teachers is not None else self.data.train
        rows = training_rows(student, table, self.data.validation, self.data.task)
        if ranks.is_main():
            claim(folder, config, overwrite)
        ranks.barrier()
        selection = self.learn_selection(config, method, prepared, rows, folder)
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
        prepared.live = int(ranks.total(prepared.source.forwards if prepared.source else 0))
        if ranks.is_main():
            save_student(student, folder / "student")
        ranks.barrier()
        metrics = {
            "name": config.name,
            "task": self.data.task.to_dict(),
            "method": config.method.name,
            "seed": config.seed,
            "primary": self.data.task.primary,
            **self._models(student, trainer, fitted, folder, config.method),
            "cost": self._cost(fitted, prepared, selection),
            **({"selection": selection} if selection is not None else {}),
            "rows": row_counts(self.data, rows.encoded.truncated),
            "signals": {"scored_rows": prepared.forwards, "reused_rows": prepared.reused, "live": config.signals.live},
            "versions": versions(),
            "machine": machine(),
            "data_fingerprint": data_fingerprint(self.data),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        if not ranks.is_main():
            return RunResult(folder, metrics, None)
        write_model_card(folder / "student", metrics, config)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        keep_newest_checkpoint(folder)  # not before: a run that is killed until here still needs its best one
        return RunResult(folder, metrics, build_report(folder) if report else None)

    def _models(
        self, student: Student, trainer: DistillationTrainer, fitted: Fitted, folder: Path, method: MethodConfig
    ) -> dict[str, Any]:
        """Scores, sizes and speeds of student and teachers; what they say goes to `predictions.parquet`."""
        # before the speeds: several processes make these together
        split, table, said = self._outputs(student, trainer, method)
        if table is not None and ranks.is_main():
            teachers = {name: logits for name, logits in said.items() if name is not None}
            write_predictions(folder / PREDICTIONS, split, table, self.data.task, said[None], teachers)
        scored = table if split == "dev" else None  # held-out rows chose the checkpoint: no score to report
        speed = self._speeds(student) if self.timed and ranks.is_main() else {"student": {}}
        return {
            "student": {
                "scores": self._scores(said[None], scored),
                "validation": fitted.validation,
                **student_size(student, folder / "student"),
                **speed["student"],
            },
            "teachers": [
                {"name": teacher.name, "scores": self._scores(said.get(teacher.name), scored)}
                | teacher_size(teacher)
                | speed.get(f"teacher {teacher.name}", {})
                for teacher in self.teachers
            ],
        }

    def _cost(self, fitted: Fitted, prepared: Prepared, selection: dict[str, Any] | None = None) -> dict[str, Any]:
        """Wall times, teacher rows, steps and tokens; teachers' runs over dev are part of the report, not of the method."""
        return {
            "train_seconds": round(fitted.seconds, 3),
            "scoring_seconds": round(prepared.seconds, 3),
            "finetune_seconds": round(self.finetune_seconds, 3),
            "teacher_forwards": prepared.forwards + prepared.live,
            "steps": fitted.steps,
            "tokens": fitted.tokens,
            "teacher_rows": fitted.asked,
            "probed_rows": fitted.probed,
            "forward_tokens": fitted.forward_tokens,
            "stage_tokens": fitted.stage_tokens,
            "student_tokens": fitted.student_tokens,
            "resumed_at_step": fitted.resumed,
            **({f"selection_{k}": selection[k] for k in COSTS if k in selection} if selection else {}),
        }

    def _speeds(self, student: Student) -> dict[str, Any]:
        if self.speeds is None:
            return speeds(student, self.teachers, self.data)
        shape = f"{student.source['init']} {student.num_layers}"
        if shape not in self.speeds:
            self.speeds[shape] = speeds(student, self.teachers, self.data)
        found: dict[str, Any] = self.speeds[shape]
        return found

    def _outputs(
        self, student: Student, trainer: DistillationTrainer, method: MethodConfig
    ) -> tuple[str, Table | None, dict[str | None, Any]]:
        """Which split is reported on, its rows, and the logits [N, C] on them: of the student under None, of teachers by name.

        Without dev these are the held-out rows, on which only teachers that the method asks have been run already.
        """
        split, table = ("dev", self.data.dev) if self.data.dev is not None else ("validation", self.data.validation)
        if not len(table):
            return split, None, {None: None}
        encoded = encode(table, student.tokenizer, student.max_length)
        said: dict[str | None, Any] = {None: trainer.predict_rows(encoded)}
        if split == "dev" or asks_teachers(method):
            said |= {teacher.name: self._teacher_outputs(teacher, table) for teacher in self.teachers}
        return split, table, said

    def _teacher_outputs(self, teacher: Teacher, table: Table) -> Any:
        """Through the store: a teacher runs once over dev, whatever the number of methods."""
        source = self.signals([teacher], table, [[]]).source
        assert source is not None
        return source.fetch(table, np.arange(len(table)), [[]]).logits[:, 0].cpu().numpy()

    def _teacher_scores(self, teacher: Teacher) -> dict[str, float]:
        dev = self.data.dev
        return {} if dev is None else self._scores(self._teacher_outputs(teacher, dev), dev)

    def _scores(self, logits: Any, table: Table | None) -> dict[str, float]:
        return {} if table is None else self.data.task.score(logits, table.labels)


def enlarged(data: Data, config: RunConfig) -> Data:
    """The rows of a run with changed copies of those of train, none of which is a row held out or of dev."""
    spec = config.data.augment
    assert spec is not None
    others = [table for table in (data.validation, data.dev, data.extra) if table is not None and len(table)]
    made = augment(
        data.train,
        spec.times,
        seed=spec.seed,
        method=spec.method,
        model=spec.model or backbone_path(config),
        keep_labels=spec.labels,
        exclude=others,
    )
    extra = made.table if data.extra is None else Table.concat([data.extra, made.table])
    line = f"augmented: {len(made.table):,} rows made of train by {spec.method}"
    return replace(data, extra=extra, report=[*data.report, line])


def _narrowed(context: SelectionContext, kept: list[int] | None, method: Method, layout: Layout) -> SelectionContext:
    """The context of a pool of which some teachers are kept, with what the method copies and the widths filled in."""
    context = replace(
        context, kinds=method.kinds, student_width=layout.student_width, teacher_widths=layout.teacher_widths
    )
    response = next((kind.distance_to for kind in method.knowledge if isinstance(kind, Response)), None)
    if response is not None:
        context = replace(context, response=response)
    if kept is None:
        return context
    logits = context.validation_logits
    return replace(
        context,
        teachers=tuple(context.teachers[k] for k in kept),
        validation_logits=None if logits is None else logits[:, kept],
        validation_scores=tuple(context.validation_scores[k] for k in kept) if context.validation_scores else (),
        teacher_sizes=tuple(context.teacher_sizes[k] for k in kept),
    )
