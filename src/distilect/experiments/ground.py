"""What the cells of one (scenario, task) share: rows, teachers, their signals."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distilect.config import MethodConfig, RunConfig, StudentConfig, TeacherConfig, dump_config, set_value
from distilect.data import Data, encode, load_data
from distilect.errors import ConfigError, MethodError
from distilect.experiments.config import (
    ComparedMethodConfig,
    ComparisonTaskConfig,
    PartsConfig,
    PoolTeacherConfig,
    ScenarioConfig,
)
from distilect.experiments.grid import Cell, Grid, family
from distilect.experiments.oracle import oracle_knows
from distilect.experiments.records import (
    PREDICTIONS,
    RESULTS,
    Line,
    Results,
    essence,
    lock,
    write_json,
    write_predictions,
)
from distilect.experiments.scenarios import Parts, for_student, for_teacher, parts_of, truth_of
from distilect.models import Student, Teacher
from distilect.pipeline.job import distil
from distilect.pipeline.predictions import PREDICTIONS as RUN_PREDICTIONS
from distilect.pipeline.predictions import read_predictions as read_run_predictions
from distilect.pipeline.teachers import finetuned_teacher, named_teachers, teachers_of
from distilect.pipeline.work import Workbench, enlarged
from distilect.selection import asks_teachers
from distilect.signals import SignalStore

CELLS, LOCKS, TUNED = "cells", "locks", "tuned"


@dataclass
class Ground:
    """The rows and teachers of one (scenario, task); teachers are there once `open` returns.

    Attributes:
        clean: rows as they are, with one split for all seeds: what teachers learn from.
        truth: row key → true label.
    """

    grid: Grid
    name: str
    config: RunConfig
    scenario: ScenarioConfig
    clean: Data
    teachers: list[Teacher]
    store: SignalStore
    truth: dict[int, float]
    speeds: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, grid: Grid, scenario_name: str, task_name: str) -> Ground:
        """Read the data, load the teachers; fine-tune those that no other process has made yet."""
        config, scenario, task, clean = read_ground(grid, scenario_name, task_name)
        divided = grid.parts(scenario, task)
        specs = make_teachers(grid, config, divided, clean)
        teachers = teachers_of(config.model_copy(update={"teachers": specs}), clean, {})
        store = SignalStore(Path(config.output) / config.signals.store)
        name = f"{scenario_name}.{task_name}"
        return cls(grid, name, config, scenario, clean, teachers, store, truth_of(clean))

    # ---- signals, once for all cells -------------------------------------------------------------------------------

    def score(self) -> float:
        """Fill the store with what any cell will ask for; returns seconds. A method that cannot be built here says so in its cell."""
        started = time.perf_counter()
        cells = [cell for cell in self.grid.cells if ".".join(cell.ground) == self.name]
        done: set[object] = set()
        students: dict[str, Student] = {}
        with oracle_knows(self.truth):
            bench = self.bench(self.config, self.config.seed)
            for teacher in self.teachers:
                if bench.data.dev is not None:
                    bench.outputs(teacher, bench.data.dev)
            for cell in cells:
                what = repr((cell.method.spec(), cell.student))
                if what in done or not asks_teachers(cell.method):
                    continue
                done.add(what)
                single = self.grid.run_config(cell.scenario, cell.task, cell)
                bench = self.bench(single, self.config.seed)
                if cell.student.init not in students:
                    students[cell.student.init] = bench.new_student()
                try:
                    planned = bench.plan(single.method, students[cell.student.init])
                    if planned.asks not in done:
                        bench.ask(planned)
                        done.add(planned.asks)
                except MethodError:
                    continue
        return time.perf_counter() - started

    # ---- one cell --------------------------------------------------------------------------------------------------

    def bench(self, config: RunConfig, seed: int) -> Workbench:
        """The product's own workbench over this ground's rows, as a student with this seed sees them."""
        data = for_student(self.clean, self.scenario, seed)
        if config.data.augment is not None:
            data = enlarged(data, config)
        alone = self.grid.config.workers == 1 and self.grid.config.engine == "local"
        return Workbench(
            config.model_copy(update={"seed": seed}),
            data,
            self.teachers,
            0.0,
            self.store,
            self.speeds if alone else None,
        )

    def run(self, cell: Cell) -> Line:
        """Train the student of a cell, or go on with it; its line, with all that depends on the machine."""
        started = time.perf_counter()
        config = self.grid.run_config(cell.scenario, cell.task, cell)
        with oracle_knows(self.truth):
            tuned = self._tuned(cell, config)
            if tuned is not None:
                config = _with_choice(config, tuned["chosen"])
            bench = self.bench(config, cell.seed)
            config = self._with_budget(config, bench, self._trainings(cell))
            bench = replace(bench, config=config)
            metrics = self._distil(bench, config, self.grid.config.folder / CELLS / cell.key)
        return self._line(cell, metrics, tuned, bench.data, time.perf_counter() - started)

    def keep(self, cell: Cell, line: Line) -> None:
        """Put the cell's predictions and line where they belong; from then on it is done."""
        folder = self.grid.config.folder
        source = folder / CELLS / cell.key
        dev = self.clean.dev
        if dev is not None:
            labels = folder / "predictions" / f"{self.name}.labels.parquet"
            if not labels.exists():
                write_predictions(labels, {f"labels {self.name} {dev.fingerprint()}": dev.labels})
            logits = read_run_predictions(source / RUN_PREDICTIONS)[2]
            key = f"{cell.key} {cell.settings}"
            write_predictions(folder / "predictions" / f"{cell.key}.parquet", {key: essence(self.clean.task, logits)})
        Results(folder / RESULTS).add(line)
        if not self.grid.config.keep_students:
            shutil.rmtree(source, ignore_errors=True)

    def _distil(self, bench: Workbench, config: RunConfig, folder: Path) -> dict[str, Any]:
        """Metrics of a student; goes on where it was stopped, be it after its last file was written."""
        config = config.model_copy(update={"baselines": []})
        recorded, done = folder / "config.yaml", folder / "metrics.json"
        if recorded.exists() and recorded.read_text(encoding="utf-8") != dump_config(config):
            shutil.rmtree(folder)  # a part of a training with settings of yesterday
        if done.exists():
            return dict(json.loads(done.read_text(encoding="utf-8")))
        return distil(bench, folder, config, False, report=False).metrics

    def _line(
        self, cell: Cell, metrics: dict[str, Any], tuned: dict[str, Any] | None, data: Data, seconds: float
    ) -> Line:
        dev = self.clean.dev
        cost = dict(metrics["cost"])
        # what scoring would have cost this method alone, on an empty store
        cost["teacher_rows_scored"] = metrics["signals"]["scored_rows"] + metrics["signals"]["reused_rows"]
        cost["tuning_seconds"] = tuned["seconds"] if tuned else 0.0
        cost["tuning_tokens"] = tuned["tokens"] if tuned else 0
        return {
            **metrics,
            "cost": cost,
            "cell": cell.key,
            "settings": cell.settings,
            "scenario": cell.scenario.name,
            "task_name": cell.task.name,
            "method": cell.label,
            "preset": metrics["method"],
            "family": family(cell.method),
            "student_name": cell.student.init,
            "overrides": cell.method.spec().model_dump(mode="json", exclude_none=True, exclude={"name"}),
            "train": cell.train.model_dump(mode="json", exclude_defaults=True),
            "tuned": tuned["chosen"] if tuned else None,
            "equal_tokens": self.grid.config.equal_tokens,
            "labelled_rows": int(data.train.has_label.sum()),
            "dev_fingerprint": dev.fingerprint() if dev is not None else None,
            "cell_seconds": round(seconds, 3),
        }

    # ---- tuning ----------------------------------------------------------------------------------------------------

    def _tuned(self, cell: Cell, config: RunConfig) -> dict[str, Any] | None:
        """The settings that the held-out rows chose, with the comparison's first seed; searched once for all seeds."""
        if not cell.method.tune:
            return None
        first = self.grid.seeds(cell.method)[0]
        owner = next(
            c
            for c in self.grid.cells
            if c.seed == first and c.ground == cell.ground and c.label == cell.label and c.student == cell.student
        )
        name = f"{owner.key.rpartition('.')[0]}-{owner.settings}"
        path = self.grid.config.folder / TUNED / f"{name}.json"
        with lock(self.grid.config.folder / LOCKS / f"{name}.lock", wait=True):
            if not path.exists():
                known = Results(self.grid.config.folder / RESULTS).done().get((owner.key, owner.settings))
                found = _searched(known) if known is not None else None
                write_json(path, found or self._search(cell.method, config, first, path.with_suffix("")))
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _search(self, method: ComparedMethodConfig, config: RunConfig, seed: int, folder: Path) -> dict[str, Any]:
        tried = []
        for number, choice in enumerate(choices(method)):
            point = folder / str(number)
            single = _with_choice(config, choice).model_copy(update={"seed": seed, "name": f"try-{number}"})
            bench = self.bench(single, seed)
            if not len(bench.data.validation):
                raise ConfigError("tune: no rows are held out of train to choose by: set data.validation_size")
            single = self._with_budget(single, bench, len(choices(method)) + 1)
            metrics = self._distil(replace(bench, config=single), single, point)
            for heavy in ("student", "checkpoints", "tensorboard"):
                shutil.rmtree(point / heavy, ignore_errors=True)
            tried.append(
                {
                    "choice": choice,
                    "validation": metrics["student"]["validation"],
                    "seconds": metrics["cost"]["train_seconds"],
                    "tokens": metrics["cost"]["student_tokens"],
                }
            )
        primary = self.clean.task.primary
        best = max(tried, key=lambda point: float(point["validation"][primary]))
        shutil.rmtree(folder, ignore_errors=True)
        return {
            "chosen": best["choice"],
            "tried": tried,
            "seconds": round(sum(p["seconds"] for p in tried), 3),
            "tokens": sum(p["tokens"] for p in tried),
        }

    # ---- equal budgets ---------------------------------------------------------------------------------------------

    def _trainings(self, cell: Cell) -> int:
        """Among how many trainings a budget is divided: those of the search count."""
        return len(choices(cell.method)) + 1 if cell.method.tune else 1

    def _with_budget(self, config: RunConfig, bench: Workbench, trainings: int) -> RunConfig:
        """The config with the comparison's token budget, a share of it per training."""
        wanted = self.grid.config.equal_tokens
        if wanted is False:
            return config
        rows = self._tokens(bench, config.student)
        whole = round(rows * config.train.epochs) if wanted is True else int(wanted)
        budget = max(1, whole // trainings)
        update = {"token_budget": budget, "epochs": budget / max(rows, 1)}
        return config.model_copy(update={"train": config.train.model_copy(update=update)})

    def _tokens(self, bench: Workbench, student: StudentConfig) -> int:
        """Tokens of all rows that a student may see: labelled ones and text."""
        if student.init not in self.lengths:
            built = bench.new_student()
            encoded = encode(bench.data.distillation, built.tokenizer, built.max_length)
            self.lengths[student.init] = int(encoded.lengths.sum())
        return self.lengths[student.init]


# ---- teachers --------------------------------------------------------------------------------------------------------


def read_ground(
    grid: Grid, scenario_name: str, task_name: str
) -> tuple[RunConfig, ScenarioConfig, ComparisonTaskConfig, Data]:
    """(config, scenario, task, rows as they are) of a ground."""
    scenario = next(s for s in grid.config.scenarios if s.name == scenario_name)
    task = next(t for t in grid.config.tasks if t.name == task_name)
    config = grid.run_config(scenario, task)
    clean = load_data(config.data, config.task, grid.config.split_seed, Path(config.data_dir))
    return config, scenario, task, clean


def make_teachers(
    grid: Grid, config: RunConfig, divided: PartsConfig | None, clean: Data, only: str | None = None
) -> list[TeacherConfig]:
    """The pool as checkpoints and tables; teachers that are to be fine-tuned are, once for all processes."""
    parts: Parts | None = None
    found = []
    for name, spec in named_teachers(config).items():
        assert isinstance(spec, PoolTeacherConfig)
        if spec.finetune is None:
            found.append(_plain_teacher(spec, name))
            continue
        if only is not None and name != only:
            continue
        if parts is None and divided is not None and spec.learns is not None and spec.learns.part is not None:
            with lock(Path(config.output) / LOCKS / "parts.lock", wait=True):
                parts = parts_of(divided, clean, config)
        data = for_teacher(clean, spec.learns, parts, grid.config.split_seed)
        digest = f"{name}-{data.train.fingerprint()}"
        with lock(Path(config.output) / LOCKS / f"teacher-{digest}.lock", wait=True):
            folder = finetuned_teacher(name, spec.finetune, data, config)
        found.append(TeacherConfig(name=name, path=str(folder), max_length=spec.max_length))
    return found


def _plain_teacher(spec: PoolTeacherConfig, name: str) -> TeacherConfig:
    if spec.learns is not None:
        raise ConfigError(f"teacher {name!r}: learns: changes what a teacher is fine-tuned on, it needs finetune:")
    values = {key: getattr(spec, key) for key in TeacherConfig.model_fields}
    return TeacherConfig.model_validate(values | {"name": name})


# ---- settings that are tried -----------------------------------------------------------------------------------------


def choices(method: ComparedMethodConfig) -> list[dict[str, Any]]:
    """All combinations of the values that `tune` lists."""
    found: list[dict[str, Any]] = [{}]
    for key, values in (method.tune or {}).items():
        found = [{**choice, key: value} for choice in found for value in values]
    return found


def _with_choice(config: RunConfig, choice: dict[str, Any]) -> RunConfig:
    """The config with some settings of its method replaced; keys may have dots."""
    raw: dict[str, Any] = {"method": config.method.model_dump(exclude_none=True)}
    for key, value in choice.items():
        set_value(raw, ["method", *key.split(".")], value, f"tune.{key}={value!r}")
    return config.model_copy(update={"method": MethodConfig.model_validate(raw["method"])})


def _searched(line: Line) -> dict[str, Any]:
    """What a search chose and cost, by the line of the cell that it was made for; made on another machine, say."""
    cost = line["cost"]
    return {"chosen": line["tuned"], "seconds": cost["tuning_seconds"], "tokens": cost["tuning_tokens"]}


def predictions_of(folder: Path) -> list[Path]:
    """The prediction files of a comparison's folder: one per cell while it runs, one in all where it was published."""
    packed = folder / PREDICTIONS
    return [packed] if packed.exists() else sorted((folder / "predictions").glob("*.parquet"))
