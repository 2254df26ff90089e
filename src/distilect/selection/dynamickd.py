"""DynamicKD: the student's uncertainty decides which teacher a row learns from, which rows ask, and what they copy.

Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, arXiv 2109.11295. The file follows the
paper: uncertainty, then its three arms, which were published one by one and can be combined here. Formulas are those of the
paper and of its released code (commit 261162d). The faults of that code are left out: every weight is detached, p = 0 gives no
NaN, no share of a batch is empty, and one normalisation of hidden states serves all strategies (docs/pitfalls.md 14, 26-29).

What is ours: choices of rows that save time (`dynamickd_rows.py`), scores that outlive a batch (`uncertainty_memory.py`),
regression (`dynamickd_regression.py`), and multi-label tasks, in which each label is a choice between two, and scores are means over
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distilect.config import Part
from distilect.options import Ratio, Share
from distilect.selection.base import LossWeights, Needs, RowSelector, TeacherSelector
from distilect.selection.buffers import Averages, Buffer
from distilect.selection.draws import row_uniform
from distilect.selection.dynamickd_regression import RecentDistances, distance_of, first_distances, relative, spread
from distilect.selection.static import weights_by_kind
from distilect.selection.uncertainty_memory import Scores, Stored, quantiles
from distilect.selection.view import Passes, Probe, SelectionContext, StepView, normalised_entropy, two_classes

# ---- uncertainty (3.1) ---------------------------------------------------------------------------------------------


def entropy(logits: Tensor, multi_label: bool = False, tokens: bool = False) -> Tensor:
    """u = H(p) / log C of p = softmax(logits): 0 one-hot, 1 uniform; [..., C] → float32 [...], detached.

    `multi_label`: the mean of the labels' binary entropies, H(σ) / log 2. `tokens`: of a language model, over its vocabulary.
    """
    return normalised_entropy(logits.detach(), multi_label, tokens)


def margin(logits: Tensor) -> Tensor:
    """1 - (p_(1) - p_(2)), of the two largest probabilities: 1 where they tie; [..., C] → float32 [...], detached."""
    first, second = logits.detach().float().softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return 1 - (first - second)


def confidence(logits: Tensor) -> Tensor:
    """1 - max p, "least confidence": 0 one-hot, 1 - 1/C uniform; [..., C] → float32 [...], detached."""
    return 1 - logits.detach().float().softmax(-1).amax(-1)


def ranked(keys: Tensor, scores: Tensor, seed: int, epoch: int) -> Tensor:
    """int64 [B]: rows from the highest score down; draws by row break ties, so that their order says nothing."""
    draws = row_uniform(keys, seed, epoch, "ties")
    order = torch.argsort(draws, stable=True)
    return order[torch.argsort(scores[order], descending=True, stable=True)]


# ---- arm 1: which teacher (3.2) ------------------------------------------------------------------------------------


def hats(u: Tensor, count: int) -> Tensor:
    """float32 [B, K], rows sum to 1: `u` [B] is shared by the two teachers that it lies between; u = 1 is teacher 0.

    For two teachers, as published: (u, 1 - u).
    """
    place = (1 - u.clamp(0, 1)) * (count - 1)
    after = (place.unsqueeze(1) - torch.arange(count - 1, device=u.device)).clamp(0, 1)  # [B, K - 1]
    ends = after.new_ones(len(u), 1), after.new_zeros(len(u), 1)
    # the share that has come past teacher k - 1 but not past teacher k: differences of a row from 1 to 0, so the sum is 1
    return torch.cat([ends[0], after], dim=1) - torch.cat([after, ends[1]], dim=1)


def parts_of_batch(order: Tensor, count: int) -> Tensor:
    """int64 [B]: the part of each row, 0 the most uncertain, where the batch is cut into `count` parts as published.

    Args:
        order: int64 [B], rows from the most uncertain one down.
    """
    size = len(order)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(size, device=order.device)
    ends = torch.tensor([k * size // count for k in range(1, count)], device=order.device)
    return (rank.unsqueeze(1) >= ends).sum(1)  # [B, K - 1] → [B]; of one row the first half is empty


def smallest_first(order: str | Sequence[str], context: SelectionContext) -> list[int]:
    """Numbers of the teachers, the one for the most uncertain rows first."""
    names, sizes, scores = context.teachers, context.teacher_sizes, context.validation_scores
    every = range(len(names))
    if len(names) == 1:
        return [0]
    if not isinstance(order, str):
        if sorted(order) != sorted(names):
            raise ValueError(f"order is {list(order)}, expected every teacher once: {', '.join(names)}")
        return [names.index(name) for name in order]
    if order == "quality":
        if not scores:
            raise ValueError("order: quality needs a validation split, or give order: names, smallest first")
        return sorted(every, key=lambda k: scores[k])
    unknown = [name for name, size in zip(names, sizes, strict=True) if not size] if sizes else list(names)
    if unknown:
        raise ValueError(
            f"order: size, but the size of {', '.join(unknown)} is not known: set order: quality, or order: names, smallest first"
        )
    return sorted(every, key=lambda k: (sizes[k], scores[k] if scores else 0.0))


class UncertainTeachers(TeacherSelector):
    """Uncertain rows learn from the smaller teacher, certain rows from the larger one (DynamicKD, arm 1).

    Published for two teachers, S and L; generalised here to K, ordered from the smallest:

    - `hard`: a row learns from one teacher: the most uncertain K-th of all rows from the smallest, and so on.
    - `soft-instance`: w_S = u, w_L = 1 - u. K teachers: (1 - u)(K - 1) is the row's place between teachers 0 … K - 1, and the two
      that it lies between share it in proportion (hat functions).
    - `soft`: the same for all rows, with c, the mean of u, in place of u.

    The released loss of `hard` is a mean over each half by itself, their sum twice our mean over all rows: weigh response by 2
    for its scale (recipes/papers/dynamickd-teacher.yaml). `soft` and `soft-instance` have the same scale as ours.
    """

    name = "dynamic"

    class Options(Part):
        """Of `teachers: {name: dynamic, …}`."""

        mode: Literal["hard", "soft", "soft-instance"] = Field(
            "hard", description="one teacher per row; or two that share it, by the mean uncertainty or by the row's own"
        )
        by: Literal["epoch", "batch"] = Field(
            "epoch",
            description="what a row is compared with in hard, and what is averaged in soft. epoch: the last scores of all rows, "
            "fixed for an epoch, so that no batch changes a choice; before the first epoch all rows are scored once, about a "
            "third of an epoch's operations. batch: the rows of its batch, as published; it depends on how a batch is cut",
        )
        order: Literal["size", "quality"] | list[str] = Field(
            "size",
            description="size: by parameters, equal ones by quality; quality: by score on the validation split; or all names, "
            "the teacher for the most uncertain rows first",
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = Stored()  # stays empty where rows are compared within their batch
        self.averages, self.begun = Averages(), -1

    def setup(self, context: SelectionContext) -> None:
        self.regression, self.multi_label, self.context = context.regression, context.multi_label, context
        self.places = torch.tensor(smallest_first(self.options.order, context)).argsort()  # [K]: 0 the smallest
        needs_others = self.options.mode != "soft-instance" or self.regression
        self.remembers = self.options.by == "epoch" and needs_others

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if not self.remembers or epoch <= self.begun:  # resumed within this epoch
            return
        self.begun = epoch
        if not len(self.memory):
            self.memory.put(self.first_scores(probe))
        self.memory.end_epoch()

    def first_scores(self, probe: Probe) -> Scores:
        """Of all rows, before any step; with dropout, as in the training pass that gives all later scores."""
        passes = Passes(dropout=True)
        if self.regression:
            return first_distances(probe, self.context.sample(self.context.num_rows), passes)
        rows = torch.unique(probe.keys)
        return Scores(rows, entropy(probe.run(rows, passes)[0], self.multi_label, self.context.tokens))

    def decide(self, view: StepView) -> Tensor:
        scores = distance_of(view) if self.regression else entropy(view.student, view.multi_label, view.tokens)  # [b]
        if self.remembers:
            self.memory.buffer.add(Scores(view.keys, scores))
        u = self.on_scale(scores, scores)
        self.averages.add("uncertainty/mean", u.sum(), len(u))
        if self.options.mode == "hard":
            weights = F.one_hot(self.part(view, scores), len(self.places)).float()
        elif self.options.mode == "soft":
            others = self.memory.known.values.to(u) if len(self.memory) else scores
            c = self.on_scale(others, scores).mean()
            weights = hats(c.expand_as(u), len(self.places))
        else:
            weights = hats(u, len(self.places))
        return weights[:, self.places.to(weights.device)]  # [b, K], from the smallest first to the pool's order

    def on_scale(self, values: Tensor, batch: Tensor) -> Tensor:
        """u in [0, 1]: entropies as they are, distances against the median of all rows (as published: of the batch)."""
        if not self.regression:
            return values
        return relative(values, self.memory.quantiles(0.5) if len(self.memory) else quantiles(batch, [0.5]))

    def part(self, view: StepView, scores: Tensor) -> Tensor:
        """int64 [b]: which K-th of the batch, or of all rows, a row belongs to; 0 the most uncertain."""
        count = len(self.places)
        if not len(self.memory):
            return parts_of_batch(ranked(view.keys, scores, view.seed, view.epoch), count)
        thresholds = self.memory.quantiles(*(k / count for k in range(count - 1, 0, -1))).to(scores)
        if count > 1:
            self.averages.add("uncertainty/threshold", thresholds.mean() * len(scores), len(scores))
        stored = self.memory.at(view.keys)
        return (torch.where(stored.isnan(), scores, stored).unsqueeze(1) < thresholds).sum(1)

    def buffers(self) -> list[Buffer[Any]]:
        return [self.memory.buffer]

    def health(self) -> dict[str, float]:
        """uncertainty/mean; uncertainty/threshold: between the teachers of `hard` (its mean, where there are several)."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "begun": self.begun, "averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun = int(state["begun"])
        self.memory.load_state_dict(state["memory"])
        self.averages.load_state_dict(state["averages"])


# ---- arm 2: which rows (3.3) ---------------------------------------------------------------------------------------

SCORES: dict[str, Callable[[Tensor], Tensor]] = {"entropy": entropy, "margin": margin, "confidence": confidence}
DROPOUT_PASSES = Passes(4, dropout=True)  # for score: spread


def score_of(given: str | None, regression: bool, tokens: bool = False) -> str:
    """The score that rows are ranked by: the given one, or the default of the task.

    Raises:
        ValueError: a score of classes in a regression, or of all classes where they are tokens.
    """
    if tokens and given in ("margin", "confidence", "spread"):
        raise ValueError(
            f"score is {given}, but the classes of a language model are not all there: use score: entropy or random"
        )
    if regression and given in SCORES:
        raise ValueError(f"score is {given}, but a regression has no classes: use score: spread or random")
    return given or ("spread" if regression else "entropy")


def uncertainty(score: str, logits: Tensor, multi_label: bool = False, tokens: bool = False) -> Tensor:
    """float32 [B] by the score of that name; logits [P, B, C] of one pass, or of several for `spread`.

    `multi_label`: the mean over labels, each of which is a choice between two. `tokens`: of a language model.
    """
    if tokens:
        return entropy(logits[0], tokens=True)
    if score == "spread":
        return spread(logits, multi_label)
    return SCORES[score](two_classes(logits[0])).mean(-1) if multi_label else SCORES[score](logits[0])


def number_of(ratio: float, rows: int) -> int:
    """max(1, ⌊r·B⌋)."""
    return max(1, int(ratio * rows + 1e-9))  # 0.29 · 100 is 28.999…


def top(keys: Tensor, scores: Tensor, ratio: float, seed: int, epoch: int) -> Tensor:
    """bool [B]: the max(1, ⌊r·B⌋) rows with the highest scores."""
    count = number_of(ratio, len(scores))
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[ranked(keys, scores, seed, epoch)[:count]] = True
    return chosen


WholeRows = Literal["mean", "max"]


def by_row(how: WholeRows, scores: Tensor, row: Tensor) -> Tensor:
    """float32 [n]: the mean or the maximum of the scores (float32 [U]) of each row's units; `row` int64 [U], from 0 to n - 1, all of them there."""
    order = torch.argsort(row, stable=True)
    return torch.segment_reduce(scores[order], how, lengths=row.bincount())


class RankedRows(RowSelector):
    """Base of selectors that rank the rows of a batch: the max(1, ⌊r·B⌋) best ones ask the teachers.

    Words and tokens are ranked one by one, or with `whole_rows` the rows that they stand in; rows with equal texts are then one. The loss on
    teacher outputs is a mean over the rows that ask. A choice depends on the batch, as published.
    """

    measure: str  # what rows are ranked by, in the log
    reverse = False  # the lowest ones are chosen

    class Options(Part):
        """Of selectors that rank rows."""

        ratio: Ratio = Field(0.5, description="share of the rows; never less than one row of a batch or plan")
        whole_rows: WholeRows | None = Field(
            None,
            description="where words or tokens are scored: whole rows are chosen, by the mean or the maximum over theirs. Default: each word or "
            "token by itself; in uncertainty-plan and uncertainty-rounds, which always plan whole rows, mean",
        )

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.averages = Averages()

    def decide(self, view: StepView) -> Tensor:
        if self.options.ratio == 1:
            return torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)
        scores, keys, row = self.scores(view), view.keys, None
        if self.options.whole_rows is not None and view.rows is not None:
            keys, row = torch.unique(view.rows, return_inverse=True)
            scores = by_row(self.options.whole_rows, scores, row)
        scores = -scores if self.reverse else scores
        chosen = top(keys, scores, self.options.ratio, view.seed, view.epoch)
        self.averages.add(f"{self.measure}/score", scores.sum(), len(scores))
        self.averages.add(f"{self.measure}/score_selected", (scores * chosen).sum(), chosen.sum())
        self.averages.add("rows/selected", chosen.sum(), len(scores))
        count = number_of(self.options.ratio, len(chosen))
        if row is not None:  # of rows of different lengths: waits for the device
            chosen = chosen[row]
            count = int(chosen.sum())
        if self.trains_rest:
            self.asked_share = count / len(chosen)
        return chosen

    def scores(self, view: StepView) -> Tensor:
        """float32 [B]: the highest ones are chosen, or with `reverse` the lowest."""
        raise NotImplementedError

    def health(self) -> dict[str, float]:
        """rows/selected: share of the rows that were looked at; MEASURE/score, MEASURE/score_selected: their mean score, and that
        of those selected."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averages.load_state_dict(state["averages"])


class UncertainRows(RankedRows):
    """The most uncertain rows of each batch ask the teachers; the others learn from their labels (DynamicKD, arm 2).

    With `reverse` the scores in the log are negative. Siblings: `uncertainty-skip` and `uncertainty-plan` leave the other rows out,
    which saves time; `alignment` ranks by another measure.
    """

    name = "uncertainty"
    measure = "uncertainty"

    class Options(RankedRows.Options):
        """Of `rows: {name: uncertainty, …}`."""

        score: Literal["entropy", "margin", "confidence", "spread", "random"] | None = Field(
            None,
            description="entropy, margin or confidence of the class probabilities; spread: over 4 dropout passes (any task); "
            "random: the control. Default: entropy, spread in regression",
        )
        reverse: bool = Field(False, description="the least uncertain rows instead, another control")

    options: Options

    def setup(self, context: SelectionContext) -> None:
        self.score = score_of(self.options.score, context.regression, context.tokens)
        self.reverse = self.options.reverse and self.score != "random"
        # dropout passes are made before the step; any other score comes from the training pass, for free
        self.before_step = self.score == "spread" and self.options.ratio < 1
        self.compares = not self.before_step and self.options.ratio < 1
        self.needs = Needs(passes=DROPOUT_PASSES if self.before_step else None)

    def scores(self, view: StepView) -> Tensor:
        if self.score == "random":
            keys = view.keys if self.options.whole_rows is None or view.rows is None else view.rows
            return row_uniform(keys, view.seed, view.epoch, "rows").float()
        passes = self.needs.passes
        logits = view.student.unsqueeze(0) if passes is None else view.passes[passes]
        return uncertainty(self.score, logits, view.multi_label, view.tokens)


# ---- arm 3: which knowledge (3.4) ----------------------------------------------------------------------------------


class UncertainWeights(LossWeights):
    """Certain rows copy the teachers' outputs, uncertain rows their internals (DynamicKD, arm 3).

    v_labels = 1; v_response = 1 - u(i); every other kind (feature, relation, similarity): u(i). So outputs and internals weigh 1
    together in all three strategies; the released code's static weights weigh 2, and normalise hidden states along another axis.
    """

    name = "uncertainty"

    class Options(Part):
        """Of `loss_weights: {name: uncertainty, …}`."""

        strategy: Literal["uncertainty", "uncertainty-r", "none"] = Field(
            "uncertainty",
            description="uncertainty-r: u and 1 - u swapped (control); none: the same for all rows (control)",
        )
        share: Share = Field(0.5, description="of the internals with strategy: none, in place of u")
        weights: dict[str, float] = Field({}, description="kind of knowledge → factor; a kind that is not named has 1")

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.distances = RecentDistances()  # of a regression
        self.averages = Averages()

    def setup(self, context: SelectionContext) -> None:
        kinds = context.kinds
        self.factors = weights_by_kind(self.options.weights, kinds)
        self.is_response = torch.tensor([kind == "response" for kind in kinds])
        self.is_internal = torch.tensor([kind not in ("labels", "response") for kind in kinds])
        if not self.is_response.any() or not self.is_internal.any():
            raise ValueError(
                f"weighs the teachers' outputs against their internals, but the method copies {', '.join(kinds)}: add knowledge: "
                "{labels: {}, response: {}, feature: {}}, or use loss_weights: fixed"
            )

    def decide(self, view: StepView) -> Tensor:
        u = self.distances.u(view) if view.regression else entropy(view.student, view.multi_label, view.tokens)  # [B]
        self.averages.add("uncertainty/mean", u.sum(), len(u))
        strategies = {"uncertainty": u, "uncertainty-r": 1 - u, "none": torch.full_like(u, self.options.share)}
        inner = strategies[self.options.strategy].unsqueeze(1)  # [B, 1]
        factors, response, internal = (t.to(u.device) for t in (self.factors, self.is_response, self.is_internal))
        return factors * torch.where(internal, inner, torch.where(response, 1 - inner, 1.0))  # [B, M]

    def learn(self, probe: Probe) -> None:
        self.distances.memory.end_step()

    def buffers(self) -> list[Buffer[Any]]:
        return [self.distances.memory.buffer]

    def health(self) -> dict[str, float]:
        """uncertainty/mean; the weights themselves are logged as knowledge/v_KIND."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"distances": self.distances.state_dict(), "averages": self.averages.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.distances.load_state_dict(state["distances"])
        self.averages.load_state_dict(state["averages"])
