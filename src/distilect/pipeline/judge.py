"""What choosing among teachers is worth, from their outputs on labelled validation rows alone: no student is trained.

The target that a rule gives the student, a weighted mean of teacher outputs, is scored as if it were a model. Rules are the selectors that a
method would use. Those that learn are fitted on four fifths of the rows and scored on the rest, so that no row is judged by what was
fitted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logit, logsumexp
from sklearn.model_selection import KFold

from distilect.evaluation import resampled_scores, row_draws
from distilect.selection import SelectionContext, TeacherSelector, TrainingSample
from distilect.selection.registry import TEACHERS
from distilect.selection.static import teacher_losses
from distilect.signals import Calibration, fit_calibration
from distilect.tasks import Task, margins

Outputs = NDArray[np.float64]

FIXED = ("single", "uniform", "weighted", "logistic")  # the same weights on all rows; the simplest first
BY_ROW = ("entropy", "gate")
TEMPERATURES = (1.0, 2.0, 4.0)
LEAST_ROWS = 50  # labelled rows, below which nothing can be said
MOST_ROWS = 2000  # more make the interval little narrower, and the search for a gate slower
FOLDS = 5
_RESAMPLES = 1000


@dataclass(frozen=True)
class Gain:
    """A difference of scores, with its 95 % interval over resamples of the rows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """What the student would be taught by one way of weighing teachers.

    Attributes:
        name: of the preset and of its teacher selector; `single` is the best teacher alone.
        temperature: of the response, at which its mean output is nearest to the labels.
        score: the task's primary metric of that mean output.
    """

    name: str
    temperature: float
    score: float


@dataclass(frozen=True)
class Judgement:
    """What was found out about a pool.

    Attributes:
        rows: labelled validation rows.
        agreement: share of rows on which all teachers predict the same; in a regression the mean correlation of two of them.
        rules: all that could be fitted.
        fixed, by_row: the best rule with the same weights on all rows; the best one that weighs them row by row.
        pooling: what `fixed` gains over the best teacher alone.
        choosing: what `by_row` gains over `fixed`.
        oracle: what taking on each row the teacher nearest to the label would gain over `fixed`: no method can know that.
    """

    rows: int
    agreement: float
    rules: list[Rule]
    fixed: Rule
    by_row: Rule
    pooling: Gain
    choosing: Gain
    oracle: Gain


def judge(task: Task, names: Sequence[str], pool: TrainingSample, calibrate: bool = True) -> Judgement:
    """Judge a pool of two or more teachers.

    Args:
        pool: their outputs as they gave them, on rows that they were not trained on. All rows have labels, and there are `LEAST_ROWS`
            or more.
        calibrate: as the run will.
    """
    labels = pool.labels.numpy()
    targets = _cross_fitted(task, names, pool, calibrate)
    found, outputs, losses = {}, {}, {}
    for name, by_temperature in targets.items():
        of_each = [loss(task, target, labels) for target in by_temperature]
        best = int(np.argmin(of_each))
        losses[name], outputs[name] = of_each[best], _decided(task, by_temperature[best], labels)
        score = resampled_scores(task, outputs[name], labels, np.ones((1, len(labels)), np.float32))
        found[name] = Rule(name, TEMPERATURES[best], float(score[0]))
    fixed = max((found[name] for name in FIXED if name in found), key=lambda rule: rule.score)
    by_row = min((name for name in BY_ROW if name in found), key=lambda name: losses[name])
    outputs["oracle"] = _decided(task, _nearest(calibrated(task, pool, pool, calibrate)), labels)
    draws = row_draws(len(labels), _RESAMPLES, 0)
    draws[0] = 1.0  # the rows as they are
    scores = {name: resampled_scores(task, outputs[name], labels, draws) for name in outputs}

    def gain(one: str, other: str) -> Gain:
        difference = scores[one] - scores[other]
        return Gain(float(difference[0]), *map(float, np.quantile(difference[1:], [0.025, 0.975])))

    return Judgement(
        rows=len(labels),
        agreement=agreement(task, pool.teachers.numpy()),
        rules=list(found.values()),
        fixed=fixed,
        by_row=found[by_row],
        pooling=gain(fixed.name, "single"),
        choosing=gain(by_row, fixed.name),
        oracle=gain("oracle", fixed.name),
    )


# ---- rules -----------------------------------------------------------------------------------------------------------


def calibrated(task: Task, pool: TrainingSample, on: TrainingSample, calibrate: bool = True) -> TrainingSample:
    """`pool` with its teachers calibrated on the rows of `on`."""
    if not calibrate:
        return pool
    fitted = [fit_calibration(task, on.teachers[:, k].numpy(), on.labels.numpy()) for k in range(on.teachers.shape[1])]
    return replace(pool, teachers=torch.stack([one(pool.teachers[:, k]) for k, one in enumerate(fitted)], dim=1))


def set_up(
    rule: str, task: Task, names: Sequence[str], known: TrainingSample, strengths: Sequence[float] = ()
) -> TeacherSelector:
    """The selector of a rule, set up on rows with labels.

    Args:
        strengths: of the gate's regularisation, to choose from; default: its own.

    Raises:
        ValueError: it cannot be set up there, as where no teacher scores above 0.
    """
    logits, labels = known.teachers.numpy(), known.labels.numpy()
    scores = [task.score(one, labels, task.thresholds(one, labels))[task.primary] for one in logits.swapaxes(0, 1)]
    selector: Any = TEACHERS[rule](**({"encoder": None} if rule == "gate" else {}))
    if rule == "gate" and strengths:
        selector.strengths = strengths
    selector.setup(
        SelectionContext(
            teachers=tuple(names),
            kinds=(),
            regression=task.kind == "regression",
            multi_label=task.kind == "multi-label",
            validation_logits=logits,
            validation_labels=labels,
            validation_scores=tuple(scores),
            sample=lambda limit, labelled=False: known,
        )
    )
    return selector


def calibration_helps(task: Task, outputs: NDArray[Any], labels: NDArray[Any], found: Sequence[Calibration]) -> bool:
    """Whether the mean of calibrated outputs [N, K, C] scores no worse on these rows than the mean of the outputs as they are.

    It can: specialists that are all unsure on most rows no longer outvote the others on their own.
    """
    changed = np.stack([one(outputs[:, k]) for k, one in enumerate(found)], axis=1)
    even = np.full(outputs.shape[:2], 1 / outputs.shape[1])
    before, after = (mixture(task, logits, even, 1.0) for logits in (outputs, changed))
    scores = [task.score(mean, labels, task.thresholds(mean, labels))[task.primary] for mean in (before, after)]
    return scores[1] >= scores[0]


def weights_on(selector: TeacherSelector, rows: TrainingSample) -> NDArray[np.float32]:
    """float32 [n, K]: the teacher weights of some rows."""
    return np.asarray(selector.decide(rows.view(rows.teachers[:, 0], seed=0, epoch=0)).numpy())


def mixture(task: Task, logits: NDArray[Any], weights: NDArray[Any], temperature: float) -> Outputs:
    """[n, C]: what the response loss teaches, the weighted mean of softened outputs, as logits at temperature 1.

    Args:
        logits: [n, K, C]; weights: [n, K].
    """
    logits = logits.astype(np.float64)
    if task.kind == "regression":
        return np.asarray(np.einsum("nkc,nk->nc", logits, weights))
    if task.kind == "multi-label":
        mean = np.einsum("nkc,nk->nc", expit(logits / temperature), weights)
        return np.asarray(temperature * logit(np.clip(mean, 1e-12, 1 - 1e-12)))
    with np.errstate(divide="ignore"):
        log_p = log_softmax(logits / temperature, axis=-1) + np.log(weights)[:, :, None]
    return np.asarray(log_softmax(temperature * np.maximum(logsumexp(log_p, axis=1), -500), axis=-1))


def _cross_fitted(task: Task, names: Sequence[str], pool: TrainingSample, calibrate: bool) -> dict[str, Outputs]:
    """Rule → [temperatures, N, C]: what it teaches on rows that it was not fitted on. A rule that cannot be fitted is left out."""
    temperatures = TEMPERATURES if task.kind != "regression" else TEMPERATURES[:1]
    shape = (len(temperatures), len(pool.keys), pool.teachers.shape[-1])
    found = {rule: np.empty(shape) for rule in (*FIXED, *BY_ROW)}
    strengths = _strengths(task, names, calibrated(task, pool, pool, calibrate))
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(pool.keys):
        fitted, held = (calibrated(task, take(pool, rows), take(pool, train), calibrate) for rows in (train, test))
        for rule in list(found):
            try:
                weights = weights_on(set_up(rule, task, names, fitted, strengths), held)
            except ValueError:
                del found[rule]
                continue
            for number, temperature in enumerate(temperatures):
                found[rule][number, test] = mixture(task, held.teachers.numpy(), weights, temperature)
    return found


def _strengths(task: Task, names: Sequence[str], pool: TrainingSample) -> tuple[float, ...]:
    """The gate's regularisation, chosen once on all rows: a search in each fold would take four times as long."""
    selector: Any = set_up("gate", task, names, pool)
    return (selector.model.C,) if hasattr(selector.model, "C") else ()


def take(pool: TrainingSample, rows: NDArray[np.int64]) -> TrainingSample:
    """Some of its rows."""
    index = torch.from_numpy(rows)
    vectors = None if pool.vectors is None else pool.vectors[index]
    position = None if pool.position is None else pool.position[index]
    return TrainingSample(pool.keys[index], pool.labels[index], pool.teachers[index], vectors, position)


def _nearest(pool: TrainingSample) -> Outputs:
    """[N, C]: on each row the outputs of the teacher with the least loss on its label."""
    best = teacher_losses(pool.view(pool.teachers[:, 0], seed=0, epoch=0)).argmin(1)
    return np.asarray(pool.teachers[torch.arange(len(best)), best].double().numpy())


# ---- scores ----------------------------------------------------------------------------------------------------------


def agreement(task: Task, logits: NDArray[np.float32]) -> float:
    """See `Judgement`; `logits` [N, K, C]."""
    if task.kind == "regression":
        between: Any = np.corrcoef(logits[:, :, 0].T)
        return float(np.nan_to_num(between[np.triu_indices(len(between), 1)]).mean())
    said = logits > 0 if task.kind == "multi-label" else logits.argmax(-1)[:, :, None]
    return float((said == said[:, :1]).all(axis=(1, 2)).mean())


def loss(task: Task, outputs: Outputs, labels: NDArray[Any]) -> float:
    """Mean cross-entropy of `outputs` [N, C] with labels; in a regression the mean squared error."""
    if task.kind == "regression":
        return float(((outputs[:, 0] - labels) ** 2).mean())
    if task.kind == "multi-label":
        return float((np.logaddexp(0.0, outputs) - labels * outputs).mean())
    return float(-log_softmax(outputs, axis=1)[np.arange(len(labels)), labels].mean())


def _decided(task: Task, outputs: Outputs, labels: NDArray[Any]) -> NDArray[np.float32]:
    """Outputs as `resampled_scores` takes them: of a multi-label task less the thresholds."""
    if task.kind == "multi-label":
        outputs = margins(outputs, task.thresholds(outputs, labels))
    return outputs.astype(np.float32)
