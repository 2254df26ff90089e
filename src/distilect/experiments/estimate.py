"""What a comparison still has to do: how long it will take, and how much disk it needs.

A trial takes as long as finished ones of the same task and method on such a machine. Where there are none, a pilot of the task's
costliest kind of method says what a step, a scored row and a stored row cost (`pipeline.estimate`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from distilect.data import Data
from distilect.errors import MethodError
from distilect.experiments.compare import open_trials
from distilect.experiments.config import CompareConfig, PoolTeacherConfig
from distilect.experiments.methods import family
from distilect.experiments.results import RESULTS, Result, Results
from distilect.experiments.runner import read_setup
from distilect.experiments.scenarios import for_teacher
from distilect.experiments.trials import SPLIT_SEED, Plan, Setup, Trial, choices
from distilect.pipeline.estimate import Pilot, Rates, in_folds, total, validation
from distilect.pipeline.metrics import machine
from distilect.pipeline.teachers import RECORD, named_teachers, teacher_folder
from distilect.report.words import duration, megabytes
from distilect.selection import asks_teachers, get_preset, likely_stages
from distilect.tasks import Task

OVERHEAD_SECONDS = 10.0  # of a trial beside its training: building, scoring on dev, files
TRAINING_COPIES = 1 + 2 * 3  # of a student: itself, and two checkpoints of weights and two moments of Adam


@dataclass
class Estimate:
    """What is still to be done, in seconds of all workers together and bytes.

    Attributes:
        basis: where the seconds come from, a line per source.
        setups: (scenario · task, open trials, seconds).
    """

    trials: int
    open_trials: int
    workers: int = 1
    teachers: int = 0
    teacher_seconds: float = 0.0
    scoring_seconds: float = 0.0
    trial_seconds: float = 0.0
    disk: float = 0.0
    free: float = 0.0
    basis: list[str] = field(default_factory=list)
    setups: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time, if nothing else runs and the workers do not slow each other down."""
        return (self.teacher_seconds + self.scoring_seconds + self.trial_seconds) / self.workers

    def text(self) -> list[str]:
        """For the terminal."""
        teachers, signals = duration(self.teacher_seconds), duration(self.scoring_seconds)
        enough = "" if self.disk <= self.free else ": NOT ENOUGH"
        return [
            f"{self.trials} trials, {self.trials - self.open_trials} done, {self.open_trials} to run",
            *(f"  {name}: {count} trials, {duration(seconds)}" for name, count, seconds in self.setups),
            f"teachers to fine-tune: {self.teachers}, {teachers}; their signals: {signals}",
            f"about {duration(self.seconds)} with {self.workers} worker(s), by",
            *(f"  {line}" for line in dict.fromkeys(self.basis)),
            f"disk at most about {megabytes(self.disk)} MB, free {megabytes(self.free)} MB{enough}",
        ]


def estimate(config: CompareConfig, only: Sequence[str] = ()) -> Estimate:
    """What `compare` would still have to do; writes nothing outside temporary folders.

    Raises:
        DistilectError: as `compare`, before any work.
    """
    plan = Plan(config)
    trials = plan.only(only)
    todo = open_trials(plan, trials)
    found = Estimate(len(trials), len(todo), config.workers)
    history = _History(plan)
    made: set[Path] = set()
    for setup in plan.setups.values():
        of_setup = [trial for trial in todo if trial.setup.key == setup.key]
        if of_setup:
            _add_setup(plan, setup, of_setup, history, made, found)
    found.disk += config.workers * TRAINING_COPIES * 4 * history.parameters if todo else 0
    existing = next(p for p in (config.folder, *config.folder.resolve().parents) if p.exists())
    found.free = float(shutil.disk_usage(existing).free)
    return found


def _add_setup(
    plan: Plan, setup: Setup, trials: Sequence[Trial], history: _History, made: set[Path], found: Estimate
) -> None:
    """Add one setup's share; `made`: folders of teachers that are counted already."""
    config, clean = read_setup(plan, setup)
    missing = [teacher for teacher in _unmade_teachers(plan, setup, clean) if teacher[0] not in made]
    made.update(folder for folder, _, _ in missing)
    seconds = {trial.key: history.seconds(trial) for trial in trials}
    if missing or None in seconds.values():
        rows = len(clean.distillation) + len(clean.validation)
        rates, parameters, source = _pilot(plan, trials, rows)
        found.basis.append(f"{setup.key}: {source}")
        slowest = max(rates.scoring.values(), default=0.0)  # stands for teachers that the pilot's method does not ask
        scored = [name for name, spec in named_teachers(config).items() if spec.table is None and spec.endpoint is None]
        found.scoring_seconds += rows * sum(rates.scoring.get(name, slowest) for name in scored)
        found.scoring_seconds += rows * sum(rates.scoring.get(name, slowest) for name in in_folds(config))
        found.disk += rows * rates.signal_bytes
        history.parameters = max(history.parameters, parameters)
        for _, spec, share in missing:
            assert spec.finetune is not None
            forward = rates.scoring.get(str(spec.name), slowest)  # with the backward pass three times as much
            found.teachers += 1
            copies = spec.finetune.folds or 1  # each without a fold, beside the teacher: so many times its rows
            found.teacher_seconds += copies * share * len(clean.train) * spec.finetune.epochs * 3 * forward
            found.disk += (1 + copies) * 4 * parameters
        held = validation(config, rows, len(clean.validation))
        for trial in trials:
            if seconds[trial.key] is None:
                seen = rows if asks_teachers(trial.method) else round(trial.setup.scenario.labelled * rows)
                single = plan.run_config(setup, trial)
                stages = [
                    single.model_copy(update={"train": stage.train})
                    for stage in likely_stages(single.method, single.train)
                ]
                trained = sum(total(stage, seen, rates, min(held, seen)).training_seconds for stage in stages)
                seconds[trial.key] = trained + OVERHEAD_SECONDS
    if any(history.seconds(trial) is not None for trial in trials):
        found.basis.append(f"finished trials of {setup.task.name}")
    spent = sum((seconds[trial.key] or 0.0) * _trainings(plan, trial, clean.task) for trial in trials)
    found.trial_seconds += spent
    found.setups.append((f"{setup.scenario.name} · {setup.task.name}", len(trials), spent))
    found.disk += len(trials) * (2 * (len(clean.dev) if clean.dev is not None else 0) + 4096)  # predictions and results


def _trainings(plan: Plan, trial: Trial, task: Task) -> float:
    """Of a trial: its own, and its share of the search; one choice needs none."""
    count = len(choices(trial.method, task))
    return 1 + count / len(plan.seeds(trial.method)) if count > 1 else 1


def _unmade_teachers(plan: Plan, setup: Setup, clean: Data) -> list[tuple[Path, PoolTeacherConfig, float]]:
    """(folder, teacher, share of train that it learns from) of teachers that are still to be fine-tuned."""
    config = plan.run_config(setup)
    found = []
    for name, spec in named_teachers(config).items():
        if spec.finetune is None:
            continue
        assert isinstance(spec, PoolTeacherConfig)
        if spec.learns is not None and spec.learns.part is not None:  # which rows that are may take an encoder to say
            folder = Path(config.output) / "teachers" / f"{setup.key} {name}"
            exists = any(folder.parent.glob(f"{name}-*/{RECORD}"))
            share = 1 / setup.parts.count if setup.parts else 1.0
        else:
            folder = teacher_folder(
                name, spec.finetune, for_teacher(clean, spec.learns, None, SPLIT_SEED), config, spec.tokenizer
            )
            exists, share = (folder / RECORD).exists(), 1.0
        if not exists:
            found.append((folder, spec.model_copy(update={"name": name}), share))
    return found


def _pilot(plan: Plan, trials: Sequence[Trial], rows: int) -> tuple[Rates, int, str]:
    """What a step and each of so many rows cost here, parameters of the student, and where that comes from.

    The pilot's method is the one with most kinds of knowledge, static if there is one; learning selectors add passes of their own.
    """
    config = plan.config
    threads, own = config.threads or (1 if config.workers > 1 else torch.get_num_threads()), torch.get_num_threads()
    kinds = {trial.label: len(trial.method.knowledge or get_preset(trial.method.name).knowledge) for trial in trials}
    order = sorted(trials, key=lambda t: (family(t.method) != "static", not asks_teachers(t.method), -kinds[t.label]))
    torch.set_num_threads(threads)
    try:
        for trial in {trial.label: trial for trial in order}.values():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    pilot = Pilot(plan.run_config(trial.setup, trial), Path(folder))
                except MethodError:  # its trials will fail with this error
                    continue
                rates = pilot.padded(pilot.rates(), rows)
                source = (
                    f"timed steps of {trial.train.batch_size} rows with {trial.label}, {threads} thread(s): "
                    f"{rates.step:.3f} s each; selectors' own passes are not in it"
                )
                return rates, sum(p.numel() for p in pilot.student.model.parameters()), source
    finally:
        torch.set_num_threads(own)
    raise MethodError(f"none of the methods {', '.join(kinds)} can be run on task {trials[0].setup.task.name!r}")


class _History:
    """Seconds of finished trials on such a machine: with the same method, else of the same task and student.

    Attributes:
        parameters: of the largest student so far.
    """

    def __init__(self, plan: Plan) -> None:
        here, self.parameters = _machine_kind(machine()), 0
        self.known: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for result in Results(plan.config.folder / RESULTS).read():
            self.parameters = max(self.parameters, result["student"]["parameters"])
            if _machine_kind(result["machine"]) == here:
                names = (result["task_name"], result["student_name"], result["method"])
                seconds = float(result["cost"]["train_seconds"]) + OVERHEAD_SECONDS
                self.known[names].append(seconds)
                self.known[names[:2]].append(seconds)

    def seconds(self, trial: Trial) -> float | None:
        names = (trial.setup.task.name, trial.student.init, trial.label)
        found = self.known.get(names) or self.known.get(names[:2])
        return float(np.median(found)) if found else None


def _machine_kind(described: Result) -> list[object]:
    """What seconds depend on: those of another kind of machine, a GPU say, tell nothing of this one."""
    return [described.get(name) for name in ("device", "gpu", "cores")]
