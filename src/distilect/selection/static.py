"""Selectors that do not learn while the student does: the baselines that every adaptive method has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from distilect.config import Part
from distilect.data import Window
from distilect.errors import did_you_mean
from distilect.knowledge.labels import label_loss
from distilect.options import Ratio, ZeroOrMore
from distilect.selection.balance import Balance, BalanceMode
from distilect.selection.base import LossWeights, Needs, PlannedRows, RowSelector, TeacherSelector
from distilect.selection.draws import row_uniform, step_uniform
from distilect.selection.view import Probe, SelectionContext, StepView, normalised_entropy
from distilect.tasks import has_label

# ---- rows ----------------------------------------------------------------------------------------------------------


class AllRows(RowSelector):
    """Every row asks the teachers."""

    name = "all"

    def decide(self, view: StepView) -> Tensor:
        return torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)


class RandomRows(RowSelector):
    """A random share of the rows, drawn anew each epoch, asks the teachers; the others learn from their labels.

    The control for every selection by uncertainty. Each draw is a function of (seed, epoch, row), so batches and ranks do not change it.
    """

    name = "random"

    class Options(Part):
        """Of `rows: {name: random, …}`."""

        ratio: Ratio = Field(0.5, description="share of the rows")

    options: Options

    def setup(self, context: SelectionContext) -> None:
        self.asked_share = self.options.ratio if self.trains_rest else 1.0

    def decide(self, view: StepView) -> Tensor:
        return row_uniform(view.keys, view.seed, view.epoch, "rows") < self.options.ratio


class RandomRowsSkip(RandomRows):
    """As `random`, but the other rows leave the step before anything is run on them; the loss is a mean over those that stay."""

    name = "random-skip"
    trains_rest = False
    before_step = True


class RandomRowsPlan(PlannedRows):
    """As `random`, but the rows of an epoch are drawn before it, and the others are never loaded or run."""

    name = "random-plan"

    class Options(Part):
        """Of `rows: {name: random-plan, …}`."""

        ratio: Ratio = Field(0.5, description="share of the rows: max(1, round(ratio · N)) of them")

    options: Options

    def decide(self, view: StepView) -> Tensor:
        return torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)

    def planned(self, num_rows: int) -> int:
        return max(1, round(self.options.ratio * num_rows))

    def plan(self, keys: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        draws = row_uniform(torch.from_numpy(keys), seed, epoch, "plan").numpy()
        return np.sort(np.argsort(draws, kind="stable")[: self.planned(len(keys))])


# ---- teachers: fixed weights ---------------------------------------------------------------------------------------


def teacher_logits(view: StepView) -> Tensor:
    """float32 [B, K, C]."""
    assert view.teachers is not None, "teacher selectors decide after the teachers were asked"
    return view.teachers


class UniformTeachers(TeacherSelector):
    """All teachers, equal weight: RL-KD's U-Ensemble."""

    name = "uniform"

    def decide(self, view: StepView) -> Tensor:
        batch, teachers, _ = teacher_logits(view).shape
        return torch.full((batch, teachers), 1.0 / teachers, device=view.student.device)


class SingleTeacher(TeacherSelector):
    """One teacher for everything."""

    name = "single"
    narrows = True

    class Options(Part):
        """Of `teachers: {name: single, …}`."""

        teacher: str | int = Field(
            "best",
            description="its name, its number from 0, or best: the highest primary metric on the validation split",
        )

    options: Options
    chosen: str | None = None  # by name: the pool may be narrowed to this teacher later

    def setup(self, context: SelectionContext) -> None:
        names = context.teachers
        if self.chosen is None:
            self.chosen = self._choose(context)
        self.kept = [names.index(self.chosen)]

    def _choose(self, context: SelectionContext) -> str:
        names, teacher = context.teachers, self.options.teacher
        if teacher == "best" and len(names) > 1 and not context.validation_scores:
            raise ValueError(
                "needs a validation split with labels to find the best teacher, or its name: teachers: {name: single, teacher: NAME}"
            )
        if teacher == "best":
            return names[int(np.argmax(context.validation_scores))] if len(names) > 1 else names[0]
        if isinstance(teacher, int) and 0 <= teacher < len(names):
            return names[teacher]
        if teacher not in names:
            raise ValueError(
                f"teacher is {teacher!r}, expected 'best' or one of {', '.join(names)}.{did_you_mean(str(teacher), names)}"
            )
        return str(teacher)

    def decide(self, view: StepView) -> Tensor:
        assert self.kept is not None
        weights = torch.zeros(teacher_logits(view).shape[:2], device=view.student.device)
        weights[:, self.kept] = 1.0
        return weights


class RandomSingle(TeacherSelector):
    """One random teacher per optimiser step: RL-KD's Rand-Single-Ensemble."""

    name = "random-single"

    def decide(self, view: StepView) -> Tensor:
        batch, teachers, _ = teacher_logits(view).shape
        draw = step_uniform((1,), view.seed, view.step, "teachers").expand(batch)
        return F.one_hot((draw * teachers).long().to(view.student.device), teachers).float()


class FixedTeachers(TeacherSelector):
    """Weights that stay the same for the whole run: RL-KD's W-Ensemble."""

    name = "weighted"

    class Options(Part):
        """Of `teachers: {name: weighted, …}`."""

        values: list[float] | dict[str, float] | None = Field(
            None,
            description="one number per teacher, or teacher name → number, scaled to sum 1; default: proportional to the primary "
            "metric on the validation split (reconstruction)",
        )

    options: Part

    def setup(self, context: SelectionContext) -> None:
        values = self.values(context)
        total = values.sum()
        if total <= 0:  # nothing is positive: equal weights
            values, total = np.ones_like(values), float(len(values))
        self.fixed = torch.from_numpy(values / total).float()  # [K]

    def values(self, context: SelectionContext) -> np.ndarray:
        """float [K], none negative."""
        assert isinstance(self.options, FixedTeachers.Options)
        values, names = self.options.values, context.teachers
        if values is None:
            if not context.validation_scores:
                raise ValueError(
                    "needs a validation split with labels to score teachers on, or values: one number per teacher"
                )
            scores = np.maximum(np.asarray(context.validation_scores, dtype=float), 0.0)
            if not scores.any():
                raise ValueError(
                    f"no teacher scores above 0 on the validation rows ({context.validation_scores}): give values, one number each"
                )
            return scores
        if isinstance(values, dict):
            if set(values) != set(names):
                raise ValueError(f"values name {sorted(values)}, expected exactly {', '.join(names)}")
            values = [values[name] for name in names]
        if len(values) != len(names) or min(values) < 0 or not any(values):
            raise ValueError(f"values are {values}, expected {len(names)} numbers, none negative and not all 0")
        return np.asarray(values, dtype=float)

    def decide(self, view: StepView) -> Tensor:
        fixed = self.fixed.to(view.student.device)
        return fixed.expand(len(view.keys), len(fixed))


class LogisticTeachers(FixedTeachers):
    """Weights fitted once by a logistic regression over the teachers: RL-KD's LR-Ensemble.

    p(y | x) = softmax_c(Σ_k β_k log p_k(c | x)) with β ≥ 0, fitted by maximum likelihood on the validation rows (whose labels
    the teachers have not memorised), then w = β / Σ β (reconstruction). Regression: non-negative least squares of the
    labels on the teachers' scores. Multi-label: the product of the labels' likelihoods, with one β for all labels.
    """

    name = "logistic"

    class Options(Part):
        """Of `teachers: {name: logistic, …}`."""

    def values(self, context: SelectionContext) -> np.ndarray:
        logits, labels = context.validation_logits, context.validation_labels
        if logits is None or labels is None or not len(labels):
            raise ValueError(
                "needs a validation split with labels to fit its weights: set data.validation_size or data.validation"
            )
        known = has_label(labels)
        logits, labels = logits[known].astype(float), labels[known]
        if not len(labels):
            raise ValueError("needs labels on validation rows to fit its weights: none of those rows has one")
        if context.regression:
            return np.asarray(nnls(logits[:, :, 0], labels.astype(float))[0])
        if context.multi_label:  # each label of a row is a row with two classes: [N, K, C] → [N C, K, 2]
            having = logits.transpose(0, 2, 1).reshape(-1, logits.shape[1])
            logits, labels = np.stack([np.zeros_like(having), having], axis=-1), labels.reshape(-1).astype(np.int64)
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


# ---- teachers: a closed form per row -------------------------------------------------------------------------------


def teacher_losses(view: StepView) -> Tensor:
    """Each teacher's cross-entropy (squared error in regression, mean binary cross-entropy in multi-label) with the gold label;
    float32 [B, K], 0 without one."""
    teachers = teacher_logits(view)
    batch, count, classes = teachers.shape
    labels = view.labels.repeat_interleave(count, dim=0)
    return label_loss(teachers.reshape(batch * count, classes), labels).reshape(batch, count)


def _uniform_without_label(weights: Tensor, view: StepView) -> Tensor:
    """A closed form over gold labels is undefined on unlabelled rows: equal weights there."""
    return torch.where(view.has_label.unsqueeze(1), weights, torch.full_like(weights, 1.0 / weights.shape[1]))


class BestSingle(TeacherSelector):
    """Per row, the teacher nearest to the gold label: RL-KD's Best-Single-Ensemble.

    Reconstruction: least cross-entropy. Regression: least squared error. Rows without a label weigh all
    teachers equally. Ties go to the first teacher.
    """

    name = "best-single"
    needs = Needs(labels=True)

    def decide(self, view: StepView) -> Tensor:
        losses = teacher_losses(view)
        return _uniform_without_label(F.one_hot(losses.argmin(1), losses.shape[1]).float(), view)


class Confidence(TeacherSelector):
    """CA-MKD's closed form: w_k = (1 - softmax_k(CE_k)) / (K - 1) (Zhang et al., ICASSP 2022).

    Regression: squared errors in place of cross-entropies. Rows without a label weigh all teachers equally.
    """

    name = "confidence"

    def decide(self, view: StepView) -> Tensor:
        losses = teacher_losses(view)
        losses = losses.clamp_max(torch.finfo(losses.dtype).max)  # the softmax of an infinite loss would be NaN
        count = losses.shape[1]
        if count == 1:
            return torch.ones_like(losses)
        return _uniform_without_label((1 - losses.softmax(1)) / (count - 1), view)


class Entropy(TeacherSelector):
    """w = softmax_k(-u_k / τ) with u_k the entropy of teacher k's probabilities, divided by log C: needs no label. Multi-label: the
    mean of the labels' binary entropies, divided by log 2.

    A common rule of thumb; the rival of learned selectors on rows without labels. Regression has no entropy and is refused.
    """

    name = "entropy"

    class Options(Part):
        """Of `teachers: {name: entropy, …}`."""

        temperature: ZeroOrMore = Field(0.1, description="τ; 0 gives all weight to the most certain teacher")

    options: Options

    def setup(self, context: SelectionContext) -> None:
        if context.regression:
            raise ValueError("weighs teachers by their entropy, which a regression has not: use confidence or uniform")

    def decide(self, view: StepView) -> Tensor:
        entropy = normalised_entropy(teacher_logits(view), view.multi_label, view.tokens)
        if self.options.temperature == 0:
            return F.one_hot(entropy.argmin(1), entropy.shape[1]).float()
        return (-entropy / self.options.temperature).softmax(1)


# ---- loss weights --------------------------------------------------------------------------------------------------


class BalancedWeights(LossWeights):
    """Base of weights that are the same for all rows of an optimiser step, each times its kind's factor of size (`Balance`)."""

    class Options(Part):
        """Of loss weights that are the same for all rows."""

        balance: BalanceMode = Field(
            "none",
            description="none: weights of the losses as they are; labels or unit: of losses brought to one size (see `Balance`)",
        )

    options: Options

    def setup(self, context: SelectionContext) -> None:
        self.seed = context.seed
        self.balance = Balance(self.options.balance, context.kinds)
        self.needs = Needs(step_losses=self.balance.on)

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.balance.begin(probe, self.seed)

    def learn(self, probe: Probe) -> None:
        self.balance.add(probe.step_losses)

    def decide(self, view: StepView) -> Tensor:
        return (self.raw(view) * self.balance.factors()).to(view.student.device)

    def raw(self, view: StepView) -> Tensor:
        """float32 [M], on the CPU."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"balance": self.balance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.balance.load_state_dict(state["balance"])


def weights_by_kind(weights: dict[str, float], kinds: tuple[str, ...]) -> Tensor:
    """float32 [M]: the weight of each kind, 1 where it is not named.

    Raises:
        ValueError: a kind is named that the method does not copy.
    """
    unknown = [kind for kind in weights if kind not in kinds]
    if unknown:
        raise ValueError(f"weights name {unknown}, but the method copies {list(kinds)}")
    return torch.tensor([float(weights.get(kind, 1.0)) for kind in kinds])


class FixedWeights(BalancedWeights):
    """The same weights for every row and step."""

    name = "fixed"

    class Options(BalancedWeights.Options):
        """Of `loss_weights: {name: fixed, …}`."""

        weights: dict[str, float] = Field({}, description="kind of knowledge → weight; a kind that is not named gets 1")

    options: Options

    def setup(self, context: SelectionContext) -> None:
        super().setup(context)
        self.fixed = weights_by_kind(self.options.weights, context.kinds)

    def raw(self, view: StepView) -> Tensor:
        return self.fixed


class AllOnes(BalancedWeights):
    """All kinds of knowledge with weight 1: AKSKD's control without selection."""

    name = "all-ones"

    def raw(self, view: StepView) -> Tensor:
        return torch.ones(len(self.balance.kinds))


class RandomSoft(BalancedWeights):
    """Weights drawn from [0, 1] for each optimiser step: AKSKD's Random-Soft."""

    name = "random-soft"

    def raw(self, view: StepView) -> Tensor:
        return step_uniform((len(self.balance.kinds),), view.seed, view.step, "knowledge").float()


class RandomHard(BalancedWeights):
    """A random subset of the kinds for each optimiser step, never empty: AKSKD's Random-Hard."""

    name = "random-hard"

    def raw(self, view: StepView) -> Tensor:
        draws = step_uniform((len(self.balance.kinds),), view.seed, view.step, "knowledge")
        return ((draws < 0.5) | (draws == draws.min())).float()  # an empty subset would be a step without a loss
