"""Which differences hold: means, ranks, and paired tests over rows and seeds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from distilect.evaluation import (
    Difference,
    difference_of,
    holm,
    labelled,
    paired_over_seeds,
    resampled_scores,
    row_draws,
)
from distilect.experiments.records import Line, outputs_of
from distilect.tasks import Task

Floats = NDArray[np.float64]
SIGNIFICANT = 0.05


@dataclass
class Board:
    """The runs of one scenario and one student: task → method → seed → line. Tasks and methods are in the config's order."""

    scenario: str
    student: str
    tasks: list[str]
    methods: list[str]
    runs: dict[str, dict[str, dict[int, Line]]]

    def seeds(self, task: str, method: str) -> dict[int, Line]:
        return self.runs.get(task, {}).get(method, {})

    def shared_seeds(self, task: str) -> set[int]:
        """Seeds that every method of this task has."""
        return set.intersection(*map(set, self.runs[task].values()))

    def only(self, methods: Iterable[str] | None = None, without: Iterable[int] = ()) -> Board:
        """A part of it: some methods (default all), less some seeds. Tasks and methods that have nothing left are gone."""
        kept, gone = set(self.methods if methods is None else methods), set(without)
        runs = {
            task: {
                method: left
                for method, by_seed in of_task.items()
                if method in kept and (left := {s: line for s, line in by_seed.items() if s not in gone})
            }
            for task, of_task in self.runs.items()
        }
        runs = {task: found for task, found in runs.items() if found}
        return Board(
            self.scenario,
            self.student,
            [t for t in self.tasks if t in runs],
            [m for m in self.methods if any(m in found for found in runs.values())],
            runs,
        )

    def extra_seeds(self, contenders: Iterable[str]) -> set[int]:
        """Seeds that contenders alone have, on whatever task; none where all methods are contenders."""
        found: dict[bool, set[int]] = {True: set(), False: set()}
        named = set(contenders)
        for of_task in self.runs.values():
            for method, by_seed in of_task.items():
                found[method in named].update(by_seed)
        return found[True] - found[False] if found[False] else set()

    def scores(self, task: str, method: str) -> list[float]:
        return [score(line) for line in self.seeds(task, method).values()]

    def mean(self, task: str, method: str) -> float | None:
        found = self.scores(task, method)
        return float(np.mean(found)) if found else None

    @property
    def complete(self) -> list[str]:
        """Methods with a score on every task: only these have an average and a rank."""
        return [m for m in self.methods if all(self.seeds(task, m) for task in self.tasks)]

    def average(self, method: str) -> float | None:
        """Mean over tasks of the means over seeds."""
        means = [self.mean(task, method) for task in self.tasks]
        return None if any(m is None for m in means) else float(np.mean([m for m in means if m is not None]))

    def average_by_seed(self, method: str) -> list[float]:
        """Mean over tasks of each seed that all tasks have."""
        common = set.intersection(*(set(self.seeds(task, method)) for task in self.tasks))
        return [float(np.mean([score(self.seeds(task, method)[s]) for task in self.tasks])) for s in sorted(common)]

    def kept(self, method: str) -> float | None:
        """Share of the best teacher's score that the student keeps, averaged over tasks; None where a teacher's score is unknown."""
        shares = []
        for task in self.tasks:
            values = [share_kept(line) for line in self.seeds(task, method).values()]
            if not values or any(v is None for v in values):
                return None
            shares.append(float(np.mean([v for v in values if v is not None])))
        return float(np.mean(shares))

    def ranks(self) -> dict[str, float]:
        """Mean rank over tasks among the complete methods, 1 = best; equal means share a rank."""
        names = self.complete
        if not names:
            return {}
        means = np.array([[self.mean(task, m) for m in names] for task in self.tasks], dtype=np.float64)
        ranks = np.mean([rankdata(-row) for row in means], axis=0)
        return dict(zip(names, map(float, ranks), strict=True))


def boards(lines: Iterable[Line]) -> list[Board]:
    """One for each (scenario, student), in the order in which they come."""
    found: dict[tuple[str, str], Board] = {}
    for line in lines:
        key = (line["scenario"], line["student_name"])
        board = found.setdefault(key, Board(*key, tasks=[], methods=[], runs={}))
        task, method = line["task_name"], line["method"]
        if task not in board.tasks:
            board.tasks.append(task)
        if method not in board.methods:
            board.methods.append(method)
        board.runs.setdefault(task, {}).setdefault(method, {})[int(line["seed"])] = line
    return list(found.values())


def score(line: Line) -> float:
    """The primary metric on dev; on the held-out rows where there is no dev."""
    scores = line["student"]["scores"] or line["student"]["validation"]
    return float(scores.get(line["primary"], np.nan))


def best_teacher(line: Line) -> float | None:
    """The best teacher's score on the same rows."""
    found = [t["scores"].get(line["primary"]) for t in line["teachers"] if t.get("scores")]
    return max((float(v) for v in found if v is not None), default=None)


def share_kept(line: Line) -> float | None:
    teacher = best_teacher(line)
    return None if teacher is None or teacher <= 0 else score(line) / teacher


# ---- tests -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One method against another.

    Attributes:
        tasks: task → difference, its p-value adjusted with all methods of the same column.
        average: over all tasks, adjusted in the same way; None where one of the methods lacks a task.
        wins, ties, losses: tasks, by adjusted p < 0.05.
        higher, equal, lower: pairs of runs with the same task and seed, by score alone.
    """

    method: str
    tasks: dict[str, Difference]
    average: Difference | None
    wins: int
    ties: int
    losses: int
    higher: int
    equal: int
    lower: int


@dataclass
class Tests:
    """Paired bootstrap over the rows of dev and the seeds; the same resamples of rows for all methods and seeds of a task.

    Args:
        predictions: cell and settings → what the metrics look at (`records.essence`), and the labels of each ground.
    """

    __test__ = False  # not pytest's

    predictions: Mapping[str, NDArray[Any]]
    resamples: int = 2000
    _draws: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _scores: dict[str, Floats | None] = field(default_factory=dict)

    def against(self, board: Board, baseline: str) -> list[Compared]:
        """All other methods against one, adjusted by Holm within each task and within the average."""
        others = [m for m in board.methods if m != baseline]
        by_task = {
            task: self._adjusted({m: self._task(board, task, m, baseline) for m in others}) for task in board.tasks
        }
        average = self._adjusted({m: self._average(board, m, baseline) for m in others})
        return [
            _compared(board, m, baseline, {t: d[m] for t, d in by_task.items() if m in d}, average.get(m))
            for m in others
        ]

    def pairs(self, board: Board, methods: Sequence[str]) -> list[tuple[str, str, Difference]]:
        """Every pair of some methods on the average over tasks, adjusted by Holm over all pairs; the better one first."""
        names = [m for m in methods if m in board.complete]
        names.sort(key=lambda m: -(board.average(m) or 0.0))
        found = {f"{a}\0{b}": self._average(board, a, b) for a, b in itertools.combinations(names, 2)}
        return [(*key.split("\0"), d) for key, d in self._adjusted(found).items()]  # type: ignore[misc]

    def average(self, board: Board, first: str, second: str) -> Difference | None:
        """One comparison on the average over tasks, not adjusted."""
        found = self._average(board, first, second)
        return None if found is None else difference_of(*found)

    def _adjusted(self, found: Mapping[str, tuple[float, Floats] | None]) -> dict[str, Difference]:
        tested = {name: difference_of(*value) for name, value in found.items() if value is not None}
        known = [name for name, d in tested.items() if not np.isnan(d.p_value)]
        adjusted = dict(zip(known, holm([tested[name].p_value for name in known]), strict=True))
        return {
            name: Difference(d.difference, d.low, d.high, adjusted.get(name, float("nan")))
            for name, d in tested.items()
        }

    def _average(self, board: Board, first: str, second: str) -> tuple[float, Floats] | None:
        """Tasks are independent: each has draws of its own."""
        found = [self._task(board, task, first, second) for task in board.tasks]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            return None
        return float(np.mean([value for value, _ in known])), np.mean([draws for _, draws in known], axis=0)

    def _task(self, board: Board, task: str, first: str, second: str) -> tuple[float, Floats] | None:
        """(difference, draws [B]) over the seeds that both have; None without such seeds or predictions."""
        ours, theirs = board.seeds(task, first), board.seeds(task, second)
        seeds = [s for s in sorted(set(ours) & set(theirs)) if _same_rows(ours[s], theirs[s])]
        draws = [(self._resampled(ours[s]), self._resampled(theirs[s])) for s in seeds]
        if not seeds or any(a is None or b is None for a, b in draws):
            return None
        observed = np.array([score(ours[s]) - score(theirs[s]) for s in seeds])
        resampled = np.stack([a - b for a, b in draws if a is not None and b is not None], axis=1)
        return paired_over_seeds(observed, resampled, seed=_number(f"seeds {board.scenario} {task}"))

    def _resampled(self, line: Line) -> Floats | None:
        """[B]: the line's score on each resample of the rows."""
        key = f"{line['cell']} {line['settings']}"
        if key not in self._scores:
            self._scores[key] = self._compute(line, key)
        return self._scores[key]

    def _compute(self, line: Line, key: str) -> Floats | None:
        rows = f"{line['scenario']}.{line['task_name']} {line['dev_fingerprint']}"
        labels, values = self.predictions.get(f"labels {rows}"), self.predictions.get(key)
        if labels is None or values is None or len(labels) != len(values):
            return None
        task = Task.from_dict(line["task"])
        labels = labels if task.kind == "regression" else labels.astype(np.int64)
        known = labelled(task, labels)
        if rows not in self._draws:
            self._draws[rows] = row_draws(int(known.sum()), self.resamples, _number(f"rows {rows}"))
        outputs = outputs_of(task, values.astype(np.float32))
        return resampled_scores(task, outputs[known], labels[known], self._draws[rows])


def _same_rows(first: Line, second: Line) -> bool:
    return bool(first["dev_fingerprint"] == second["dev_fingerprint"])


def _number(text: str) -> int:
    """A seed for a purpose; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def _compared(
    board: Board, method: str, baseline: str, tasks: dict[str, Difference], average: Difference | None
) -> Compared:
    surely = [np.sign(d.difference) * (d.p_value < SIGNIFICANT) for d in tasks.values()]
    pairs = [
        np.sign(score(ours[s]) - score(theirs[s]))
        for task in board.tasks
        for ours, theirs in [(board.seeds(task, method), board.seeds(task, baseline))]
        for s in set(ours) & set(theirs)
    ]
    return Compared(
        method,
        tasks,
        average,
        *(sum(1 for v in surely if v == sign) for sign in (1, 0, -1)),
        *(sum(1 for v in pairs if v == sign) for sign in (1, 0, -1)),
    )


# ---- cost ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a method costs, averaged over seeds, then over tasks.

    Seeds are those that all methods have, where there are such: while cells are missing, the others' may be of a slower machine.

    Attributes:
        seconds: of training, as measured, whatever else the machine did; `stage_seconds` of stages before, `search_seconds` of searches.
        tokens: of the student in training, in all stages, looks without gradient counted a third; searches excluded.
        search_tokens: of trainings that only chose settings; `forward_tokens`: of looks; `stage_tokens`: of stages before.
        teacher_rows: rows × teachers that have to be run once, on an empty store.
        asked: rows × teachers that were asked in the steps.
    """

    seconds: float
    stage_seconds: float
    search_seconds: float
    steps: float
    tokens: float
    forward_tokens: float
    stage_tokens: float
    search_tokens: float
    teacher_rows: float
    asked: float

    @property
    def all_tokens(self) -> float:
        return self.tokens + self.search_tokens


_COSTS = {
    "seconds": "train_seconds",
    "stage_seconds": "selection_seconds",
    "search_seconds": "tuning_seconds",
    "steps": "steps",
    "tokens": "student_tokens",
    "forward_tokens": "forward_tokens",
    "stage_tokens": "stage_tokens",
    "search_tokens": "tuning_tokens",
    "teacher_rows": "teacher_rows_scored",
    "asked": "teacher_rows",
}


def cost_of(board: Board, method: str) -> Cost | None:
    """None without runs on some task."""
    per_task = []
    for task in board.tasks:
        runs = board.seeds(task, method)
        if not runs:
            return None
        lines = [runs[seed] for seed in sorted(board.shared_seeds(task))] or list(runs.values())
        per_task.append([np.mean([float(line["cost"].get(key) or 0) for line in lines]) for key in _COSTS.values()])
    return Cost(**dict(zip(_COSTS, map(float, np.mean(per_task, axis=0)), strict=True)))


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the (cost, quality) points that no other one beats in one without losing in the other, cheapest first."""
    front: list[str] = []
    best = -np.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front
