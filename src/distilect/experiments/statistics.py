"""Which differences hold: means, ranks, and paired tests over rows and seeds."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from distilect.evaluation import (
    Chance,
    Difference,
    Estimate,
    chance_of,
    difference_of,
    holm,
    mean_estimate,
    paired_over_seeds,
    resampled_scores,
    row_draws,
    share_kept,
)
from distilect.experiments.results import (
    Result,
    expand_labels,
    expand_predictions,
    labels_key,
    offsets_key,
    prediction_key,
)
from distilect.tasks import Task, has_label

Floats = NDArray[np.float64]
SIGNIFICANT = 0.05


@dataclass
class Group:
    """The results of one scenario and one student; tasks and methods are in the order in which they first come."""

    scenario: str
    student: str
    results: list[Result]

    def __post_init__(self) -> None:
        self.tasks = list(dict.fromkeys(str(r["task_name"]) for r in self.results))
        self.methods = list(dict.fromkeys(str(r["method"]) for r in self.results))
        self.runs: dict[tuple[str, str], dict[int, Result]] = defaultdict(dict)  # (task, method) → seed → result
        for result in self.results:
            self.runs[result["task_name"], result["method"]][int(result["seed"])] = result

    def seeds(self, task: str, method: str) -> dict[int, Result]:
        """Seed → result; empty where there is none."""
        return self.runs.get((task, method), {})

    def shared_seeds(self, task: str) -> set[int]:
        """Seeds that every method of this task has."""
        return set.intersection(*(set(seeds) for (name, _), seeds in self.runs.items() if name == task))

    def only(self, methods: Collection[str] | None = None, without: Collection[int] = ()) -> Group:
        """A part of it: some methods (default all), less some seeds."""
        kept = self.methods if methods is None else methods
        results = [r for r in self.results if r["method"] in kept and int(r["seed"]) not in without]
        return Group(self.scenario, self.student, results)

    def extra_seeds(self, contenders: Collection[str]) -> set[int]:
        """Seeds that contenders alone have, on whatever task; none where all methods are contenders."""
        theirs = {int(r["seed"]) for r in self.results if r["method"] in contenders}
        others = {int(r["seed"]) for r in self.results if r["method"] not in contenders}
        return theirs - others if others else set()

    def scores(self, task: str, method: str) -> list[float]:
        return [score(result) for result in self.seeds(task, method).values()]

    def mean(self, task: str, method: str) -> float | None:
        found = self.scores(task, method)
        return float(np.mean(found)) if found else None

    @property
    def complete(self) -> list[str]:
        """Methods with a score on every task: only these have an average and a rank."""
        return [m for m in self.methods if all(self.seeds(task, m) for task in self.tasks)]

    def average(self, method: str) -> float | None:
        """Mean over tasks of the means over seeds."""
        means = [mean for task in self.tasks if (mean := self.mean(task, method)) is not None]
        return float(np.mean(means)) if len(means) == len(self.tasks) else None

    def average_by_seed(self, method: str) -> list[float]:
        """Mean over tasks of each seed that all tasks have."""
        common = set.intersection(*(set(self.seeds(task, method)) for task in self.tasks))
        return [float(np.mean([score(self.seeds(task, method)[s]) for task in self.tasks])) for s in sorted(common)]

    def kept(self, method: str, chances: Mapping[str, Chance], *, above: bool = False) -> float | None:
        """Share of the best teacher's score that the student keeps, averaged over the tasks whose teacher is above chance.

        Args:
            chances: task → chance; tasks without it count as above chance, and as 0.
            above: the share of what the teacher scores above chance.

        Returns:
            None where a share is unknown, or no task is left.
        """
        shares, out = [], self.at_chance(chances)
        for task in self.tasks:
            floor = chances[task].score if above and task in chances else 0.0
            values = [share_kept(score(r), teacher_score(r), floor) for r in self.seeds(task, method).values()]
            if not values or any(v is None for v in values):
                return None
            if task not in out:
                shares.append(float(np.mean([v for v in values if v is not None])))
        return float(np.mean(shares)) if shares else None

    def at_chance(self, chances: Mapping[str, Chance]) -> list[str]:
        """Tasks whose best teacher is not significantly above chance: a share of its score says nothing."""
        best = {task: [teacher_score(r) for r in self.results if r["task_name"] == task] for task in self.tasks}
        known = {task: [s for s in scores if s is not None] for task, scores in best.items()}
        return [t for t in self.tasks if t in chances and known[t] and np.mean(known[t]) <= chances[t].limit]

    def ranks(self) -> dict[str, float]:
        """Mean rank over tasks among the complete methods, 1 = best; equal means share a rank."""
        names = self.complete
        if not names:
            return {}
        means = np.array([[self.mean(task, m) for m in names] for task in self.tasks], dtype=np.float64)
        ranks = np.mean([rankdata(-row) for row in means], axis=0)
        return dict(zip(names, map(float, ranks), strict=True))


def groups(results: Iterable[Result]) -> list[Group]:
    """One for each (scenario, student), in the order in which they come."""
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        found[result["scenario"], result["student_name"]].append(result)
    return [Group(scenario, student, of_group) for (scenario, student), of_group in found.items()]


def score(result: Result) -> float:
    """The primary metric on dev; on the validation split where there is no dev."""
    scores = result["student"]["scores"] or result["student"]["validation"]
    return float(scores.get(result["primary"], np.nan))


def teacher_score(result: Result) -> float | None:
    """The best teacher's score on the same rows."""
    found = [teacher["scores"].get(result["primary"]) for teacher in result["teachers"] if teacher.get("scores")]
    return max((float(v) for v in found if v is not None), default=None)


# ---- tests -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One method against another.

    Attributes:
        tasks: task → difference, its p-value adjusted with all methods of the same column.
        average: over all tasks, adjusted in the same way; None where one of the methods lacks a task.
        wins, ties, losses: tasks, by adjusted p < 0.05.
        higher, equal, lower: pairs of results with the same task and seed, by score alone.
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
class PairedTests:
    """Paired tests over the rows of dev and the seeds; the same resamples of rows for all methods and seeds of a task.

    Args:
        predictions: as `read_predictions` gives them: the students' on dev, and the labels of dev.
    """

    predictions: Mapping[str, NDArray[Any]]
    resamples: int = 2000
    _draws: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _scores: dict[str, Floats | None] = field(default_factory=dict)

    def against(self, group: Group, baseline: str) -> list[Compared]:
        """All other methods against one, adjusted by Holm within each task and within the average."""
        others = [m for m in group.methods if m != baseline]
        by_task = {t: _adjusted({m: self._task(group, t, m, baseline) for m in others}) for t in group.tasks}
        average = _adjusted({m: self._average(group, m, baseline) for m in others})
        found = []
        for method in others:
            tasks = {task: adjusted[method] for task, adjusted in by_task.items() if method in adjusted}
            by_test = [np.sign(d.difference) * (d.p_value < SIGNIFICANT) for d in tasks.values()]
            by_score = [
                np.sign(score(group.seeds(task, method)[seed]) - score(theirs))
                for task in group.tasks
                for seed, theirs in group.seeds(task, baseline).items()
                if seed in group.seeds(task, method)
            ]
            found.append(Compared(method, tasks, average.get(method), *_signs(by_test), *_signs(by_score)))
        return found

    def pairs(self, group: Group, methods: Sequence[str]) -> list[tuple[str, str, Difference]]:
        """Every pair of some methods on the average over tasks, adjusted by Holm over all pairs; the better one first."""
        names = [m for m in methods if m in group.complete]
        names.sort(key=lambda m: -(group.average(m) or 0.0))
        adjusted = _adjusted({(a, b): self._average(group, a, b) for a, b in itertools.combinations(names, 2)})
        return [(a, b, difference) for (a, b), difference in adjusted.items()]

    def average(self, group: Group, first: str, second: str) -> Difference | None:
        """One comparison on the average over tasks, not adjusted."""
        found = self._average(group, first, second)
        return None if found is None else difference_of(found)

    def chances(self, group: Group) -> dict[str, Chance]:
        """Task → chance on its dev rows; tasks without predictions are left out."""
        found = {}
        for result in group.results:
            labels = self.predictions.get(_rows_of(result))
            if result["task_name"] not in found and labels is not None:
                task = Task.from_dict(result["task"])
                offsets = _offsets(self.predictions, result)
                found[result["task_name"]] = chance_of(task, expand_labels(task, labels), offsets)
        return found

    def _average(self, group: Group, first: str, second: str) -> Estimate | None:
        found = [self._task(group, task, first, second) for task in group.tasks]
        known = [value for value in found if value is not None]
        return mean_estimate(known) if len(known) == len(found) else None

    def _task(self, group: Group, task: str, first: str, second: str) -> Estimate | None:
        """Over the seeds that both have; None without such seeds or predictions."""
        ours, theirs = group.seeds(task, first), group.seeds(task, second)
        seeds = [
            s for s in sorted(set(ours) & set(theirs)) if ours[s]["dev_fingerprint"] == theirs[s]["dev_fingerprint"]
        ]
        draws = [(self._resampled(ours[s]), self._resampled(theirs[s])) for s in seeds]
        if not seeds or any(a is None or b is None for a, b in draws):
            return None
        observed = np.array([score(ours[s]) - score(theirs[s]) for s in seeds])
        resampled = np.stack([a - b for a, b in draws if a is not None and b is not None], axis=1)  # [B, S]
        return paired_over_seeds(observed, resampled)

    def _resampled(self, result: Result) -> Floats | None:
        """[B]: the result's score on each resample of the rows; None without predictions."""
        key = prediction_key(result)
        if key not in self._scores:
            self._scores[key] = self._compute(result, key)
        return self._scores[key]

    def _compute(self, result: Result, key: str) -> Floats | None:
        rows = _rows_of(result)
        labels, values = self.predictions.get(rows), self.predictions.get(key)
        if labels is None or values is None or len(labels) != len(values):
            return None
        task = Task.from_dict(result["task"])
        labels = expand_labels(task, labels)
        outputs, offsets = expand_predictions(task, values.astype(np.float32)), _offsets(self.predictions, result)
        if offsets is None:
            known = has_label(labels)
            outputs, labels = outputs[known], labels[known]
        if rows not in self._draws:
            seed = _seed_for(rows.replace("labels", "rows", 1))
            self._draws[rows] = row_draws(len(labels) if offsets is None else len(offsets) - 1, self.resamples, seed)
        return resampled_scores(task, outputs, labels, self._draws[rows], offsets)


def _rows_of(result: Result) -> str:
    """The name of its dev labels in the predictions."""
    return labels_key(f"{result['scenario']}.{result['task_name']}", result["dev_fingerprint"])


def _offsets(predictions: Mapping[str, NDArray[Any]], result: Result) -> NDArray[np.int64] | None:
    """Where the words of each dev row begin; None where rows have one label each."""
    found = predictions.get(offsets_key(f"{result['scenario']}.{result['task_name']}", result["dev_fingerprint"]))
    return None if found is None else found.astype(np.int64)


def _adjusted(found: Mapping[Any, Estimate | None]) -> dict[Any, Difference]:
    """Differences with p-values adjusted by Holm over all of them."""
    tested = {key: difference_of(value) for key, value in found.items() if value is not None}
    known = [key for key, d in tested.items() if not np.isnan(d.p_value)]
    adjusted = holm([tested[key].p_value for key in known])
    return tested | {key: replace(tested[key], p_value=p) for key, p in zip(known, adjusted, strict=True)}


def _signs(values: Sequence[float]) -> list[int]:
    """How many are positive, zero and negative."""
    return [sum(1 for value in values if value == sign) for sign in (1, 0, -1)]


def _seed_for(text: str) -> int:
    """A seed for a purpose; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


# ---- cost ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a method costs, averaged over seeds, then over tasks.

    Seeds are those that all methods have, where there are any: while trials are missing, the others' may be of a slower machine.
    The names are those of a result's `cost`.

    Attributes:
        train_seconds: as measured, whatever else the machine did; `selection_seconds` of stages before, `tuning_seconds` of searches.
        student_tokens: of training, in all stages, looks without gradient counted a third; searches excluded.
        tuning_tokens: of trainings that only chose settings; `forward_tokens`: of looks; `stage_tokens`: of stages before.
        teacher_rows_scored: rows × teachers that have to be run once, on an empty store.
        teacher_rows: rows × teachers that were asked in the steps.
    """

    train_seconds: float
    selection_seconds: float
    tuning_seconds: float
    steps: float
    student_tokens: float
    forward_tokens: float
    stage_tokens: float
    tuning_tokens: float
    teacher_rows_scored: float
    teacher_rows: float

    @property
    def all_tokens(self) -> float:
        return self.student_tokens + self.tuning_tokens


def cost_of(group: Group, method: str) -> Cost | None:
    """None without results on some task."""
    names = list(Cost.__dataclass_fields__)
    per_task = []
    for task in group.tasks:
        runs = group.seeds(task, method)
        if not runs:
            return None
        results = [runs[seed] for seed in sorted(group.shared_seeds(task))] or list(runs.values())
        per_task.append([np.mean([float(result["cost"].get(name) or 0) for result in results]) for name in names])
    return Cost(*map(float, np.mean(per_task, axis=0)))


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the (cost, quality) points that no other one beats in one without losing in the other, cheapest first."""
    front: list[str] = []
    best = -np.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front
