"""The cells of a comparison: one student each, by (scenario, task, student, method, seed)."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from distilect.experiments.oracle import ORACLE
from distilect.selection import asks_teachers, get_preset
from distilect.selection.registry import LOSS_WEIGHTS, ROWS, TEACHERS

_PATHS = ("train", "dev", "glue", "extra", "validation")
_STATIC = "distilect.selection.static"


@dataclass(frozen=True)
class Cell:
    """One student: what it is, not where or when it is trained.

    Attributes:
        key: readable, unique in the comparison, and the name of its files.
        settings: 16 hex digits over everything that its result depends on; a line with other ones is stale.
    """

    scenario: ScenarioConfig
    task: ComparisonTaskConfig
    student: StudentConfig
    label: str
    method: ComparedMethodConfig
    train: TrainConfig
    seed: int
    key: str
    settings: str

    @property
    def ground(self) -> tuple[str, str]:
        """What cells with the same data and teachers share: (scenario, task)."""
        return self.scenario.name, self.task.name

    @property
    def title(self) -> str:
        """For the terminal."""
        return f"{self.scenario.name} · {self.task.name} · {self.student.init} · {self.label} · seed {self.seed}"


class Grid:
    """All cells of a comparison, in the order in which they are run: seed after seed, so that a part of it is a whole table.

    Raises:
        ConfigError: names that are not unique or not known, methods that do not exist.
    """

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        _unique("task", [task.name for task in config.tasks])
        _unique("scenario", [scenario.name for scenario in config.scenarios])
        _unique("student", [student.init for student in config.students])
        self.labels = [label_of(method) for method in config.methods]
        _unique("method", self.labels)
        self._check()
        for name in config.contenders + ([config.baseline] if config.baseline else []):
            _known("method", name, self.labels)

    @cached_property
    def cells(self) -> list[Cell]:
        seeds = dict.fromkeys(seed for method in self.config.methods for seed in self.seeds(method))
        found = [
            self._cell(scenario, task, student, label, method, seed)
            for seed in seeds
            for scenario in self.config.scenarios
            for task in self.config.tasks
            for student in self.config.students
            for label, method in zip(self.labels, self.config.methods, strict=True)
            if seed in self.seeds(method) and _wanted(method, scenario.name, task.name, student.init)
        ]
        if not found:
            raise ConfigError(
                "no cell is left: every method names tasks, scenarios or students that exclude each other"
            )
        _unique("cell", [cell.key for cell in found])
        return found

    @property
    def baseline(self) -> str:
        """The method that the others are tested against."""
        if self.config.baseline:
            return self.config.baseline
        return "kd" if "kd" in self.labels else self.labels[0]

    def seeds(self, method: ComparedMethodConfig) -> list[int]:
        return method.seeds if method.seeds is not None else self.config.seeds

    def only(self, patterns: Sequence[str]) -> list[Cell]:
        """The cells whose key matches a pattern, or that have a pattern as one of their names.

        Raises:
            ConfigError: a pattern matches nothing.
        """
        if not patterns:
            return self.cells
        for pattern in patterns:
            if not any(_matches(cell, pattern) for cell in self.cells):
                names = {name for cell in self.cells for name in _names(cell)}
                raise ConfigError(
                    f"--only {pattern!r} matches no cell: give a task, scenario, student, method, seed=N, or a pattern such as "
                    f"'*.kd.*'.{did_you_mean(pattern, names)}"
                )
        return [cell for cell in self.cells if any(_matches(cell, pattern) for pattern in patterns)]

    def pool(self, scenario: ScenarioConfig, task: ComparisonTaskConfig) -> list[PoolTeacherConfig]:
        """The teachers of a ground: the scenario's, the task's or the comparison's."""
        if scenario.teachers is not None:
            return scenario.teachers
        return self.config.teachers if task.teachers is None else task.teachers

    def parts(self, scenario: ScenarioConfig, task: ComparisonTaskConfig) -> PartsConfig | None:
        """How train is divided between specialists; None where no teacher of the pool learns from a part."""
        if not any(t.learns is not None and t.learns.part is not None for t in self.pool(scenario, task)):
            return None
        return task.parts or scenario.parts

    def run_config(self, scenario: ScenarioConfig, task: ComparisonTaskConfig, cell: Cell | None = None) -> RunConfig:
        """The config of a ground's runs, or of one of its cells."""
        config = self.config
        return RunConfig(
            name=cell.key if cell else f"{scenario.name}.{task.name}",
            data_dir=config.data_dir,
            task=task.task,
            data=task.data,
            teachers=list(self.pool(scenario, task)),
            student=cell.student if cell else config.students[0],
            method=cell.method.spec() if cell else MethodConfig(name="finetune"),
            train=cell.train if cell else merged(config.train, task.train, f"task {task.name}"),
            signals=config.signals,
            seed=cell.seed if cell else config.split_seed,
            output=config.output,
        )

    def _check(self) -> None:
        """Everything that can be known to be wrong before any work."""
        config = self.config
        for label, method in zip(self.labels, config.methods, strict=True):
            get_preset(method.name)
            for names, what, known in (
                (method.tasks, "task", [t.name for t in config.tasks]),
                (method.scenarios, "scenario", [s.name for s in config.scenarios]),
                (method.students, "student", [s.init for s in config.students]),
            ):
                for name in names or ():
                    _known(what, name, known)
            for scenario in config.scenarios:
                for task in config.tasks:
                    if asks_teachers(method) and not self.pool(scenario, task):
                        raise ConfigError(
                            f"method {label!r} needs a teacher, but task {task.name!r} has none in scenario {scenario.name!r}: "
                            "set teachers:"
                        )
            for key, values in (method.tune or {}).items():
                if not values:
                    raise ConfigError(f"method {label!r}: tune.{key} lists no value to try")

    def _cell(
        self,
        scenario: ScenarioConfig,
        task: ComparisonTaskConfig,
        student: StudentConfig,
        label: str,
        method: ComparedMethodConfig,
        seed: int,
    ) -> Cell:
        train = merged(self.config.train, task.train, f"task {task.name}")
        train = merged(train, method.train, f"method {label}")
        key = ".".join([scenario.name, task.name, _slug(student.init), _slug(label), f"seed={seed}"])
        parts = self.parts(scenario, task)
        depends = {
            "scenario": _plain(scenario),
            "parts": _plain(parts) if parts else None,
            "teachers": [_plain(t) for t in self.pool(scenario, task)],
            "data": _names_only(_plain(task.data)),
            "task": _plain(task.task),
            "student": _plain(student),
            "method": _plain(method.spec()),
            "tune": method.tune,
            "train": _results_of(train),
            "seed": seed,
            "split": self.config.split_seed,
            "equal_tokens": self.config.equal_tokens,
        }
        if method.tune:
            depends["tuned_with"] = self.seeds(method)[0]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        return Cell(scenario, task, student, label, method, train, seed, key, digest)


def merged(train: TrainConfig, changes: dict[str, Any] | None, where: str) -> TrainConfig:
    """`train` with some settings replaced.

    Raises:
        ConfigError: an unknown key or a bad value; says where.
    """
    if not changes:
        return train
    try:
        return parse_part(TrainConfig, train.model_dump() | changes)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{where}, train: {line}" for line in str(error).splitlines())) from None


# ---- methods ---------------------------------------------------------------------------------------------------------


def label_of(method: ComparedMethodConfig) -> str:
    """The method's name in results: its label or the preset's name, with what is changed; `mix-` before it if it is a mix.

    A mix puts another selector, or other kinds of knowledge, in the place of its preset's.
    """
    swapped = _swapped(method)
    if method.label is not None:
        plain = not swapped or method.label.startswith("mix-") or _oracle(method)
        return method.label if plain else f"mix-{method.label}"
    if swapped:
        return "-".join(["mix", method.name, *(word for word in swapped if word != method.name)])
    changed = {k: v for k, v in (("alpha", method.alpha), ("T", method.temperature)) if v is not None}
    return "-".join([method.name, *(f"{key}{value:g}" for key, value in changed.items())])


def family(method: ComparedMethodConfig) -> str:
    """`static`: nobody looks at the student or learns; `adaptive`; `oracle`: knows what no method may see."""
    if _oracle(method):
        return "oracle"
    preset = get_preset(method.name)
    chosen = (
        (ROWS, method.rows or preset.rows),
        (TEACHERS, method.teachers if method.teachers is not None else preset.teachers),
        (LOSS_WEIGHTS, method.loss_weights or preset.loss_weights),
    )
    modules = [getattr(known.get(_name(spec)), "__module__", "") for known, spec in chosen if spec is not None]
    return "static" if all(module == _STATIC for module in modules) else "adaptive"


def _swapped(method: ComparedMethodConfig) -> list[str]:
    """Names of the parts that replace those of the preset."""
    preset = get_preset(method.name)
    pairs = ((method.rows, preset.rows), (method.teachers, preset.teachers), (method.loss_weights, preset.loss_weights))
    found = [_name(own) for own, theirs in pairs if own is not None and _name(own) != _name(theirs)]
    if method.knowledge is not None and set(method.knowledge) != set(preset.knowledge):
        found += sorted(set(method.knowledge) - set(preset.knowledge)) or ["less"]
    return found


def _oracle(method: ComparedMethodConfig) -> bool:
    return method.teachers is not None and _name(method.teachers) == ORACLE


def _name(spec: Any) -> str:
    return spec if isinstance(spec, str) else str((spec or {}).get("name"))


# ---- names -----------------------------------------------------------------------------------------------------------


def _wanted(method: ComparedMethodConfig, scenario: str, task: str, student: str) -> bool:
    pairs = ((method.scenarios, scenario), (method.tasks, task), (method.students, student))
    return all(names is None or name in names for names, name in pairs)


def _names(cell: Cell) -> tuple[str, ...]:
    return cell.scenario.name, cell.task.name, cell.student.init, cell.label, f"seed={cell.seed}"


def _matches(cell: Cell, pattern: str) -> bool:
    return pattern in _names(cell) or fnmatch.fnmatchcase(cell.key, pattern)


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
    return slug if slug == text or re.fullmatch(r"[\w-]+\[[\w=,]+\]", text) else f"{slug[-40:]}-{_short_hash(text)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _plain(part: Part) -> dict[str, Any]:
    """What was set, without defaults: a key that is added to the configuration later changes no digest."""
    return part.model_dump(mode="json", exclude_defaults=True)


def _results_of(train: TrainConfig) -> dict[str, Any]:
    """What a result depends on; not how a training that is stopped goes on."""
    return {key: value for key, value in _plain(train).items() if key != "resumable"}


def _names_only(data: dict[str, Any]) -> dict[str, Any]:
    """Paths by their last parts: results from another machine are the same results."""
    return {k: "/".join(Path(v).parts[-2:]) if k in _PATHS and v else v for k, v in data.items()}
