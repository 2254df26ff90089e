"""`distilect advise`: what a pool of teachers is good for, in a table and in words, before any student is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distilect import ranks
from distilect.config import RunConfig
from distilect.pipeline.judge import LEAST_ROWS, MOST_ROWS, Gain, Judgement, Rule, judge
from distilect.pipeline.metrics import calibration_scores
from distilect.pipeline.work import Workbench
from distilect.report.models import calibration_text
from distilect.selection import TrainingSample
from distilect.signals import fit_calibration
from distilect.tasks import Task, has_label


@dataclass(frozen=True)
class Advice:
    """What was found out, and what to do.

    Attributes:
        judgement: None where the pool cannot be judged; `words` says why.
        table: teachers and rules, lines for the terminal.
        words: sentences; the last one is the advice.
    """

    judgement: Judgement | None
    table: list[str]
    words: list[str]


def advise(config: RunConfig) -> Advice:
    """Judge the teachers of a config by their outputs on the validation split; no other row is scored.

    Teachers that are still to be fine-tuned are. With several processes all of them call this.
    """
    ranks.start()
    return advice_on(Workbench.open(config, whole=False))


def advice_on(bench: Workbench) -> Advice:
    """The same for teachers that are loaded."""
    if len(bench.teachers) < 2:
        return Advice(None, [], [f"{len(bench.teachers) or 'no'} teacher: there is nothing to choose among"])
    if bench.data.task.kind == "causal-lm":
        return Advice(
            None,
            [],
            [
                "teachers of language models are not judged ahead: compare their scores on dev, and methods by distilect compare"
            ],
        )
    table, task = bench.data.validation, bench.data.task.of_units
    units = _labelled(bench)
    if len(units) < LEAST_ROWS:
        why = f"{len(units):,} validation {_row(task)}s have a label, at least {LEAST_ROWS} are needed to judge the teachers"
        return Advice(None, [], [f"{why}: take `keep`, or give more of them (data.validation_size, data.validation)"])
    logits = np.stack([bench.outputs(teacher, table) for teacher in bench.teachers], axis=1)
    keys, labels = torch.from_numpy(table.unit_keys()[units]), torch.tensor(table.labels[units])
    names = [teacher.name for teacher in bench.teachers]
    pool = TrainingSample(keys, labels, torch.from_numpy(logits[units]), None)
    found = judge(task, names, pool, calibrate=bool(bench.calibrations(logits)))
    scores = [_score(task, pool, k) for k in range(len(names))]
    lines = [*_teachers(task, names, scores, pool), "", *_rules(task, found)]
    best = int(np.argmax(scores))
    return Advice(found, lines, words(task, found, names[best], scores[best]))


def _labelled(bench: Workbench) -> NDArray[np.int64]:
    """The validation rows (or words) to judge by, places in the labels: different ones in the order of their identity; none where the
    teachers labelled them."""
    table = bench.data.validation
    units = np.flatnonzero(has_label(table.labels)) if not bench.data.agreement else np.empty(0, np.int64)
    units = units[np.unique(table.unit_keys()[units], return_index=True)[1]]
    if len(units) > MOST_ROWS:
        units = units[np.linspace(0, len(units) - 1, MOST_ROWS).astype(np.int64)]
    return units


# ---- words -----------------------------------------------------------------------------------------------------------


def words(task: Task, found: Judgement, best: str, score: float) -> list[str]:
    """What follows from a judgement, in three sentences.

    Args:
        best: name of the best teacher; score: its own.
    """
    fixed, by_row, unit, row = found.fixed, found.by_row, _Unit(task), _row(task)
    alike = f"agree on {100 * found.agreement:.0f} % of"
    alike = f"correlate by {found.agreement:.2f} on" if task.kind == "regression" else alike
    pooled = f"; {_named(fixed, best)} is {unit.gain(found.pooling)} better" if fixed.name != "single" else ""
    first = f"teachers {alike} {found.rows:,} validation {row}s; the best one, {best}, has {task.primary} {score:.3f}{pooled}"
    most = max(0.0, min(found.choosing.high, found.oracle.value))
    second = (
        f"choosing among them {row} by {row} can gain at most {unit.amount(most)}: {by_row.name} gains {unit.gain(found.choosing)} "
        f"over {_named(fixed, best)}, knowing the labels would gain {unit.amount(found.oracle.value)}"
    )
    if found.choosing.low > 0:
        third = f"take {_method(task, by_row)}: the choice pays"
    elif fixed.name != "single" and found.pooling.low > 0:
        third = f"take {_method(task, fixed)}: together they are better than {best}, choosing among them does not pay"
    else:
        third = f"take `keep` from {best} alone: neither the others nor a choice among them adds to it"
    return [first, second, f"advice: {third}"]


def _row(task: Task) -> str:
    return "word" if task.kind == "tokens" else "row"


class _Unit:
    """Differences of the primary metric: in points of a hundred, where it has a fixed range."""

    def __init__(self, task: Task) -> None:
        self.points = task.primary != "neg_mse"

    def amount(self, value: float) -> str:
        return f"{100 * value:.1f} points" if self.points else f"{value:.3f}"

    def gain(self, gain: Gain) -> str:
        values = [100 * v if self.points else v for v in (gain.value, gain.low, gain.high)]
        value, low, high = (f"{v:+.1f}" if self.points else f"{v:+.3f}" for v in values)
        return f"{value}{' points' if self.points else ''} [{low}, {high}]".replace("-", "−")


def _named(rule: Rule, best: str) -> str:
    return best if rule.name == "single" else f"`{rule.name}`"


def _method(task: Task, rule: Rule) -> str:
    """As a config has it."""
    if task.kind == "regression":
        return f"`method: {rule.name}`"
    return f"`method: {{name: {rule.name}, temperature: {rule.temperature:g}}}`"


# ---- tables ----------------------------------------------------------------------------------------------------------


def _score(task: Task, pool: TrainingSample, k: int) -> float:
    """A teacher's own, of its outputs as they are."""
    outputs, labels = pool.teachers[:, k].numpy(), pool.labels.numpy()
    return float(task.score(outputs, labels, task.thresholds(outputs, labels))[task.primary])


def _teachers(task: Task, names: Sequence[str], scores: Sequence[float], pool: TrainingSample) -> list[str]:
    labels, rows = pool.labels.numpy(), []
    for k, name in enumerate(names):
        outputs = pool.teachers[:, k].numpy()
        fitted = calibration_scores(task, fit_calibration(task, outputs, labels), outputs, labels)
        rows.append((name, f"{scores[k]:.3f}", calibration_text(fitted)))
    return _aligned(("teacher", task.primary, "calibrated"), rows)


def _rules(task: Task, found: Judgement) -> list[str]:
    rows = [(rule.name, f"{rule.score:.3f}", f"{rule.temperature:g}") for rule in found.rules]
    return _aligned(("rule", task.primary, "T"), rows)


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]
