"""Selectors that do not learn while the student does: the baselines that every adaptive method has to beat."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from distilect.data import Window
from distilect.errors import did_you_mean
from distilect.knowledge.labels import label_loss
from distilect.options import zero_or_more
from distilect.selection.balance import Balance
from distilect.selection.base import (
    Probe,
    SelectionContext,
    Selector,
    StepView,
    normalised_entropy,
    row_uniform,
    step_uniform,
)

# ---- rows ----------------------------------------------------------------------------------------------------------


class AllRows(Selector):
    """Every row asks the teachers."""

    name = "all"
    trains_rest = True

    def select(self, view: StepView) -> Tensor:
        return torch.ones(len(view.rows), dtype=torch.bool, device=view.rows.device)

    def planned(self, num_rows: int) -> int | None:
        return None

    def plan(self, rows: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        return np.arange(len(rows))


class RandomRows(Selector):
    """A random share of the rows, drawn anew each epoch; the control for every selection by uncertainty.

    Args:
        ratio: share of the rows, in (0, 1].
        rest: what becomes of the others: `labels` (they learn from their labels), `skip` (they leave the step before anything is
            run on them; the loss is a mean over those that stay), or `plan` (rows are chosen before the epoch and the others never
            loaded or run; exactly `max(1, round(ratio · N))` rows remain).

    Each draw is a function of (seed, epoch, row), so batches and ranks do not change it.
    """

    name = "random"

    def __init__(self, ratio: float = 0.5, rest: Literal["labels", "skip", "plan"] = "labels") -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio is {ratio}, expected a number in (0, 1]")
        if rest not in ("labels", "skip", "plan"):
            raise ValueError(f"rest is {rest!r}, expected 'labels', 'skip' or 'plan'")
        self.ratio, self.rest = ratio, rest
        self.trains_rest, self.chooses_first = rest == "labels", rest == "skip"

    def select(self, view: StepView) -> Tensor:
        if self.rest == "plan":
            return torch.ones(len(view.rows), dtype=torch.bool, device=view.rows.device)
        return row_uniform(view.rows, view.seed, view.epoch, "rows") < self.ratio

    def planned(self, num_rows: int) -> int | None:
        return max(1, round(self.ratio * num_rows)) if self.rest == "plan" else None

    def plan(self, rows: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        draws = row_uniform(torch.from_numpy(rows), seed, epoch, "plan").numpy()
        chosen = np.argsort(draws, kind="stable")[: self.planned(len(rows))]
        return np.sort(chosen)


# ---- teachers ------------------------------------------------------------------------------------------------------


class _StaticTeachers(Selector):
    narrows = False

    def keeps(self) -> list[int] | None:
        return None


def _logits(view: StepView) -> Tensor:
    assert view.teachers is not None, "teacher selectors are asked after the teachers"
    return view.teachers


class UniformTeachers(_StaticTeachers):
    """All teachers, equal weight: RL-KD's U-Ensemble."""

    name = "uniform"

    def weights(self, view: StepView) -> Tensor:
        batch, teachers, _ = _logits(view).shape
        return torch.full((batch, teachers), 1.0 / teachers, device=view.student.device)


class SingleTeacher(_StaticTeachers):
    """One teacher for everything.

    Args:
        teacher: its name, its index, or `best`: the highest primary metric on the rows held out of train.
    """

    name = "single"
    narrows = True

    def __init__(self, teacher: str | int = "best") -> None:
        self.teacher = teacher
        self.index = 0

    def setup(self, context: SelectionContext) -> None:
        names = context.teachers
        if self.teacher == "best":
            self.teacher = names[self._best(context)]
        elif isinstance(self.teacher, int) and 0 <= self.teacher < len(names):
            self.teacher = names[self.teacher]
        if self.teacher not in names:
            raise ValueError(
                f"teacher is {self.teacher!r}, expected 'best' or one of {', '.join(names)}."
                f"{did_you_mean(str(self.teacher), names)}"
            )
        self.index = names.index(str(self.teacher))  # by name: the pool may be narrowed to this teacher later

    def _best(self, context: SelectionContext) -> int:
        if len(context.teachers) == 1:
            return 0
        if not context.validation_scores:
            raise ValueError(
                "needs rows held out of train to find the best teacher, or its name: teachers: {name: single, teacher: NAME}"
            )
        return int(np.argmax(context.validation_scores))

    def keeps(self) -> list[int] | None:
        return [self.index]

    def weights(self, view: StepView) -> Tensor:
        weights = torch.zeros(_logits(view).shape[:2], device=view.student.device)
        weights[:, self.index] = 1.0
        return weights


class RandomSingle(_StaticTeachers):
    """One random teacher at a time: RL-KD's Rand-Single-Ensemble.

    Args:
        per: `batch` draws one teacher per optimiser step, as published; `row` one per row and epoch, which does not
            depend on the batch.
    """

    name = "random-single"

    def __init__(self, per: Literal["batch", "row"] = "batch") -> None:
        if per not in ("batch", "row"):
            raise ValueError(f"per is {per!r}, expected 'batch' or 'row'")
        self.per = per

    def weights(self, view: StepView) -> Tensor:
        batch, teachers, _ = _logits(view).shape
        if self.per == "batch":
            draw = step_uniform((1,), view.seed, view.step, "teachers").expand(batch)
        else:
            draw = row_uniform(view.rows, view.seed, view.epoch, "teachers")
        chosen = (draw * teachers).long().to(view.student.device)
        return torch.nn.functional.one_hot(chosen, teachers).float()


class FixedTeachers(_StaticTeachers):
    """Weights that stay the same for the whole run: RL-KD's W-Ensemble.

    Args:
        values: one number per teacher, or teacher name → number; scaled to sum 1. Default: proportional to the primary
            metric on the rows held out of train (reconstruction: the paper's choice could not be read).
    """

    name = "weighted"

    def __init__(self, values: list[float] | dict[str, float] | None = None) -> None:
        self.values = values
        self.fixed = torch.ones(1)

    def setup(self, context: SelectionContext) -> None:
        self.fixed = _normalised(self._chosen(context))

    def _chosen(self, context: SelectionContext) -> np.ndarray:
        if self.values is None:
            if not context.validation_scores:
                raise ValueError("needs rows held out of train to score teachers on, or values: one number per teacher")
            scores = np.maximum(np.asarray(context.validation_scores, dtype=float), 0.0)
            if not scores.any():
                raise ValueError(
                    f"no teacher scores above 0 on the held-out rows ({context.validation_scores}): give values, one number each"
                )
            return scores
        values = self.values
        if isinstance(values, dict):
            missing = [name for name in context.teachers if name not in values]
            unknown = [name for name in values if name not in context.teachers]
            if missing or unknown:
                raise ValueError(f"values name {sorted(values)}, expected exactly {', '.join(context.teachers)}")
            values = [values[name] for name in context.teachers]
        if len(values) != len(context.teachers) or min(values) < 0 or not any(values):
            raise ValueError(
                f"values are {values}, expected {len(context.teachers)} numbers, none negative and not all 0"
            )
        return np.asarray(values, dtype=float)

    def weights(self, view: StepView) -> Tensor:
        fixed = self.fixed.to(view.student.device)
        return fixed.expand(len(view.rows), len(fixed))


class LogisticTeachers(FixedTeachers):
    """Weights fitted once by a logistic regression over the teachers: RL-KD's LR-Ensemble.

    p(y | x) = softmax_c(Σ_k β_k log p_k(c | x)) with β ≥ 0, fitted by maximum likelihood on the rows held out of train
    (where teachers have not learned the labels by heart), then w = β / Σ β (reconstruction). Regression: non-negative
    least squares of the labels on the teachers' scores.
    """

    name = "logistic"

    def __init__(self) -> None:
        super().__init__(None)

    def _chosen(self, context: SelectionContext) -> np.ndarray:
        logits, labels = context.validation_logits, context.validation_labels
        if logits is None or labels is None or not len(labels):
            raise ValueError(
                "needs rows held out of train to fit its weights: set data.validation_size or data.validation"
            )
        known = ~np.isnan(labels) if context.regression else labels >= 0
        logits, labels = logits[known].astype(float), labels[known]
        if not len(labels):
            raise ValueError("needs labels on rows held out of train to fit its weights: none of those rows has one")
        if context.regression:
            return np.asarray(nnls(logits[:, :, 0], labels.astype(float))[0])
        log_p = log_softmax(logits, axis=-1)
        return _fit_conditional_logit(np.maximum(log_p, _LEAST_LOG_P), labels)


_LEAST_LOG_P = -50.0  # a teacher that rules a class out (-inf) would make every likelihood 0


def _fit_conditional_logit(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """β ≥ 0, [K], of the likelihood above; `log_p` [N, K, C], `labels` [N]."""
    of_label = log_p[np.arange(len(labels)), :, labels]  # [N, K]

    def negative_log_likelihood(beta: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.einsum("nkc,k->nc", log_p, beta)
        share = np.exp(mixed - logsumexp(mixed, axis=1, keepdims=True))  # [N, C]
        gradient = (np.einsum("nkc,nc->nk", log_p, share) - of_label).mean(0)
        value = (logsumexp(mixed, axis=1) - of_label @ beta).mean()
        # a little ridge: separable rows have no maximum
        return value + 5e-4 * beta @ beta, gradient + 1e-3 * beta

    start = np.full(log_p.shape[1], 1.0 / log_p.shape[1])
    bounds = [(0.0, None)] * len(start)
    return np.asarray(minimize(negative_log_likelihood, start, jac=True, bounds=bounds, method="L-BFGS-B").x)


def _normalised(values: np.ndarray) -> Tensor:
    """float32 [K] that sums to 1; equal weights when nothing is positive."""
    total = values.sum()
    if total <= 0:
        values, total = np.ones_like(values), float(len(values))
    return torch.from_numpy(values / total).float()


def teacher_losses(view: StepView) -> Tensor:
    """Each teacher's cross-entropy (squared error in regression) with the gold label; float32 [B, K], 0 without one."""
    teachers = _logits(view)
    batch, count, classes = teachers.shape
    labels = view.labels.unsqueeze(1).expand(batch, count).reshape(-1)
    return label_loss(teachers.reshape(batch * count, classes), labels).reshape(batch, count)


def _uniform_without_label(weights: Tensor, view: StepView) -> Tensor:
    """A closed form over gold labels has nothing to say on unlabelled rows: equal weights there."""
    return torch.where(view.has_label.unsqueeze(1), weights, torch.full_like(weights, 1.0 / weights.shape[1]))


class BestSingle(_StaticTeachers):
    """Per row, the teacher nearest to the gold label: RL-KD's Best-Single-Ensemble.

    Reconstruction: least cross-entropy. Regression: least squared error. Rows without a label weigh all
    teachers equally. Ties go to the first teacher.
    """

    name = "best-single"

    def weights(self, view: StepView) -> Tensor:
        losses = teacher_losses(view)
        chosen = torch.nn.functional.one_hot(losses.argmin(1), losses.shape[1]).float()
        return _uniform_without_label(chosen, view)


class Confidence(_StaticTeachers):
    """CA-MKD's closed form: w_k = (1 - softmax_k(CE_k)) / (K - 1) (Zhang et al., ICASSP 2022).

    Regression: squared errors in place of cross-entropies. Rows without a label weigh all teachers equally.
    """

    name = "confidence"

    def weights(self, view: StepView) -> Tensor:
        losses = teacher_losses(view)
        # the softmax of an infinite loss would be NaN
        losses = losses.clamp_max(torch.finfo(losses.dtype).max)
        count = losses.shape[1]
        if count == 1:
            return torch.ones_like(losses)
        return _uniform_without_label((1 - losses.softmax(1)) / (count - 1), view)


class Entropy(_StaticTeachers):
    """w = softmax_k(-u_k / τ) with u_k the entropy of teacher k's probabilities, divided by log C: needs no label.

    Args:
        temperature: τ; 0 gives all weight to the most certain teacher.

    A common rule of thumb; the rival of learned selectors on rows without labels. Regression has no entropy and is refused.
    """

    name = "entropy"

    def __init__(self, temperature: float = 0.1) -> None:
        zero_or_more(temperature=temperature)
        self.temperature = temperature

    def setup(self, context: SelectionContext) -> None:
        if context.regression:
            raise ValueError("weighs teachers by their entropy, which a regression has not: use confidence or uniform")

    def weights(self, view: StepView) -> Tensor:
        entropy = normalised_entropy(_logits(view))
        if self.temperature == 0:
            return torch.nn.functional.one_hot(entropy.argmin(1), entropy.shape[1]).float()
        return (-entropy / self.temperature).softmax(1)


# ---- knowledge -----------------------------------------------------------------------------------------------------


class _PerStep(Selector):
    """Weights of an optimiser step, each times its kind's factor of size (`balance.Balance`).

    Args:
        balance: `labels`, `unit` or `none`.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, balance: Literal["labels", "unit", "none"] = "none") -> None:
        self.balance = Balance(balance)
        self.wants_losses = self.balance.on

    def setup(self, context: SelectionContext) -> None:
        self.kinds = self.balance.kinds = context.kinds
        self.seed = context.seed

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.balance.begin(probe, self.seed)

    def note_losses(self, sums: Tensor, counts: Tensor) -> None:
        self.balance.add(sums, counts)

    def weights(self, view: StepView) -> Tensor:
        return (self._raw(view) * self.balance.factors()).to(view.student.device)

    def _raw(self, view: StepView) -> Tensor:
        """float32 [M], on the CPU."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"balance": self.balance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.balance.load_state_dict(state["balance"])


class FixedWeights(_PerStep):
    """The same weights for every row and step.

    Args:
        weights: kind of knowledge → weight; a kind that is not named gets 1.
        balance: `none`: weights of the losses as they are; `labels` or `unit`: of losses brought to one size.
    """

    name = "fixed"

    def __init__(
        self, weights: dict[str, float] | None = None, balance: Literal["labels", "unit", "none"] = "none"
    ) -> None:
        super().__init__(balance)
        self.by_kind = dict(weights or {})
        self.fixed = torch.ones(1)

    def setup(self, context: SelectionContext) -> None:
        super().setup(context)
        unknown = [kind for kind in self.by_kind if kind not in context.kinds]
        if unknown:
            raise ValueError(f"weights name {unknown}, but the method copies {list(context.kinds)}")
        self.fixed = torch.tensor([float(self.by_kind.get(kind, 1.0)) for kind in context.kinds])

    def _raw(self, view: StepView) -> Tensor:
        return self.fixed


class AllOnes(FixedWeights):
    """All kinds of knowledge with weight 1: AKSKD's control without selection."""

    name = "all-ones"

    def __init__(self, balance: Literal["labels", "unit", "none"] = "none") -> None:
        super().__init__(None, balance)


class RandomSoft(_PerStep):
    """Weights drawn from [0, 1] for each optimiser step: AKSKD's Random-Soft."""

    name = "random-soft"

    def _raw(self, view: StepView) -> Tensor:
        return step_uniform((len(self.kinds),), view.seed, view.step, "knowledge").float()


class RandomHard(_PerStep):
    """A random subset of the kinds for each optimiser step, never empty: AKSKD's Random-Hard."""

    name = "random-hard"

    def _raw(self, view: StepView) -> Tensor:
        draws = step_uniform((len(self.kinds),), view.seed, view.step, "knowledge")
        chosen = (draws < 0.5) | (draws == draws.min())  # an empty subset would be a step without a loss
        return chosen.float()
