"""The trials of a comparison. A trial is one student: task × scenario × student × method × seed."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilect.config import MethodConfig, Part, RunConfig, StudentConfig, TrainConfig, parse_part
from distilect.errors import ConfigError, did_you_mean
from distilect.experiments.config import (
    CompareConfig,
    ComparedMethodConfig,
    ComparisonTaskConfig,
    PartsConfig,
    PoolTeacherConfig,
    ScenarioConfig,
)
from distilect.experiments.methods import label_of, method_config
from distilect.pipeline.search import choices as combinations
from distilect.selection import asks_teachers, likely_stages
from distilect.tasks import Task

SPLIT_SEED = 0  # of the validation split: one for all trials, so that teachers are too
_PATHS = ("train", "dev", "glue", "extra", "validation")


@dataclass(frozen=True)
class Setup:
    """One task in one scenario: its trials share rows, teachers and signals.

    Attributes:
        teachers: the pool: the scenario's, the task's or the comparison's.
        parts: how train is divided between specialists; None where no teacher of the pool learns from a part.
    """

    scenario: ScenarioConfig
    task: ComparisonTaskConfig
    teachers: list[PoolTeacherConfig]
    parts: PartsConfig | None

    @property
    def key(self) -> str:
        return f"{self.scenario.name}.{self.task.name}"


@dataclass(frozen=True)
class Trial:
    """One student of a comparison.

    Attributes:
        label: the method's name in results.
        key: readable, unique in the comparison, and the name of its files.
        settings: 16 hex digits over everything that its result depends on; a result with other ones is stale.
    """

    setup: Setup
    student: StudentConfig
    label: str
    method: ComparedMethodConfig
    train: TrainConfig
    seed: int
    key: str
    settings: str

    @property
    def names(self) -> tuple[str, ...]:
        """What `--only` may name."""
        return self.setup.scenario.name, self.setup.task.name, self.student.init, self.label, f"seed={self.seed}"

    @property
    def title(self) -> str:
        """For the terminal."""
        return " · ".join(self.names).replace("seed=", "seed ")


class Plan:
    """All trials of a comparison, seed after seed: a part of them, from the first on, is a whole table.

    Attributes:
        labels: the methods' names in results.
        setups: key → setup.
        trials: in the order in which they are run.

    Raises:
        ConfigError: names that are not unique or not known, methods that do not exist.
    """

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.labels = [label_of(method) for method in config.methods]
        _unique("task", [task.name for task in config.tasks])
        _unique("scenario", [scenario.name for scenario in config.scenarios])
        _unique("student", [student.init for student in config.students])
        _unique("method", self.labels)
        setups = [self._setup(scenario, task) for scenario in config.scenarios for task in config.tasks]
        self.setups = {setup.key: setup for setup in setups}
        self._check()
        self.trials = [
            self._trial(setup, student, label, method, seed)
            for seed in dict.fromkeys(seed for method in config.methods for seed in self.seeds(method))
            for setup in setups
            for student in config.students
            for label, method in zip(self.labels, config.methods, strict=True)
            if seed in self.seeds(method) and (method.tasks is None or setup.task.name in method.tasks)
        ]
        if not self.trials:
            raise ConfigError("no trial is left: every method has an empty list of seeds or tasks")
        _unique("trial", [trial.key for trial in self.trials])

    @property
    def baseline(self) -> str:
        """The method that the others are tested against."""
        if self.config.baseline:
            return self.config.baseline
        return "kd" if "kd" in self.labels else self.labels[0]

    def seeds(self, method: ComparedMethodConfig) -> list[int]:
        return method.seeds if method.seeds is not None else self.config.seeds

    def only(self, patterns: Sequence[str]) -> list[Trial]:
        """The trials whose key matches a pattern, or that have a pattern as one of their names; all without patterns.

        Raises:
            ConfigError: a pattern matches nothing.
        """
        for pattern in patterns:
            if not any(_matches(trial, pattern) for trial in self.trials):
                names = {name for trial in self.trials for name in trial.names}
                raise ConfigError(
                    f"--only {pattern!r} matches no trial: give a task, scenario, student, method, seed=N, or a pattern such "
                    f"as '*.kd.*'.{did_you_mean(pattern, names)}"
                )
        return [t for t in self.trials if not patterns or any(_matches(t, pattern) for pattern in patterns)]

    def run_config(self, setup: Setup, trial: Trial | None = None) -> RunConfig:
        """The config of a trial; without one, what all trials of a setup have in common."""
        config = self.config
        return RunConfig(
            name=trial.key if trial else setup.key,
            data_dir=config.data_dir,
            task=setup.task.task,
            data=setup.task.data,
            teachers=list(setup.teachers),
            student=trial.student if trial else config.students[0],
            method=method_config(trial.method) if trial else MethodConfig(name="finetune"),
            train=trial.train if trial else self._train(setup.task),
            signals=config.signals,
            seed=trial.seed if trial else SPLIT_SEED,
            output=config.output,
        )

    def _setup(self, scenario: ScenarioConfig, task: ComparisonTaskConfig) -> Setup:
        pools = (scenario.teachers, task.teachers, self.config.teachers)
        teachers = next(pool for pool in pools if pool is not None)
        divided = any(teacher.learns is not None and teacher.learns.part is not None for teacher in teachers)
        return Setup(scenario, task, teachers, (task.parts or scenario.parts) if divided else None)

    def _check(self) -> None:
        """Everything that can be known to be wrong before any work."""
        for label, method in zip(self.labels, self.config.methods, strict=True):
            likely_stages(method_config(method), self.config.train)
            for name in method.tasks or ():
                _known("task", name, [task.name for task in self.config.tasks])
            for setup in self.setups.values():
                if asks_teachers(method) and not setup.teachers:
                    raise ConfigError(
                        f"method {label!r} needs a teacher, but task {setup.task.name!r} has none in scenario "
                        f"{setup.scenario.name!r}: set teachers:"
                    )
            for key, values in (method.tune or {}).items():
                if not values:
                    raise ConfigError(f"method {label!r}: tune.{key} lists no value to try")
        for name in self.config.contenders + ([self.config.baseline] if self.config.baseline else []):
            _known("method", name, self.labels)

    def _train(self, task: ComparisonTaskConfig) -> TrainConfig:
        return _merged(self.config.train, task.train, f"task {task.name}")

    def _trial(
        self, setup: Setup, student: StudentConfig, label: str, method: ComparedMethodConfig, seed: int
    ) -> Trial:
        train = _merged(self._train(setup.task), method.train, f"method {label}")
        depends = {
            "scenario": _set_values(setup.scenario),
            "parts": _set_values(setup.parts) if setup.parts else None,
            "teachers": [_set_values(teacher) for teacher in setup.teachers],
            "data": _without_folders(_set_values(setup.task.data)),
            "task": _set_values(setup.task.task),
            "student": _set_values(student),
            "method": _set_values(method_config(method)),
            "tune": method.tune,
            "tuned_with": self.seeds(method)[0] if method.tune else None,
            # whether a stopped training can go on changes no result
            "train": {key: value for key, value in _set_values(train).items() if key != "resumable"},
            "seed": seed,
            "equal_tokens": self.config.equal_tokens,
        }
        if asks_teachers(method) and self.config.signals.calibrates(len(setup.teachers)):
            depends["calibrated"] = True  # a key of its own: results without calibration keep their digest
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        key = ".".join([setup.key, _slug(student.init), _slug(label), f"seed={seed}"])
        return Trial(setup, student, label, method, train, seed, key, digest)


def choices(method: ComparedMethodConfig, task: Task | None = None) -> list[dict[str, Any]]:
    """What a method's `tune` tries on a task."""
    return combinations(method.tune or {}, task)


def _merged(train: TrainConfig, changes: dict[str, Any] | None, where: str) -> TrainConfig:
    """`train` with some settings replaced; an error says where."""
    if not changes:
        return train
    try:
        return parse_part(TrainConfig, train.model_dump() | changes)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{where}, train: {line}" for line in str(error).splitlines())) from None


def _matches(trial: Trial, pattern: str) -> bool:
    return pattern in trial.names or fnmatch.fnmatchcase(trial.key, pattern)


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"two {what}s are called {name!r}: give one of them another name")
        seen.add(name)


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"no {what} of this comparison is called {name!r}; there are {', '.join(known)}.{did_you_mean(name, known)}"
        )


def _slug(text: str) -> str:
    """A name of a file; a hash keeps names apart that would come out the same."""
    slug = re.sub(r"[^\w+-]+", "_", text).strip("_")
    if slug == text or re.fullmatch(r"[\w-]+\[[\w=,]+\]", text):
        return slug
    return f"{slug[-40:]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _set_values(part: Part) -> dict[str, Any]:
    """What was set, without defaults: an option that is added later changes no digest."""
    return part.model_dump(mode="json", exclude_defaults=True)


def _without_folders(data: dict[str, Any]) -> dict[str, Any]:
    """Paths by their last two parts: results from another machine are the same results."""
    return {k: "/".join(Path(v).parts[-2:]) if k in _PATHS and v else v for k, v in data.items()}
