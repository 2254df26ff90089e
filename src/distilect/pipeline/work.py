"""What the methods of one config share: rows, teachers and their signals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax

from distilect import ranks
from distilect.augment import augment
from distilect.config import MethodConfig, RunConfig, StudentConfig, TeacherConfig
from distilect.data import Data, Table, Tokens, fold_of, vocabulary_hash
from distilect.errors import ConfigError, DataError, MethodError, StudentError, TeacherError
from distilect.evaluation import check_rouge
from distilect.knowledge import Layout, Response
from distilect.models import (
    CheckpointTeacher,
    EndpointTeacher,
    Student,
    Teacher,
    Vocabulary,
    build_student,
    check_peft,
    find_vocabulary,
    load_teacher,
    parse_spec,
    resolve_path,
)
from distilect.pipeline.assembly import (
    assemble,
    check_for_tokens,
    credit_source,
    label_options,
    layout_of,
    sampler_of,
    set_apart,
    set_up,
)
from distilect.pipeline.calls import announce_calls
from distilect.pipeline.judge import calibration_helps
from distilect.pipeline.metrics import calibration_lines, calibration_scores, teacher_size
from distilect.pipeline.teachers import Outputs, backbone_path, data_of, load_encoder, teachers_of
from distilect.progress import console
from distilect.selection import (
    Encoder,
    Method,
    SelectionContext,
    Stage,
    TrainingSample,
    build_teacher_selector,
    has_stages,
    stages_of,
)
from distilect.signals import Calibration, FoldReader, Prepared, Reader, SignalStore, fit_calibration, prepare_signals
from distilect.tasks import TOKEN_OUTPUTS, has_label


@dataclass(frozen=True)
class Planned:
    """A method that is not yet set up, and what it asks for.

    Attributes:
        pool: the teachers that it keeps.
        fields: per teacher of the pool, the signals that it wants besides logits.
        encoder: the frozen encoder whose row vectors its selectors read.
        calibrations: by name of teacher, empty where outputs are taken as they are.
        context: what its selectors may learn from before training, without a sample of train.
        validation: the signals of all teachers on the validation split; None for a method without teachers.
    """

    method: Method
    pool: list[Teacher]
    fields: list[list[str]]
    calibrations: dict[str, Calibration]
    encoder: Encoder | None
    context: SelectionContext
    validation: Prepared | None

    @property
    def asks(self) -> tuple[object, ...]:
        """Two methods with the same value need the same signals."""
        return (tuple(t.name for t in self.pool), repr(self.fields), self.encoder)


@dataclass
class Workbench:
    """Everything that the methods of one config share.

    Attributes:
        finetune_seconds: wall time spent on loading and fine-tuning the teachers.
        speeds: measured speeds by shape of student, so that students of one shape are timed once. None: time nothing, because
            other work on this machine would distort the figures.
        vocabularies: what trimmed students keep, found once on all rows: a stage that leaves some out has the same student.
    """

    config: RunConfig
    data: Data
    teachers: list[Teacher]
    finetune_seconds: float
    store: SignalStore
    speeds: dict[str, Any] | None = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)

    @classmethod
    def open(
        cls, config: RunConfig, functions: Mapping[str, Outputs] | None = None, *, whole: bool = True
    ) -> Workbench:
        """Read the data, load or fine-tune the teachers, open the store; say what teachers behind an API will cost.

        Args:
            whole: all rows will be scored, not the validation split alone.
        """
        paths = [resolve_path(teacher.path) for teacher in config.teachers if teacher.path]
        data = data_of(config, paths[0] if paths else None)
        if config.data.augment is not None:
            data = enlarged(data, config)
        for line in data.report:
            console.print(line, markup=False)  # DATA[SPLIT] is no markup
        label_options(config.train, data.train, data.task)  # an error in them must not wait for the teachers
        _check_extras(config, data)
        started = time.perf_counter()
        teachers = teachers_of(config, data, functions or {})
        _check_vocabularies(teachers, data)
        store = SignalStore(Path(config.output) / config.signals.store)
        bench = cls(config, data, teachers, time.perf_counter() - started, store)
        announce_calls(teachers, data, config, store, whole)
        if data.agreement:
            bench.data = bench._labelled_by_teachers()
        return bench

    def _labelled_by_teachers(self) -> Data:
        """The validation rows with the teachers' labels, for the choice of checkpoints in a run without any labels.

        The label is the class of the teachers' mean probability, each label whose mean probability is above 1/2, or the mean score.
        """
        if not self.teachers:
            raise DataError("train has no labels and the config names no teacher: there is nothing to learn from")
        task, table = self.data.task, self.data.validation
        outputs = [self.outputs(teacher, table).astype(np.float64) for teacher in self.teachers]
        labels: NDArray[Any]
        if task.kind == "regression":
            labels = np.mean(outputs, axis=0)[:, 0].astype(np.float32)
        elif task.kind == "multi-label":
            labels = (np.mean([expit(logits) for logits in outputs], axis=0) > 0.5).astype(np.int8)
        else:
            labels = np.mean([softmax(logits, axis=1) for logits in outputs], axis=0).argmax(axis=1)
        console.print("validation: scores there are agreement with the teachers' mean output")
        return replace(self.data, validation=replace(table, labels=labels))

    def new_student(self, seed: int | None = None) -> Student:
        """The untrained student, the same for every method.

        Args:
            seed: of weights that are initialised at random; default: the run's seed.
        """
        config, spec = self.config, self.config.student
        known = {t.name: t for t in self.teachers if isinstance(t, CheckpointTeacher)}
        init = parse_spec(spec.init)[0]
        source = known.get(init) or next((t for t in known.values() if t.path == resolve_path(init)), None)
        if spec.tokenizer is None and source is not None and source.tokenizer_path is not None:
            spec = spec.model_copy(update={"tokenizer": source.tokenizer_path})
        paths = {name: str(teacher.path) for name, teacher in known.items()}
        seed = config.seed if seed is None else seed
        student = build_student(spec, self.data.task, paths, seed, max_length=config.train.max_length)
        if self.data.train.tokens is not None:
            _check_tokens(spec, student, self.data.train.tokens)
        if spec.vocabulary is not None:
            student = student.with_vocabulary(self._vocabulary(student, spec))
        return student if spec.lora is None else student.with_adapters(spec.lora, seed)

    def _vocabulary(self, student: Student, spec: StudentConfig) -> Vocabulary:
        """The tokens that a student keeps, from the texts of train and extra."""
        key = spec.model_dump_json()
        if key not in self.vocabularies:
            size = None if spec.vocabulary == "auto" else spec.vocabulary
            tables = [self.data.train, *([self.data.extra] if self.data.extra is not None else [])]
            named = f"student {spec.init!r}"
            self.vocabularies[key] = find_vocabulary(
                student.model, student.tokenizer, tables, size, student.max_length, named
            )
        return self.vocabularies[key]

    def stages(self, config: MethodConfig, student: Student) -> list[Stage]:
        """The stages of a method, suited to these models; a single one for a method without stages."""
        pool = self.teachers if has_stages(config) else []
        labelled = bool(self.data.validation.num_labelled) and not self.data.agreement
        return stages_of(config, self.config.train, layout_of(student, pool, self.data.task), labelled)

    def at(self, stage: Stage) -> Workbench:
        """The same with the settings and rows of a stage."""
        config = self.config.model_copy(update={"method": stage.method, "train": stage.train})
        data = self.data if stage.extra else replace(self.data, extra=None)
        return replace(self, config=config, data=data)

    def prepare(self, config: MethodConfig, student: Student) -> tuple[Method, Prepared]:
        """The method, set up for training, and the signals that it will ask for."""
        planned = self.plan(config, student)
        method, context, prepared = planned.method, planned.context, Prepared(None)
        if planned.validation is not None:
            assert planned.validation.source is not None
            prepared = self.ask(planned)
            prepared.forwards += planned.validation.forwards + planned.validation.source.forwards
            prepared.seconds += planned.validation.seconds
            prepared.calibrations = planned.validation.calibrations
            prepared.report += calibration_lines(planned.validation.calibrations)
            if self._calibrates and not planned.calibrations:
                prepared.report.append(
                    "teachers are not calibrated: on the validation split the mean of their outputs scores better as it is"
                )
            context = replace(context, sample=sampler_of(self.data.distillation, prepared))
            context = replace(context, credit=self._credit(planned, prepared))
        set_up(context, *method.selectors.values())
        response = next((kind for kind in method.knowledge if isinstance(kind, Response)), None)
        if response is not None and response.distance == "mse" and "temperature" in response.options.model_fields_set:
            why = "in a regression" if context.regression else "with distance: mse"
            prepared.report.append(f"temperature has no effect {why}: the response loss is a squared error")
        blind = [selector.name for selector in method.selectors.values() if context.tokens and selector.needs.encoder]
        if blind:
            prepared.report.append(
                f"{', '.join(blind)}: decides without a frozen encoder, whose vectors of all tokens would take more room than all else"
            )
        return method, prepared

    def plan(self, config: MethodConfig, student: Student) -> Planned:
        """Build the method and decide which teachers it asks; only the validation split is scored for that."""
        selector = build_teacher_selector(config)
        if selector is None and not self.data.train.num_labelled:
            raise MethodError(
                f"method {config.name!r} learns from labels alone, train has none: take one with teachers"
            )
        if selector is None:
            method = assemble(config, self._layout(student, []), None, self.config.seed)
            multi_label = self.data.task.kind == "multi-label"
            tokens = self.data.task.kind == "causal-lm"
            if tokens:
                check_for_tokens(method)
            context = SelectionContext((), method.kinds, seed=self.config.seed, multi_label=multi_label, tokens=tokens)
            return Planned(method, [], [], {}, None, context, None)
        if not self.teachers:
            raise MethodError(f"method {config.name!r} needs a teacher, the config names none: add teachers:")
        validation = self.signals(self.teachers, self.data.validation)
        for line in validation.notes:
            console.print(f"validation: {line}", markup=False)
        logits = _logits(validation, self.data.validation)
        calibrations = self.calibrations(logits)
        names = [t.name for t in self.teachers]
        validation.calibrations = {
            name: calibration_scores(self.data.task, calibrations[name], logits[:, k], self.data.validation.labels)
            for k, name in enumerate(names)
            if name in calibrations
        }
        logits = calibrated(logits, names, calibrations)
        outputs = logits if self.data.train.tokens is None else _outputs(validation, self.data.validation)
        pool, context = self.teachers, self._context(self.teachers, logits, outputs)
        if selector.narrows:  # a method that follows one teacher never asks the others
            set_up(context, selector)
            if selector.kept is not None:
                pool = [self.teachers[k] for k in selector.kept]
                context = self._context(pool, logits[:, selector.kept], outputs[:, selector.kept])
        layout = self._layout(student, pool)
        method = assemble(config, layout, selector, self.config.seed)
        if not self.data.distillation.num_labelled:
            for learner in method.selectors.values():
                if learner.needs.labels:
                    raise MethodError(
                        f"selector {learner.name!r} learns from labels, train has none: take another method"
                    )
        encoders = {s.needs.encoder for s in method.selectors.values() if s.needs.encoder is not None}
        if self.data.task.kind == "causal-lm":
            check_for_tokens(method, self.config.signals.tokens.keep)
            encoders = set()  # a vector for every token would take more room than all else
        if len(encoders) > 1:
            raise MethodError(f"selectors want different encoders {sorted(map(str, encoders))}: give them the same one")
        response = [kind.distance_to for kind in method.knowledge if isinstance(kind, Response)]
        context = replace(
            context,
            kinds=method.kinds,
            student_width=layout.student_width,
            teacher_widths=layout.teacher_widths,
            response=response[0] if response else context.response,
        )
        fields = method.all_fields(len(pool))
        return Planned(method, pool, fields, calibrations, encoders.pop() if encoders else None, context, validation)

    def ask(self, planned: Planned) -> Prepared:
        """The planned signals on all rows to distil on; what the store lacks is scored now."""
        prepared = self.signals(planned.pool, self.data.distillation, planned.fields)
        assert prepared.source is not None
        prepared.source.calibrations = planned.calibrations
        learned = self.config.signals.learn_from == "out-of-fold"
        if learned or len(planned.pool) > 1:
            prepared.source.copies = {t.name: self._out_of_fold(t, prepared) for t in planned.pool if t.copies}
        if learned:
            prepared.source.out_of_fold = True
            prepared.report.append(self._learned_from(planned.pool))
        if planned.encoder is not None:  # its row vectors are stored like a teacher's outputs
            encoder = load_encoder(planned.encoder, self.config, self.teachers)
            vectors = self.signals([encoder], self.data.distillation)
            prepared.vectors, prepared.report = vectors.source, [*prepared.report, *vectors.report]
            prepared.seconds += vectors.seconds
            prepared.forwards += vectors.forwards
            prepared.reused += vectors.reused
        return prepared

    def _out_of_fold(self, teacher: Teacher, prepared: Prepared) -> FoldReader:
        """Reads the outputs of a teacher's copies, each scored on its own fold of the rows to distil on; `prepared` counts them."""
        assert isinstance(teacher, CheckpointTeacher)
        table, readers = self.data.distillation, list[Reader]()
        folds = fold_of(table.ids, len(teacher.copies))
        for fold, path in enumerate(teacher.copies):
            spec = TeacherConfig(name=f"{teacher.name}-without-{fold}", path=str(path), max_length=teacher.max_length)
            copy = load_teacher(spec, self.data.task, precision=self.config.signals.precision)
            scored = self.signals([copy], table.take(np.flatnonzero(folds == fold)))
            assert scored.source is not None
            readers += scored.source.readers
            prepared.report += scored.report
            prepared.seconds += scored.seconds
            prepared.forwards += scored.forwards
            prepared.reused += scored.reused
        return FoldReader(teacher.name, readers)

    def _learned_from(self, pool: list[Teacher]) -> str:
        """Whose outputs the student learns from, in a line.

        Raises:
            ConfigError: no teacher has copies.
        """
        if not any(teacher.copies for teacher in self.teachers):
            raise ConfigError(
                "signals.learn_from is out-of-fold, but no teacher has copies: set folds: 3 in the finetune: of a teacher, or leave it out"
            )
        copied = ", ".join(teacher.name for teacher in pool if teacher.copies) or "no teacher that this method asks"
        own = ", ".join(teacher.name for teacher in pool if not teacher.copies)
        return f"the student learns from copies in folds of {copied}" + (f"; from {own} itself" if own else "")

    def credit_rows(self, method: Method) -> tuple[Table, Table | None]:
        """The validation rows that choose the checkpoint, and the credit rows (`set_apart`)."""
        return set_apart(self.data.validation, credit_source(method))

    def _credit(self, planned: Planned, prepared: Prepared) -> Callable[..., TrainingSample] | None:
        """`SelectionContext.credit` over rows that are set apart from the validation split; None where none are. Says which rows it is."""
        if credit_source(planned.method) is None:
            return None
        rest, credit = self.credit_rows(planned.method)
        if credit is None:
            prepared.report.append("credit: measured on the labelled rows of train, without a row's own label")
            return None
        prepared.report.append(
            f"credit: measured on {len(credit):,} rows of the validation split; the other {len(rest):,} choose the checkpoint"
        )
        signals = self.signals(planned.pool, credit)
        assert signals.source is not None
        signals.source.calibrations = planned.calibrations
        if planned.encoder is not None:
            vectors = self.signals([load_encoder(planned.encoder, self.config, self.teachers)], credit)
            signals.vectors = vectors.source
            prepared.seconds += vectors.seconds
            prepared.forwards += vectors.forwards
        return sampler_of(credit, signals)

    def signals(self, pool: list[Teacher], table: Table, fields: list[list[str]] | None = None) -> Prepared:
        """The signals of some teachers on a table: logits and, per teacher, `fields`."""
        config = self.config.signals
        return prepare_signals(
            pool,
            table,
            self.store,
            fields or [[] for _ in pool],
            budget_gb=config.disk_budget_gb,
            max_tokens=config.max_tokens,
            live=config.live,
        )

    def outputs(self, teacher: Teacher, table: Table) -> NDArray[np.float32]:
        """[N, C] logits of one teacher, of a language model `TOKEN_OUTPUTS`, through the store: it runs once over a table, whatever the number of methods."""
        prepared = self.signals([teacher], table)
        for line in prepared.notes:
            console.print(line, markup=False)
        return _outputs(prepared, table)[:, 0]

    def answered(self, teacher: Teacher) -> dict[str, Any]:
        """What a teacher behind an API has cost, and how well it answered; {} for others."""
        if not isinstance(teacher, EndpointTeacher):
            return {}
        answers = self.store.answers(teacher.fingerprint)
        found = {
            "model": teacher.spec.model,
            "asked": teacher.describe(),
            "calls": answers.calls,
            "tokens": answers.tokens,
        }
        return {**found, "rows": len(answers), "unanswered": len(answers.failed), "no_label": answers.off}

    @property
    def _calibrates(self) -> bool:
        """Whether outputs are brought to one scale; those of language models, at 50 bytes a token, are taken as they are."""
        return self.data.task.kind != "causal-lm" and self.config.signals.calibrates(len(self.teachers))

    def calibrations(self, logits: NDArray[np.float32]) -> dict[str, Calibration]:
        """By name of teacher, from [N, K, C] outputs of all of them on the validation split; empty where none is wanted or (`auto`) it would harm.

        All ranks have those of the first one. A run that goes on has the same rows and outputs, so the same calibrations.
        """
        if not self._calibrates:
            return {}
        labels = self.data.validation.labels
        if self.data.agreement:  # the teachers' own labels do not tell how often they are right
            labels = labels[:0]
        found = [fit_calibration(self.data.task, logits[: len(labels), k], labels) for k in range(len(self.teachers))]
        numbers = torch.tensor([[one.scale, one.shift] for one in found], dtype=torch.float64)
        for k, (scale, shift) in enumerate(ranks.gather({"of-all": numbers})[0]["of-all"].tolist()):
            found[k] = replace(found[k], scale=scale, shift=shift)
        fitted = any(one.rows for one in found)
        if (
            self.config.signals.calibrate == "auto"
            and fitted
            and not calibration_helps(self.data.task.of_units, logits, labels, found)
        ):
            return {}
        return {teacher.name: one for teacher, one in zip(self.teachers, found, strict=True)}

    def thresholds(self, teacher: Teacher) -> tuple[float, ...] | None:
        """A teacher's thresholds, chosen on the validation split as the student's are; None unless the task is multi-label."""
        task, validation = self.data.task, self.data.validation
        if task.kind != "multi-label" or not len(validation):
            return None
        try:
            return task.thresholds(self.outputs(teacher, validation), validation.labels)
        except TeacherError as error:  # a table of outputs on dev alone, which no method asked
            console.print(f"[yellow]teacher {teacher.name} is scored with a threshold of 0.5:[/yellow] {error}")
            return None

    @property
    def label_options(self) -> dict[str, Any]:
        """Class weights and label smoothing of label knowledge."""
        return label_options(self.config.train, self.data.train, self.data.task)

    def _layout(self, student: Student, pool: list[Teacher]) -> Layout:
        return layout_of(student, pool, self.data.task, **self.label_options)

    def _context(
        self, pool: list[Teacher], logits: NDArray[np.float32], outputs: NDArray[np.float32]
    ) -> SelectionContext:
        """What selectors may learn before training: the validation split only, never dev.

        Args:
            logits: [N, K, C], the pool on the validation split.
            outputs: the same, as it is scored: of language models `TOKEN_OUTPUTS`.
        """
        task, labels = self.data.task, self.data.validation.labels
        if self.data.agreement:  # the teachers' own labels say nothing about which of them is right
            labels = labels[:0]
        scores = []
        for k in range(len(pool)) if len(labels) else ():
            thresholds = task.thresholds(outputs[:, k], labels)
            scores.append(task.score(outputs[:, k], labels, thresholds, self.data.validation.offsets)[task.primary])
        return SelectionContext(
            teachers=tuple(t.name for t in pool),
            kinds=(),
            regression=task.kind == "regression",
            multi_label=task.kind == "multi-label",
            tokens=task.kind == "causal-lm",
            validation_logits=logits if len(labels) else None,
            validation_labels=labels,
            validation_scores=tuple(scores),
            teacher_sizes=tuple(teacher_size(t)["parameters"] or 0 for t in pool),
            seed=self.config.seed,
            epochs=self.config.train.epochs,
            steps_per_epoch=math.ceil(len(self.data.distillation) / self.config.train.batch_size),
            num_labelled=self.data.distillation.num_labelled_units,
            num_rows=self.data.distillation.num_units,
        )


def calibrated(
    logits: NDArray[np.float32], names: Sequence[str], calibrations: Mapping[str, Calibration]
) -> NDArray[np.float32]:
    """[N, K, C] outputs of the teachers of these names, as a run sees them."""
    found = [calibrations[name](logits[:, k]) if name in calibrations else logits[:, k] for k, name in enumerate(names)]
    return np.stack(found, axis=1)


def _logits(prepared: Prepared, table: Table) -> NDArray[np.float32]:
    """[N, K, C] on all rows of a table, on the CPU."""
    source = prepared.source
    assert source is not None
    if not len(table):
        return np.zeros((0, len(source.names), 0), np.float32)
    logits: NDArray[np.float32] = (
        source.fetch(table, np.arange(len(table)), [[] for _ in source.names]).logits.cpu().numpy()
    )
    return logits


def _outputs(prepared: Prepared, table: Table) -> NDArray[np.float32]:
    """The same as they are scored: of language models [U, K, 4], `TOKEN_OUTPUTS`."""
    if table.tokens is None:
        return _logits(prepared, table)
    source = prepared.source
    assert source is not None
    if not len(table):
        return np.zeros((0, len(source.names), len(TOKEN_OUTPUTS)), np.float32)
    scores = source.fetch(table, np.arange(len(table)), [[] for _ in source.names]).scores
    assert scores is not None
    return np.asarray(scores.cpu().numpy(), np.float32)


def _check_extras(config: RunConfig, data: Data) -> None:
    """Refuse completions where none can be written or scored, and adapters without peft.

    Raises:
        ConfigError, StudentError: what is missing.
    """
    if config.student.lora is not None:
        check_peft()
    if config.generation.rows:
        if data.task.kind != "causal-lm":
            raise ConfigError(f"generation.rows is set, but this task is {data.task.kind}: only language models write")
        if data.dev is None:
            raise ConfigError("generation.rows is set, but there are no dev rows to compare with: set data.dev")
        check_rouge()


def _check_vocabularies(teachers: Sequence[Teacher], data: Data) -> None:
    """Refuse a teacher of a language model that names tokens by other numbers.

    Raises:
        TeacherError: names it.
    """
    tokens = data.train.tokens
    for teacher in teachers if tokens is not None else ():
        assert isinstance(teacher, CheckpointTeacher) and tokens is not None
        if vocabulary_hash(teacher.tokenizer) != tokens.vocabulary:
            raise TeacherError(
                f"teacher {teacher.name!r} has another vocabulary than the student ({len(teacher.tokenizer):,} and {tokens.size:,} tokens): a "
                "language model learns from teachers with its own tokenizer only"
            )


def _check_tokens(spec: StudentConfig, student: Student, tokens: Tokens) -> None:
    """Refuse a student that does not fit the rows, which were read before it.

    Raises:
        StudentError: its vocabulary is trimmed, or it cannot read rows of that length or with these tokens.
    """
    if spec.vocabulary is not None:
        raise StudentError("student.vocabulary is set, but a language model says every token of its own: remove it")
    if student.max_length < tokens.limit:
        raise StudentError(
            f"student {spec.init!r} reads {student.max_length} tokens at most, the rows have up to {tokens.limit}: set train.max_length: "
            f"{student.max_length}"
        )
    known = len(student.model.get_input_embeddings().weight)
    if len(tokens.ids) and int(tokens.ids.max()) >= known:
        raise StudentError(
            f"student {spec.init!r} knows {known:,} tokens, the rows have token {int(tokens.ids.max()):,}: use its own tokenizer"
        )


def enlarged(data: Data, config: RunConfig) -> Data:
    """Add changed copies of the rows of train; no copy equals a row of the validation split, dev or extra."""
    spec = config.data.augment
    assert spec is not None
    others = [table for table in (data.validation, data.dev, data.extra) if table is not None and len(table)]
    stays = None
    if data.task.scheme is not None:  # words of entities
        labels = data.train.labels
        stays = has_label(labels) & (labels != data.task.labels.index("O"))
    made = augment(
        data.train,
        spec.times,
        seed=spec.seed,
        method=spec.method,
        model=spec.model or backbone_path(config),
        keep_labels=spec.labels,
        exclude=others,
        stays=stays,
    )
    extra = made.table if data.extra is None else Table.concat([data.extra, made.table])
    line = f"augmented: {len(made.table):,} rows made of train by {spec.method}"
    return replace(data, extra=extra, report=[*data.report, line])
