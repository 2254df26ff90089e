"""Runs the trials of one setup, over rows, teachers and signals that they share."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilect.config import RunConfig, TeacherConfig
from distilect.data import Data
from distilect.errors import ConfigError, DistilectError, MethodError, RunError
from distilect.experiments.config import PoolTeacherConfig
from distilect.experiments.methods import family, method_config
from distilect.experiments.oracle import oracle_knows
from distilect.experiments.results import (
    PREDICTIONS,
    RESULTS,
    Result,
    Results,
    compact_predictions,
    labels_key,
    offsets_key,
    prediction_key,
    write_predictions,
)
from distilect.experiments.scenarios import Parts, experts_of, for_student, for_teacher, parts_of, truth_of
from distilect.experiments.trials import SPLIT_SEED, Plan, Setup, Trial, choices
from distilect.files import atomic_write, locked
from distilect.models import Student, Teacher
from distilect.pipeline.predictions import PREDICTIONS as RUN_PREDICTIONS
from distilect.pipeline.predictions import read_predictions as read_run_predictions
from distilect.pipeline.search import trained, with_choice
from distilect.pipeline.teachers import data_of, finetuned_teacher, fold_copies, named_teachers, teachers_of
from distilect.pipeline.work import Workbench, enlarged
from distilect.selection import asks_teachers
from distilect.signals import SignalStore

TRIALS, LOCKS, TUNED = "trials", "locks", "tuned"


@dataclass
class Runner:
    """Prepares a setup and runs its trials.

    Attributes:
        config: what all trials of the setup have in common.
        clean: rows as they are, with one validation split for all seeds: what teachers learn from.
        truth: row key → true label.
        experts: row key → the teacher that was fine-tuned on the row's part.
        speeds: speeds by student, measured once.
        tokens: tokens of all rows that a student may see, by student.
    """

    plan: Plan
    setup: Setup
    config: RunConfig
    clean: Data
    teachers: list[Teacher]
    store: SignalStore
    truth: dict[int, Any]
    experts: dict[int, str]
    speeds: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: Plan, setup: Setup) -> Runner:
        """Read the data and load the teachers; fine-tune those that no process has made yet."""
        config, clean = read_setup(plan, setup)
        specs, copies, parts = _made(setup, config, clean)
        teachers = teachers_of(config.model_copy(update={"teachers": specs}), clean, {})
        for teacher in teachers:
            teacher.copies = copies.get(teacher.name, ())
        store = SignalStore(Path(config.output) / config.signals.store)
        learned = {
            name: spec.learns for name, spec in named_teachers(config).items() if isinstance(spec, PoolTeacherConfig)
        }
        experts = experts_of(parts, learned, clean) if parts is not None else {}
        return cls(plan, setup, config, clean, teachers, store, truth_of(clean), experts)

    def score_signals(self) -> None:
        """Fill the store with what any trial will ask for. A method that cannot be built here fails in its own trial."""
        students: dict[str, Student] = {}
        done: set[object] = set()
        with oracle_knows(self.truth, self.experts):
            bench = self.workbench(self.config, self.config.seed)
            if self.clean.dev is not None:
                for teacher in self.teachers:
                    bench.outputs(teacher, self.clean.dev)
            for trial in self.plan.trials:
                what = repr((method_config(trial.method), trial.student))
                if trial.setup.key != self.setup.key or what in done or not asks_teachers(trial.method):
                    continue
                done.add(what)
                config = self.plan.run_config(self.setup, trial)
                bench = self.workbench(config, self.config.seed)
                if trial.student.init not in students:
                    students[trial.student.init] = bench.new_student()
                try:
                    planned = bench.plan(config.method, students[trial.student.init])
                    if planned.asks not in done:
                        bench.ask(planned)
                        done.add(planned.asks)
                except MethodError:
                    continue

    def workbench(self, config: RunConfig, seed: int) -> Workbench:
        """The pipeline's workbench over this setup's rows, as a student with this seed sees them."""
        data = for_student(self.clean, self.setup.scenario, seed)
        if config.data.augment is not None:
            data = enlarged(data, config)
        alone = self.plan.config.workers == 1 and self.plan.config.engine == "local"
        config = config.model_copy(update={"seed": seed})
        return Workbench(config, data, self.teachers, 0.0, self.store, self.speeds if alone else None)

    # ---- one trial -------------------------------------------------------------------------------------------------

    def run(self, trial: Trial) -> Result:
        """Train the student of a trial, or go on with it."""
        started = time.perf_counter()
        config = self.plan.run_config(self.setup, trial)
        with oracle_knows(self.truth, self.experts):
            tuned = self._tuned(trial, config) if trial.method.tune else None
            if tuned is not None:
                config = with_choice(config, tuned["chosen"])
            bench = self.workbench(config, trial.seed)
            bench.config = self._with_budget(bench, trial)
            metrics = trained(bench, self.plan.config.folder / TRIALS / trial.key)
        return self._result(trial, metrics, tuned, bench.data, time.perf_counter() - started)

    def keep(self, trial: Trial, result: Result) -> None:
        """Put the trial's predictions and result where they belong; from then on it is done."""
        folder = self.plan.config.folder
        source = folder / TRIALS / trial.key
        if self.clean.dev is not None:
            labels = folder / PREDICTIONS / f"{self.setup.key}.labels.parquet"
            if not labels.exists():
                named = self.setup.key, self.clean.dev.fingerprint()
                values = {labels_key(*named): self.clean.dev.labels.reshape(-1)}
                if self.clean.dev.offsets is not None:
                    values[offsets_key(*named)] = self.clean.dev.offsets
                write_predictions(labels, values)
            logits = read_run_predictions(source / RUN_PREDICTIONS)[2]
            thresholds = result["student"].get("thresholds")
            found = compact_predictions(self.clean.task, logits, list(thresholds.values()) if thresholds else None)
            write_predictions(folder / PREDICTIONS / f"{trial.key}.parquet", {prediction_key(result): found})
        Results(folder / RESULTS).add(result)
        shutil.rmtree(source, ignore_errors=True)

    def _result(
        self, trial: Trial, metrics: dict[str, Any], tuned: dict[str, Any] | None, data: Data, seconds: float
    ) -> Result:
        signals, dev = metrics["signals"], self.clean.dev
        cost = metrics["cost"] | {
            # what scoring would have cost this method alone, on an empty store
            "teacher_rows_scored": signals["scored_rows"] + signals["reused_rows"],
            "tuning_seconds": tuned["seconds"] if tuned else 0.0,
            "tuning_tokens": tuned["tokens"] if tuned else 0,
        }
        return {
            **metrics,
            "cost": cost,
            "trial": trial.key,
            "settings": trial.settings,
            "scenario": self.setup.scenario.name,
            "task_name": self.setup.task.name,
            "method": trial.label,
            "preset": metrics["method"],
            "family": family(trial.method),
            "student_name": trial.student.init,
            "overrides": method_config(trial.method).model_dump(mode="json", exclude_none=True, exclude={"name"}),
            "train": trial.train.model_dump(mode="json", exclude_defaults=True),
            "tuned": tuned["chosen"] if tuned else None,
            "equal_tokens": self.plan.config.equal_tokens,
            "labelled_rows": int(data.train.has_label.sum()),
            "dev_fingerprint": dev.fingerprint() if dev is not None else None,
            "trial_seconds": round(seconds, 3),
        }

    # ---- tuning ----------------------------------------------------------------------------------------------------

    def _tuned(self, trial: Trial, config: RunConfig) -> dict[str, Any]:
        """The settings that the validation split chose, with the method's first seed; searched once for all seeds."""
        key = trial.key.rpartition(".")[0]
        first = f"{key}.seed={self.plan.seeds(trial.method)[0]}"
        owner = next(other for other in self.plan.trials if other.key == first)
        name = f"{key}-{owner.settings}"
        folder = self.plan.config.folder
        path = folder / TUNED / f"{name}.json"
        with locked(folder / LOCKS / f"{name}.lock", RunError, f"another process is tuning {key}", wait=True):
            if not path.exists():
                known = Results(folder / RESULTS).done().get((owner.key, owner.settings))
                if known is not None:  # made on another machine, say
                    cost = known["cost"]
                    search = {
                        "chosen": known["tuned"],
                        "seconds": cost["tuning_seconds"],
                        "tokens": cost["tuning_tokens"],
                    }
                else:
                    search = self._search(owner, config, path.with_suffix(""))
                atomic_write(path, json.dumps(search, indent=1, ensure_ascii=False) + "\n")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _search(self, trial: Trial, config: RunConfig, folder: Path) -> dict[str, Any]:
        """Train a student for each choice; the best one on the validation split is taken. A single choice needs no training."""
        found = choices(trial.method, self.clean.task)
        tried: list[dict[str, Any]] = []
        if len(found) == 1:
            return {"chosen": found[0], "tried": tried, "seconds": 0.0, "tokens": 0}
        for number, choice in enumerate(found):
            point = folder / str(number)
            single = with_choice(config, choice).model_copy(update={"name": f"try-{number}"})
            bench = self.workbench(single, trial.seed)
            if not len(bench.data.validation):
                raise ConfigError("tune: there is no validation split to choose by: set data.validation_size")
            bench.config = self._with_budget(bench, trial)
            metrics = trained(bench, point)
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
        best = max(tried, key=lambda point: float(point["validation"][self.clean.task.primary]))
        shutil.rmtree(folder, ignore_errors=True)
        seconds, tokens = (sum(point[key] for point in tried) for key in ("seconds", "tokens"))
        return {"chosen": best["choice"], "tried": tried, "seconds": round(seconds, 3), "tokens": tokens}

    def _with_budget(self, bench: Workbench, trial: Trial) -> RunConfig:
        """The bench's config; with equal budgets it trains for an equal share of tokens per training, searches included."""
        config = bench.config
        if not self.plan.config.equal_tokens:
            return config
        init = config.student.init
        if init not in self.tokens:
            built = bench.new_student()
            self.tokens[init] = int(built.encode(bench.data.distillation).lengths.sum())
        rows = self.tokens[init]
        count = len(choices(trial.method, self.clean.task))
        trainings = count + 1 if count > 1 else 1
        budget = max(1, round(rows * config.train.epochs) // trainings)
        update = {"token_budget": budget, "epochs": budget / max(rows, 1)}
        return config.model_copy(update={"train": config.train.model_copy(update=update)})


def read_setup(plan: Plan, setup: Setup) -> tuple[RunConfig, Data]:
    """What all trials of a setup have in common: (config, rows as they are)."""
    config = plan.run_config(setup)
    return config, data_of(config, seed=SPLIT_SEED)


def _made(
    setup: Setup, config: RunConfig, clean: Data
) -> tuple[list[TeacherConfig], dict[str, list[Path]], Parts | None]:
    """The pool as checkpoints and tables, the copies of teachers in folds, and the parts if teachers learn from them; those that are to be
    fine-tuned are, once for all processes.

    Raises:
        RunError: a teacher cannot be made; the message names it.
    """
    locks = Path(config.output) / LOCKS
    parts, found, copies = None, [], dict[str, list[Path]]()
    for name, spec in named_teachers(config).items():
        assert isinstance(spec, PoolTeacherConfig)
        if spec.finetune is None:
            if spec.learns is not None:
                raise ConfigError(f"teacher {name!r}: learns: changes the rows of fine-tuning, so it needs finetune:")
            values = {key: getattr(spec, key) for key in TeacherConfig.model_fields}
            found.append(TeacherConfig.model_validate(values | {"name": name}))
            continue
        if parts is None and setup.parts is not None and spec.learns is not None and spec.learns.part is not None:
            with locked(locks / "parts.lock", RunError, "another process is dividing train into parts", wait=True):
                parts = parts_of(setup.parts, clean, config)
        data = for_teacher(clean, spec.learns, parts, SPLIT_SEED)
        lock = locks / f"teacher-{name}-{data.train.fingerprint()}.lock"
        try:
            with locked(lock, RunError, f"another process is fine-tuning teacher {name}", wait=True):
                folder = finetuned_teacher(name, spec.finetune, data, config, spec.tokenizer)
                copies[name] = fold_copies(name, spec.finetune, data, config, spec.tokenizer)
        except DistilectError as error:
            raise RunError(f"teacher {name}: {error}") from error
        found.append(TeacherConfig(name=name, path=str(folder), max_length=spec.max_length))
    return found, copies, parts
