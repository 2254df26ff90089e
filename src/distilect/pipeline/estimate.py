"""What a run will cost, by a small model. Its numbers come from a pilot on this machine or from a GPU's data sheet.

    scoring  = Σ over teachers of  rows · padded tokens per row · seconds per padded token
    training = epochs · steps per epoch · seconds per step  +  evaluations · validation rows · seconds per row
    bytes    = rows · (signals per row + tokens per row · 4 or 8 + text per row + 24)

A larger table has less padding per row, because its batches are cut by length. A step of the pilot is converted to seconds per token: the
rows of a few steps are shorter or longer than those of a whole training.

On a GPU, seconds are operations (2 per parameter and token forward, three times that in training, and attention) over the peak of
its data sheet times a utilisation that is assumed, not measured: 0.4 forward, 0.35 in training. `experiments.estimate` adds up the
trials of a comparison with the same model.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.config import RunConfig, StudentConfig, TeacherConfig
from distilect.data import open_source, scoring_batches, steps_per_epoch
from distilect.errors import ConfigError, did_you_mean
from distilect.evaluation import flops_per_token
from distilect.models import CheckpointTeacher, build_student
from distilect.pipeline import pace
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.folders import save_student
from distilect.pipeline.teachers import data_of, named_teachers
from distilect.pipeline.work import Workbench
from distilect.selection import PlannedRows, SelectionContext

# peak of dense 16-bit matrix products, FLOP/s, from the makers' data sheets
GPUS = {"t4": 65e12, "v100": 125e12, "l4": 121e12, "a100": 312e12, "h100": 989e12, "h200": 989e12}
FORWARD, TRAINING = 0.4, 0.35  # shares of the peak; assumptions
_STEPS = 32  # of training at most
_LIKE = 50_000  # lengths that stand for those of a larger table: its batches hold hardly any padding


@dataclass(frozen=True)
class Rates:
    """What one unit of work costs.

    Attributes:
        scoring: seconds per row, by teacher.
        step, evaluation: seconds per optimiser step, and per validation row.
        signal_bytes, table_bytes: on disk per row, for all teachers; of texts, labels, identities and tokens.
        tokens: of the student, per row.
    """

    scoring: dict[str, float]
    step: float
    evaluation: float
    signal_bytes: float
    table_bytes: float
    tokens: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a run over `rows` rows.

    Attributes:
        teacher_seconds: of fine-tuning the teachers that the config has fine-tuned, if they are not there yet.
        scoring_seconds, training_seconds: of one process or GPU, as `teacher_seconds`; several divide them.
        signal_bytes, table_bytes: on disk; the second only for a table that is streamed there (`data.cache`).
    """

    rows: int
    scoring_seconds: float
    training_seconds: float
    signal_bytes: float
    table_bytes: float
    steps: int
    teacher_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(config: RunConfig, rows: Sequence[int] = (), gpu: str | None = None) -> list[Estimate]:
    """What the config's method will cost over its own table, or over so many rows like its first ones.

    Args:
        gpu: a name in `GPUS`: from operations and its data sheet; None: measured here, by a pilot of some steps.

    Raises:
        ConfigError: an unknown GPU.
    """
    if gpu is not None and gpu.lower() not in GPUS:
        raise ConfigError(f"no data sheet of {gpu!r} is known: {', '.join(GPUS)}.{did_you_mean(gpu, GPUS)}")
    counts = list(rows) or [count_rows(config)]
    stages = list[list[Estimate]]()
    with tempfile.TemporaryDirectory() as folder:
        number, of_all = 0, 1
        while number < of_all:
            pilot = Pilot(config, Path(folder) / str(number), number)
            stages.append(_of_stage(pilot, counts, gpu))
            number, of_all = number + 1, pilot.stages
    return [_together(of_each) for of_each in zip(*stages, strict=True)]


def _of_stage(pilot: Pilot, counts: Sequence[int], gpu: str | None) -> list[Estimate]:
    """One stage, over each number of rows."""
    rates = pilot.rates() if gpu is None else pilot.rates_on(GPUS[gpu.lower()])
    given = len(pilot.bench.data.validation)
    return [
        total(
            pilot.stage,
            count,
            pilot.padded(rates, count) if gpu is None else rates,
            validation(pilot.stage, count, given),
            pilot.method.rows.planned if isinstance(pilot.method.rows, PlannedRows) else lambda rows: None,
        )
        for count in counts
    ]


def _together(stages: Sequence[Estimate]) -> Estimate:
    """All stages of a run: teachers run once, so that the stage that wants most of them pays."""
    return Estimate(
        rows=stages[0].rows,
        scoring_seconds=max(stage.scoring_seconds for stage in stages),
        training_seconds=sum(stage.training_seconds for stage in stages),
        signal_bytes=max(stage.signal_bytes for stage in stages),
        table_bytes=max(stage.table_bytes for stage in stages),
        steps=sum(stage.steps for stage in stages),
        teacher_seconds=max(stage.teacher_seconds for stage in stages),
    )


def by_operations(
    teachers: Mapping[str, float],
    student: float,
    tokens: float,
    batch_size: int,
    peak: float,
    signal_bytes: float,
    table_bytes: float,
) -> Rates:
    """Rates of a GPU of that peak, from operations per token forward, of each teacher and of the student."""
    own = tokens * student
    return Rates(
        scoring={name: tokens * each / (peak * FORWARD) for name, each in teachers.items()},
        step=3 * own * batch_size / (peak * TRAINING),
        evaluation=own / (peak * FORWARD),
        signal_bytes=signal_bytes,
        table_bytes=table_bytes,
        tokens=tokens,
    )


def count_rows(config: RunConfig) -> int:
    """Rows of train and extra; from a Parquet file's or a data set's own count where there is one."""
    data, limit = config.data, config.data.max_train_rows or math.inf
    known = None
    if data.train is not None:
        dialect: dict[str, Any] = {"delimiter": data.delimiter, "quoting": data.quoting}
        known = open_source(data.train, Path(config.data_dir), name=data.name, **dialect).num_rows
    if known and data.extra is None:
        return int(min(known, limit))
    loaded = data_of(config.model_copy(update={"data": data.model_copy(update={"cache": None})}))
    return len(loaded.train) + len(loaded.validation) + (len(loaded.extra) if loaded.extra is not None else 0)


def total(
    config: RunConfig, rows: int, rates: Rates, held: int, planned: Callable[[int], int | None] = lambda rows: None
) -> Estimate:
    """The model itself.

    Args:
        held: rows that are evaluated on; of train unless the config gives a file of them.
        planned: trained rows → rows per epoch of a row selector that plans.
    """
    train = config.train
    trained = rows - held if config.data.validation is None else rows
    per_epoch = planned(trained)
    steps = steps_per_epoch(
        trained if per_epoch is None else per_epoch, train.batch_size, train.gradient_accumulation_steps
    )
    done = math.ceil(train.epochs * steps)
    if train.token_budget is not None:
        done = math.ceil(train.token_budget / (rates.tokens * train.batch_size))
    looks = max(1, round(train.epochs * train.evaluations)) + 1 if held else 0
    asks_copies = len(rates.scoring) > 1 or config.signals.learn_from == "out-of-fold"
    copied = sum(rates.scoring.get(name, 0.0) for name in in_folds(config)) if asks_copies else 0.0
    return Estimate(
        rows=rows,
        teacher_seconds=trained * fine_tuning(config, rates),
        scoring_seconds=(sum(rates.scoring.values()) + copied) * rows,
        training_seconds=done * rates.step + looks * held * rates.evaluation,
        signal_bytes=rates.signal_bytes * rows,
        table_bytes=rates.table_bytes * rows,
        steps=done,
    )


def fine_tuning(config: RunConfig, rates: Rates) -> float:
    """Seconds per row of train, for all teachers that are fine-tuned; forward and backward take three forward passes."""
    slowest = max(rates.scoring.values(), default=0.0)  # stands for teachers that the method does not ask
    specs = {name: spec.finetune for name, spec in named_teachers(config).items() if spec.finetune is not None}
    # with copies, which lack a fold each, the rows count `folds` times
    return sum(3 * rates.scoring.get(n, slowest) * how.epochs * (how.folds or 1) for n, how in specs.items())


def in_folds(config: RunConfig) -> list[str]:
    """The teachers that have copies, each of which is run on its own fold: another pass over train."""
    return [n for n, spec in named_teachers(config).items() if spec.finetune is not None and spec.finetune.folds]


def validation(config: RunConfig, rows: int, given: int) -> int:
    """Rows of the validation split of `rows`; `given` where the config names a file of them."""
    size = config.data.validation_size
    held = given if config.data.validation else round(size * rows) if size < 1 else int(size)
    return min(held, rows)


class _PilotBench(Workbench):
    """A method that needs more steps than a pilot has is not refused for that."""

    def _context(self, *args: Any) -> SelectionContext:
        return replace(super()._context(*args), epochs=math.inf, steps_per_epoch=math.inf)


class Pilot:
    """The config's models and method over the first rows of its table, in a folder that is thrown away.

    An untrained model stands in for a teacher that is still to be fine-tuned: it costs the same. A teacher behind an API is not asked.

    Attributes:
        stages: how many the method has.
        stage: the config of the one that is measured, with its own training settings.
    """

    def __init__(self, config: RunConfig, folder: Path, number: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        wanted = (_STEPS + pace.WARM) * config.train.batch_size
        rows = {
            "max_train_rows": _before_split(config, wanted),
            "dev": None,
            "extra": None,
            "augment": None,
            "cache": None,
        }
        small = {"data": config.data.model_copy(update=rows), "output": str(folder), "baselines": []}
        pilot = config.model_copy(update=small)
        asked = {name: _unasked(pilot) for name, spec in named_teachers(config).items() if spec.endpoint is not None}
        specs = [(place, spec) for place, spec in enumerate(config.teachers, start=1) if spec.endpoint is None]
        teachers = [_stand_in(spec, place, pilot, folder) for place, spec in specs]
        bench = _PilotBench.open(pilot.model_copy(update={"teachers": teachers}), asked)
        self.folder, self.student = folder, bench.new_student()
        stages = bench.stages(config.method, self.student)
        stage, self.stages = stages[number], len(stages)
        self.stage = config.model_copy(update={"method": stage.method, "train": stage.train})
        self.bench = bench.at(stage)
        self.config = self.bench.config
        self.method, self.prepared = self.bench.prepare(stage.method, self.student)

    def rates(self) -> Rates:
        """Measured now; scoring over tables as large as the pilot's own, see `padded`."""
        scoring = {} if self.method.teachers is None else self._scoring()
        step, evaluation, tokens = self._training()
        return Rates(scoring, step, evaluation, self._signal_bytes(), self._table_bytes(tokens), tokens)

    def rates_on(self, peak: float) -> Rates:
        """From operations, for a GPU of that peak."""
        rows = training_rows(self.student, self.bench.data.train, self.bench.data.validation, self.bench.data.task)
        tokens = float(rows.encoded.lengths.mean())
        length = max(1, round(tokens))
        asked = [t for t in self._pool() if isinstance(t, CheckpointTeacher)]
        return by_operations(
            {t.name: flops_per_token(t.model, length) for t in asked},
            flops_per_token(self.student.model, length),
            tokens,
            self.config.train.batch_size,
            peak,
            self._signal_bytes(),
            self._table_bytes(tokens),
        )

    def _pool(self) -> list[Any]:
        if self.prepared.source is None:
            return []
        return [t for t in self.bench.teachers if t.name in self.prepared.source.names]

    def padded(self, rates: Rates, rows: int) -> Rates:
        """The same rates for a table of so many rows like these, whose batches hold less padding."""
        table, most = self.bench.data.train, self.config.signals.max_tokens
        scoring = dict(rates.scoring)
        for teacher in self._pool():
            if isinstance(teacher, CheckpointTeacher):
                lengths = teacher.encode(table).lengths
                scoring[teacher.name] *= tokens_per_row(lengths, rows, most) / tokens_per_row(lengths, len(table), most)
        return replace(rates, scoring=scoring)

    def _scoring(self) -> dict[str, float]:
        """Seconds per row and teacher, tokenising and writing included, as if the whole pilot had been scored at once."""
        table, found = self.bench.data.train, {}
        most = self.config.signals.max_tokens
        fields = self.method.fields(len(self._pool()))
        for teacher, wanted in zip(self._pool(), fields, strict=True):
            lengths: Any = np.ones(len(table), np.int64)
            if isinstance(teacher, CheckpointTeacher):
                lengths = teacher.encode(table).lengths
            self.bench.store = type(self.bench.store)(self.folder / f"timed-{teacher.name}")
            spent, tokens = 0.0, 0.0
            for number, part in enumerate(_parts(len(table), self.config.train.batch_size)):
                seconds = self.bench.signals([teacher], table.take(part), [wanted]).seconds
                if number or len(part) == len(table):  # the first part of several warms up
                    spent += seconds
                    tokens += tokens_per_row(lengths[part], len(part), most) * len(part)
                if spent > pace.SECONDS:
                    break
            found[teacher.name] = spent / tokens * tokens_per_row(lengths, len(table), most)
        return found

    def _training(self) -> tuple[float, float, float]:
        """Seconds per step and per evaluated row; tokens per row."""
        data, train = self.bench.data, self.config.train
        rows = training_rows(self.student, data.train, data.validation, data.task)
        found = pace.measure_pace(self.student, rows, self.method, self.prepared, train, self.config.seed)
        return found.token * found.row * train.batch_size, found.evaluation, found.row

    def _signal_bytes(self) -> float:
        scored = len(self.bench.data.train) + len(self.bench.data.validation)
        folders = [self.folder / self.config.signals.store]
        size = sum(p.stat().st_size for folder in folders for p in folder.glob("*/*/shard-*.safetensors"))
        return size / max(1, scored)

    def _table_bytes(self, tokens: float) -> float:
        table = self.bench.data.train
        text = sum(len(part.encode()) for row in table.text(np.arange(len(table))) for part in row) / len(table)
        columns = 2 if "token_type_ids" in (self.student.tokenizer.model_input_names or ()) else 1
        return text + 24 + 8 * table.num_texts + tokens * 4 * columns + 12


def tokens_per_row(lengths: Any, rows: int, max_tokens: int) -> float:
    """Padded tokens per row when `rows` rows, whose lengths spread like `lengths`, are cut into batches by length.

    Args:
        lengths: tokens of some rows, int [n].
        max_tokens: padded tokens per batch.
    """
    like = np.quantile(lengths, np.linspace(0, 1, min(rows, _LIKE)), method="nearest")
    return sum(len(batch) * float(like[batch].max()) for batch in scoring_batches(like, max_tokens)) / len(like)


def _parts(rows: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """A first part to warm up, then parts twice as large each, until all rows are in one."""
    start, size = 0, min(pace.WARM * batch_size, max(1, rows // 2))
    while start < rows:
        yield np.arange(start, min(rows, start + size))
        start, size = start + size, 2 * size


def _before_split(config: RunConfig, wanted: int) -> int:
    """How many rows to read so that `wanted` remain beside the validation split; never more than the config reads."""
    size = config.data.validation_size
    rows = wanted if config.data.validation else math.ceil(wanted / (1 - size)) + 1 if size < 1 else wanted + int(size)
    return min(rows, config.data.max_train_rows or rows)


def _unasked(config: RunConfig) -> Callable[[list[Any]], NDArray[np.float64]]:
    """A function in the place of a teacher behind an API, whose time is not measured and whose calls `forecast` counts."""
    task = data_of(config).task
    return lambda texts: np.random.default_rng(0).normal(size=(len(texts), task.num_outputs))


def _stand_in(spec: TeacherConfig, number: int, config: RunConfig, folder: Path) -> TeacherConfig:
    """A teacher that is there, or the model that would be fine-tuned."""
    if spec.finetune is None:
        return spec
    name = spec.name or f"teacher-{number}"
    task = data_of(config).task
    start = build_student(
        StudentConfig(init=spec.finetune.init), task, {}, spec.finetune.seed, max_length=config.train.max_length
    )
    save_student(start, folder / f"untrained-{name}")
    return TeacherConfig(name=name, path=str(folder / f"untrained-{name}"), max_length=spec.max_length)
