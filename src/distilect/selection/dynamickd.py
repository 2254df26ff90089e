"""DynamicKD: the student's uncertainty decides which teacher a row believes, which rows ask, and what they copy.

Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, arXiv 2109.11295. The file follows the
paper: uncertainty, then its three arms, which were published one by one and can be combined here. Formulas are those of the
paper and of its released code (commit 261162d). What that code gets wrong is left out: every weight is detached, p = 0 is no
NaN, no share of a batch is empty, and one normalisation of hidden states serves all strategies (docs/pitfalls.md 14, 26-29).

A regression has no class probabilities. Its counterpart of uncertainty is the distance |student - mean of the teachers| where
teachers have been asked (arms 1 and 3), as u = d / (d + median d), and the spread over dropout passes where they have not (arm 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distilect.data import Window
from distilect.errors import MethodError
from distilect.selection.base import Selector
from distilect.selection.buffers import Averages
from distilect.selection.draws import row_uniform
from distilect.selection.view import Passes, Probe, SelectionContext, StepView, normalised_entropy

# ---- uncertainty (3.1) ---------------------------------------------------------------------------------------------


def entropy(logits: Tensor) -> Tensor:
    """u = H(p) / log C of p = softmax(logits): 0 one-hot, 1 uniform; [..., C] → float32 [...], detached."""
    return normalised_entropy(logits.detach())


def margin(logits: Tensor) -> Tensor:
    """1 - (p_(1) - p_(2)), of the two largest probabilities: 1 where they tie; [..., C] → float32 [...], detached."""
    first, second = logits.detach().float().softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return 1 - (first - second)


def confidence(logits: Tensor) -> Tensor:
    """1 - max p, "least confidence": 0 one-hot, 1 - 1/C uniform; [..., C] → float32 [...], detached."""
    return 1 - logits.detach().float().softmax(-1).amax(-1)


def spread(said: Tensor) -> Tensor:
    """Standard deviation over dropout passes of the probabilities (of the score, in regression), mean over outputs.

    Args:
        said: logits [P, B, C] of P passes.

    Returns:
        float32 [B], detached.
    """
    values = said.detach().float()
    values = values if values.shape[-1] == 1 else values.softmax(-1)
    return values.std(0, unbiased=False).mean(-1)


def distance(student: Tensor, teachers: Tensor) -> Tensor:
    """|student - mean over teachers| of the scores; [B, 1], [B, K, 1] → float32 [B], detached. 0 where no teacher was asked."""
    return (student.detach().float() - teachers.float().mean(1)).abs().squeeze(-1).nan_to_num()


def relative(distances: Tensor, middle: Tensor) -> Tensor:
    """u = d / (d + median d): a distance on the scale of uncertainty, 1/2 where it is the usual one; float32 [B]."""
    return distances / (distances + middle.to(distances).clamp_min(torch.finfo(torch.float32).tiny))


# "random" is no uncertainty but the control of the others: it runs through the same code
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lambda said: entropy(said[0]),
    "margin": lambda said: margin(said[0]),
    "confidence": lambda said: confidence(said[0]),
    "spread": spread,
}


def outputs(view: StepView, passes: Passes | None) -> Tensor:
    """float32 [P, B, C]: the training pass itself (as published: with dropout), or the passes made for a selector."""
    return view.student.unsqueeze(0) if passes is None else view.passes[passes]


# ---- what a score is compared with ---------------------------------------------------------------------------------


class Recent:
    """The scores of about the last `size` rows, until the step before this one."""

    def __init__(self, size: int, values: Tensor | None = None) -> None:
        self.size = size
        self.values = torch.empty(0) if values is None else values
        self.pending: list[tuple[Tensor, Tensor]] = []

    def own(self, rows: Tensor, fresh: Tensor) -> Tensor:
        """float32 [B]: the scores that count for these rows (int64 [B]); `fresh` are those of this step."""
        return fresh

    def quantiles(self, *shares: float) -> Tensor:
        """float32 [n]: the scores that so many of the remembered ones are below."""
        return _quantiles(self.values, shares)

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Take in scores of this step; they count from the next one on."""
        self.pending.append((rows, scores))

    def end_step(self) -> None:
        """In the order of row identities: however the step was cut, the result is the same."""
        if not self.pending:
            return
        rows, scores = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
        self.pending = []
        ordered = scores[torch.argsort(rows, stable=True)]
        self.values = torch.cat([self.values.to(ordered), ordered])[-self.size :]

    def begin_epoch(self) -> None:
        """Nothing: an epoch is not special."""

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


class Stored:
    """Each row's last score, by identity; 12 bytes a row. What an epoch adds counts from the next one on."""

    def __init__(self) -> None:
        self.keys = torch.empty(0, dtype=torch.int64)  # ascending, on the CPU
        self.values = torch.empty(0)
        self.pending: list[tuple[Tensor, Tensor]] = []
        self._found: dict[tuple[float, ...], Tensor] = {}  # quantiles of a million rows are not free

    def at(self, rows: Tensor) -> Tensor:
        """float32 [n], NaN for a row that has no score yet."""
        if not len(self.keys):
            return torch.full((len(rows),), torch.nan, device=rows.device)
        wanted = rows.cpu()
        place = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == wanted, self.values[place], torch.nan).to(rows.device)

    def own(self, rows: Tensor, fresh: Tensor) -> Tensor:
        """See `Recent`."""
        stored = self.at(rows)
        return torch.where(stored.isnan(), fresh, stored)

    def quantiles(self, *shares: float) -> Tensor:
        """See `Recent`."""
        if shares not in self._found:
            self._found[shares] = _quantiles(self.values, shares)
        return self._found[shares]

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Take in scores of this epoch."""
        self.pending.append((rows, scores))

    def put(self, rows: Tensor, scores: Tensor) -> None:
        """Replace the scores of some rows at once; of equal texts the higher one counts, whatever their order."""
        rows, scores = rows.cpu(), scores.float().cpu()
        order = torch.argsort(scores, descending=True, stable=True)
        keys = torch.cat([rows[order], self.keys]).numpy()  # np.unique finds the first of equals: the new one
        unique, first = np.unique(keys, return_index=True)
        self.keys = torch.from_numpy(unique)
        self.values = torch.cat([scores[order], self.values])[torch.from_numpy(first)]
        self._found = {}

    def end_step(self) -> None:
        """Nothing: within an epoch a row's choice is fixed."""

    def begin_epoch(self) -> None:
        if self.pending:
            rows, scores = (torch.cat([p.cpu() for p in parts]) for parts in zip(*self.pending, strict=True))
            self.pending = []
            self.put(rows, scores)

    def state_dict(self) -> dict[str, Any]:
        pending = [[rows, scores] for rows, scores in self.pending]
        return {"keys": self.keys, "values": self.values, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys, self.values, self._found = state["keys"], state["values"], {}
        self.pending = [(rows, scores) for rows, scores in state["pending"]]


Memory: TypeAlias = Recent | Stored
BY = ("epoch", "running", "batch")


def memory_for(by: str, recent: int) -> Memory | None:
    """None where rows are compared within their batch."""
    if by == "batch":
        return None
    return Stored() if by == "epoch" else Recent(recent)


def _quantiles(values: Tensor, shares: Sequence[float]) -> Tensor:
    """float32, one per share. numpy: torch's own takes 16 million values at most."""
    found = np.quantile(values.cpu().numpy(), list(shares)) if shares else []
    return torch.as_tensor(found, dtype=torch.float32, device=values.device)


def some_rows(rows: Tensor, limit: int | None, seed: int) -> Tensor:
    """The different rows among `rows`, ascending; at most `limit` of them, drawn by identity."""
    unique = torch.unique(rows)
    if limit is None or len(unique) <= limit:
        return unique
    draws = row_uniform(unique, seed, 0, "sample")
    return unique[torch.argsort(draws, stable=True)[:limit]].sort().values


def ranked(rows: Tensor, scores: Tensor, seed: int, epoch: int) -> Tensor:
    """int64 [B]: rows from the highest score down; draws by row break ties, so that their order says nothing."""
    draws = row_uniform(rows, seed, epoch, "ties")
    order = torch.argsort(draws, stable=True)
    return order[torch.argsort(scores[order], descending=True, stable=True)]


# ---- arm 1: which teacher (3.2) ------------------------------------------------------------------------------------


class UncertainTeachers(Selector):
    """Uncertain rows learn from the smaller teacher, certain rows from the larger one (DynamicKD, arm 1).

    Published for two teachers, S and L; generalised here to K in a row from the smallest to the largest:

    - `hard`: a row learns from one teacher: the most uncertain K-th of all rows from the smallest, and so on.
    - `soft-instance`: w_S = u, w_L = 1 - u. K teachers: (1 - u)(K - 1) is the row's place between teachers 0 … K - 1, and the two
      that it lies between share it in proportion (hat functions).
    - `soft`: the same for all rows, with c, the mean of u, in place of u.

    The released loss of `hard` is a mean over each half by itself, their sum twice our mean over all rows: weigh response by 2
    for its scale (recipes/papers/dynamickd-teacher.yaml). `soft` and `soft-instance` have the same scale as ours.

    Args:
        mode: `hard`, `soft` or `soft-instance`.
        by: what a row is compared with in `hard`, and what c is the mean of in `soft`. `epoch`: its own last score with those of
            all rows, fixed for an epoch, so that no batch changes a choice (our default); before the first epoch all rows are
            scored once, about a third of an epoch's operations. `running`: its score now with the last `recent` rows before this step
            (cheaper where a plan leaves most rows out). `batch`: with the rows of its batch, as published: it depends on the batch, and
            on its parts where it is cut.
        order: `size` (parameters; equal ones by held-out score), `quality` (held-out score), or names, the smallest first.
        forward: u from the training pass (`train`, with dropout, as published) or from a pass without dropout before each step
            (`clean`; about a third of a step's operations more).
        recent: rows of `running`, and of the median distance in regression.
    """

    name = "dynamic"
    narrows = False

    def __init__(
        self,
        mode: Literal["hard", "soft", "soft-instance"] = "hard",
        by: Literal["epoch", "running", "batch"] = "epoch",
        order: Literal["size", "quality"] | Sequence[str] = "size",
        forward: Literal["train", "clean"] = "train",
        recent: int = 512,
    ) -> None:
        one_of("mode", mode, ("hard", "soft", "soft-instance"))
        one_of("by", by, BY)
        one_of("forward", forward, ("train", "clean"))
        if isinstance(order, str):
            one_of("order", order, ("size", "quality"), "a list of all teachers, the smallest first")
        counts(recent=recent)
        self.mode, self.by, self.order, self.recent = mode, by, order, recent
        self.passes = Passes() if forward == "clean" else None
        self.first_passes = Passes(dropout=forward == "train")
        self.memory = memory_for(by, recent)
        self.places = torch.empty(0, dtype=torch.int64)  # teacher numbers, the smallest first
        self.averages, self.begun = Averages(), -1

    def setup(self, context: SelectionContext) -> None:
        self.regression, self.seed, self.sample = context.regression, context.seed, context.sample
        self.num_rows = context.num_rows
        self.places = torch.tensor(_smallest_first(self.order, context))
        if self.mode == "soft-instance" and not self.regression:  # u is all that it needs
            self.memory = None

    def keeps(self) -> list[int] | None:
        return None

    # ---- deciding

    def weights(self, view: StepView) -> Tensor:
        scores = self._scores(view)
        others = self._others(scores)
        if self.memory is not None:
            self.memory.add(view.keys, scores)
        u = self._unit(scores, others)
        self.averages.add("uncertainty/mean", u.sum(), len(u))
        if self.mode == "hard":
            weights = F.one_hot(self._place(view, scores, others), len(self.places)).float()
        elif self.mode == "soft":
            c = self._unit(others.values.to(u), others).mean()
            weights = hats(c.expand_as(u), len(self.places))
        else:
            weights = hats(u, len(self.places))
        out = torch.empty_like(weights)
        out[:, self.places.to(out.device)] = weights
        return out

    def _scores(self, view: StepView) -> Tensor:
        """float32 [b]: u; the distance from the teachers in regression."""
        said = outputs(view, self.passes)[0]
        if not self.regression:
            return entropy(said)
        assert view.teachers is not None, "teacher selectors are asked after the teachers"
        return distance(said, view.teachers)

    def _others(self, scores: Tensor) -> Memory:
        """What this step's scores are compared with: each other, as published, and in a step by hand before any epoch."""
        if self.memory is None or not len(self.memory.values):
            return Recent(len(scores), scores)
        return self.memory

    def _unit(self, scores: Tensor, others: Memory) -> Tensor:
        """u in [0, 1]."""
        return relative(scores, others.quantiles(0.5)) if self.regression else scores

    def _place(self, view: StepView, scores: Tensor, others: Memory) -> Tensor:
        """int64 [b]: which teacher of the row, 0 the smallest."""
        count, size = len(self.places), len(scores)
        if self.by == "batch":
            rank = torch.empty(size, dtype=torch.int64, device=scores.device)
            rank[ranked(view.keys, scores, view.seed, view.epoch)] = torch.arange(size, device=scores.device)
            ends = torch.tensor([k * size // count for k in range(1, count)], device=scores.device)
            return (rank.unsqueeze(1) >= ends).sum(1)  # [b, K - 1] → [b]; of one row the first half is empty
        bounds = others.quantiles(*(k / count for k in range(count - 1, 0, -1))).to(scores)
        if count > 1:
            self.averages.add("uncertainty/threshold", bounds.mean() * size, size)
        return (others.own(view.keys, scores).unsqueeze(1) < bounds).sum(1)

    # ---- remembering

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        if self.memory is None or epoch <= self.begun:  # resumed within this epoch
            return
        self.begun = epoch
        if not len(self.memory.values):
            self.memory.add(*self._first(probe))
            self.memory.end_step()
        self.memory.begin_epoch()

    def _first(self, probe: Probe) -> tuple[Tensor, Tensor]:
        """Rows and their scores before any step: all rows, or as many as are remembered."""
        limit = None if self.by == "epoch" else self.recent
        if self.regression:
            sample = self.sample(limit or self.num_rows)
            said = probe.run(sample.rows, self.first_passes)[0]
            return sample.rows, distance(said, sample.teachers)
        rows = some_rows(probe.keys, limit, self.seed)
        return rows, entropy(probe.run(rows, self.first_passes)[0])

    def observations(self) -> list[list[Any]]:
        return [] if self.memory is None else [self.memory.pending]

    def after_step(self, probe: Probe) -> None:
        if self.memory is not None:
            self.memory.end_step()

    def health(self) -> dict[str, float]:
        """uncertainty/mean; uncertainty/threshold: between the teachers of `hard` (its mean, where there are several)."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        memory = None if self.memory is None else self.memory.state_dict()
        return {"memory": memory, "begun": self.begun, "averages": _saved(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun, self.averages = int(state["begun"]), Averages(**state["averages"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])


def hats(u: Tensor, count: int) -> Tensor:
    """float32 [B, K], rows sum to 1: `u` [B] is shared by the two teachers that it lies between; u = 1 is teacher 0.

    For two teachers: (u, 1 - u).
    """
    place = (1 - u.clamp(0, 1)) * (count - 1)
    after = (place.unsqueeze(1) - torch.arange(count - 1, device=u.device)).clamp(0, 1)  # [B, K - 1]
    ends = after.new_ones(len(u), 1), after.new_zeros(len(u), 1)
    # the share that has come past teacher k - 1 but not past teacher k: differences of a row from 1 to 0, so the sum is 1
    return torch.cat([ends[0], after], dim=1) - torch.cat([after, ends[1]], dim=1)


def _smallest_first(order: str | Sequence[str], context: SelectionContext) -> list[int]:
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
            raise ValueError("order: quality needs rows held out of train, or give order: names, smallest first")
        return sorted(every, key=lambda k: scores[k])
    unknown = [name for name, size in zip(names, sizes, strict=True) if not size] if sizes else list(names)
    if unknown:
        raise ValueError(
            f"order: size, but the size of {', '.join(unknown)} is not known: set order: quality, or order: names, smallest first"
        )
    return sorted(every, key=lambda k: (sizes[k], scores[k] if scores else 0.0))


# ---- arm 2: which rows (3.3) ---------------------------------------------------------------------------------------


class UncertainRows(Selector):
    """The most uncertain share of the rows asks the teachers, or is trained on at all (DynamicKD, arm 2).

    What it costs, in training steps over all rows (c: a pass without gradient, 1/3 of a step's operations; teachers apart, which are asked on a share of r only):

    - `rest: labels`, as published: 1. The others learn from their labels. What the teachers say is a mean over the rows that ask.
    - `rest: skip`: c + r. All rows of a step are scored without gradient, the student is trained on the chosen ones.
    - `rest: plan`: r + c · pool / every, with stale scores: rows are ranked by an earlier pass, the others are never loaded.
      With `refresh: 1` scores are of the moment, as in `skip`, but each step has a whole batch: a share of r of the steps.

    Args:
        ratio: r, the share of the rows, in (0, 1]; never less than one row of a batch or plan.
        score: `entropy`, `margin` or `confidence` of the class probabilities; `spread` over dropout passes (any task); `random`, the
            control. Default: entropy; spread in regression, which has no classes.
        reverse: the least uncertain rows instead, another control.
        rest: what becomes of the others: `labels`, `skip` or `plan`.
        by: what a row is compared with under `labels` and `skip`. `batch`: the top max(1, ⌊r·B⌋) of its batch, as published, which
            depends on the batch (on the whole optimiser step where a pass is made for the scores; on the parts that it is run in
            where they come from the training pass). `running`: the last `recent` rows before this step. `epoch` (`labels` only):
            all rows' scores of the epoch before. These two depend on no batch, so a batch may have no row that asks.
        forward: scores from passes with dropout (`train`, as published) or without (`clean`). Default: from the training pass where it
            sees the row anyway, which is free; without dropout where a pass is made for the score.
        passes: dropout passes of `spread`.
        recent: rows of by: running.
        refresh: of a plan: `epoch`, or a number of optimiser steps after which the next rows are planned.
        pool: share of all rows that a plan chooses from, drawn anew for each; never less than it needs. Default: all for an epoch;
            for windows of steps those of an epoch share the rows among them, so that each row is looked at once per epoch.
        every: the pool is scored anew in every n-th plan. In between a row's last score counts, which a visit renews for free, and
            only rows without any score are run.
        warmup: the first so many plans draw their rows at random: an untrained student knows little of its uncertainty.
    """

    name = "uncertainty"

    def __init__(
        self,
        ratio: float = 0.5,
        score: Literal["entropy", "margin", "confidence", "spread", "random"] | None = None,
        reverse: bool = False,
        rest: Literal["labels", "skip", "plan"] = "labels",
        by: Literal["batch", "running", "epoch"] | None = None,
        forward: Literal["train", "clean"] | None = None,
        passes: int = 4,
        recent: int = 512,
        refresh: int | Literal["epoch"] = "epoch",
        pool: float | None = None,
        every: int = 1,
        warmup: int = 0,
    ) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio is {ratio}, expected a number in (0, 1]")
        one_of("score", score, (*SCORES, "random", None))
        one_of("rest", rest, ("labels", "skip", "plan"))
        one_of("by", by, (*BY, None))
        one_of("forward", forward, ("train", "clean", None))
        counts(recent=recent)
        if passes < 2:
            raise ValueError(f"passes is {passes}, expected 2 or more: the spread of one is 0")
        _check_plan(rest, by, refresh, pool, every, warmup, ratio)
        self.ratio, self.score, self.sign, self.rest = ratio, score, -1.0 if reverse else 1.0, rest
        self.by, self.forward, self.count = by or "batch", forward, passes
        self.refresh, self.pool, self.every, self.warmup = refresh, pool, every, warmup
        self.trains_rest, self.chooses_first = rest == "labels", rest == "skip"  # and more: see setup
        self.asked_share = ratio if rest == "labels" else 1.0
        self.window = None if refresh == "epoch" else refresh
        self.memory = memory_for("epoch" if rest == "plan" else self.by, recent)
        self.recent = recent
        self.probe: Probe | None = None  # of this epoch: a plan scores rows with it
        self.planned_at: tuple[int, int] | None = None  # epoch and window that were scored last
        self.averages, self.begun = Averages(), -1

    def setup(self, context: SelectionContext) -> None:
        score = self.score or ("spread" if context.regression else "entropy")
        if context.regression and score in ("entropy", "margin", "confidence"):
            raise ValueError(f"score is {score}, but a regression has no classes: use score: spread or random")
        if score == "spread" and self.forward == "clean":
            raise ValueError("score: spread is over dropout passes: leave forward: clean away")
        self.score, self.seed = score, context.seed
        self.own_passes = Passes(self.count if score == "spread" else 1, self._drops())
        self.passes = self.own_passes if self._looks_first() else None
        self.chooses_first = self.rest == "skip" or (self.rest == "labels" and self.passes is not None)
        self.compares = self.rest == "labels" and self.by == "batch" and self.ratio < 1 and not self.chooses_first

    def _drops(self) -> bool:
        return self.score == "spread" or self.forward == "train"

    def _looks_first(self) -> bool:
        """Whether a step's rows have to be run without gradient before it."""
        if not self._looks():
            return False
        return self.rest == "skip" or self.score == "spread" or self.forward == "clean"

    def _looks(self) -> bool:
        """Whether anything depends on a row's score in a step."""
        if self.score == "random" or self.ratio == 1:
            return False
        return self.rest != "plan" or self.every > 1  # else a plan scores everything anew

    # ---- within a step

    def select(self, view: StepView) -> Tensor:
        every = torch.ones(len(view.keys), dtype=torch.bool, device=view.keys.device)
        if self.ratio == 1 or (self.rest == "plan" and not self._looks()):
            return every
        scores = self._scores(view)
        if self.memory is not None and self.score != "random":
            self.memory.add(view.keys, scores)
        if self.rest == "plan":
            return every
        chosen = self._top(view, scores) if self.by == "batch" else self._above(view, scores)
        self._note(scores, chosen)
        return chosen

    def _scores(self, view: StepView) -> Tensor:
        """float32 [B]: the highest ones are chosen."""
        if self.score == "random":
            return row_uniform(view.keys, view.seed, view.epoch, "rows").float()
        return self.sign * self._uncertainty(outputs(view, self.passes))

    def _uncertainty(self, said: Tensor) -> Tensor:
        """float32 [B] of [P, B, C]."""
        found = SCORES[str(self.score)](said)
        if self.score == "spread" and len(found) and not bool(found.any()):
            raise MethodError(
                "row selector 'uncertainty': all dropout passes agree, as the student has no dropout: set train.dropout above 0, "
                "or another score"
            )
        return found

    def _top(self, view: StepView, scores: Tensor) -> Tensor:
        """bool [B]: max(1, ⌊r·B⌋) rows of the batch."""
        count = max(1, int(self.ratio * len(scores) + 1e-9))  # 0.29 · 100 is 28.999…
        chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        chosen[ranked(view.keys, scores, view.seed, view.epoch)[:count]] = True
        return chosen

    def _above(self, view: StepView, scores: Tensor) -> Tensor:
        """bool [B]: rows whose score is in the upper share of r of the earlier ones."""
        if self.score == "random":
            return scores >= 1 - self.ratio
        others: Memory = Recent(len(scores), scores)  # a step by hand, before any epoch
        if self.memory is not None and len(self.memory.values):
            others = self.memory
        return others.own(view.keys, scores) >= others.quantiles(1 - self.ratio).to(scores)

    # ---- a plan

    def planned(self, num_rows: int) -> int | None:
        return max(1, round(self.ratio * num_rows)) if self.rest == "plan" else None

    def plan(self, rows: np.ndarray, epoch: int, seed: int, window: Window | None = None) -> np.ndarray:
        planned = self.planned(len(rows))
        assert planned is not None
        window = window or Window(0, 1, planned)
        keys = torch.from_numpy(rows)
        pool = self._pool(keys, epoch, seed, window, planned)
        scores = self._stale(keys[pool], epoch, window, seed)
        best = ranked(keys[pool], scores, seed, epoch)[: window.rows]
        return np.sort(pool[best].numpy())

    def _pool(self, keys: Tensor, epoch: int, seed: int, window: Window, planned: int) -> Tensor:
        """int64 [n]: positions of the rows that a plan chooses from: a stretch of all rows in an order drawn for the epoch.

        The windows of an epoch have stretches that share all rows in proportion to what they choose; a given `pool` reaches
        further.
        """
        order = torch.argsort(row_uniform(keys, seed, epoch, "plan"), stable=True)
        last = window.number == window.of - 1
        before = planned - window.rows if last else window.number * window.rows
        start, end = (n * len(keys) // planned for n in (before, before + window.rows))
        share = end - start if self.pool is None else round(self.pool * len(keys))
        size = min(len(keys), max(window.rows, share))
        return order[(start + torch.arange(size)) % len(keys)]

    def _stale(self, keys: Tensor, epoch: int, window: Window, seed: int) -> Tensor:
        """float32 [n]: what is known of the rows of a pool."""
        number = epoch * window.of + window.number
        if self.score == "random" or number < self.warmup or window.rows == len(keys):
            return row_uniform(keys, seed, number, "rows").float()
        assert isinstance(self.memory, Stored)
        if self.planned_at != (epoch, window.number):  # else: resumed within this window
            self.memory.begin_epoch()  # what visits have told since
            anew = (number - self.warmup) % self.every == 0
            self._score(keys if anew else keys[self.memory.at(keys).isnan()])
            self.planned_at = epoch, window.number
            scores = self.memory.at(keys)
            self.averages.add(
                "uncertainty/score", scores.sum(), len(scores)
            )  # once: a resumed run plans the window again
        return self.memory.at(keys)

    def _score(self, rows: Tensor) -> None:
        """Run rows (int64 [n]) without gradient and remember their scores."""
        assert isinstance(self.memory, Stored)
        if self.probe is None:
            raise RuntimeError("plan was called before begin_epoch: there is no student to score rows with")
        rows = torch.unique(rows)
        if len(rows):
            self.memory.put(rows, self.sign * self._uncertainty(self.probe.run(rows, self.own_passes)))

    # ---- remembering

    def begin_epoch(self, probe: Probe, epoch: int) -> None:
        self.probe = probe
        if self.memory is None or self.rest == "plan" or epoch <= self.begun:
            return
        self.begun = epoch
        if not len(self.memory.values) and self.score != "random":
            rows = some_rows(probe.keys, None if self.by == "epoch" else self.recent, self.seed)
            self.memory.add(rows, self.sign * self._uncertainty(probe.run(rows, self.own_passes)))
            self.memory.end_step()
        self.memory.begin_epoch()

    def observations(self) -> list[list[Any]]:
        return [] if self.memory is None else [self.memory.pending]

    def after_step(self, probe: Probe) -> None:
        if self.memory is not None:
            self.memory.end_step()

    def _note(self, scores: Tensor, chosen: Tensor) -> None:
        self.averages.add("uncertainty/score", scores.sum(), len(scores))
        self.averages.add("uncertainty/score_selected", (scores * chosen).sum(), chosen.sum())
        self.averages.add("rows/selected", chosen.sum(), len(scores))

    def health(self) -> dict[str, float]:
        """rows/selected: share of the rows that were looked at; uncertainty/score, uncertainty/score_selected: their mean score,
        and that of those selected (with `reverse` both negative)."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        memory = None if self.memory is None else self.memory.state_dict()
        planned_at = None if self.planned_at is None else list(self.planned_at)
        return {"memory": memory, "planned_at": planned_at, "begun": self.begun, "averages": _saved(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun, self.averages = int(state["begun"]), Averages(**state["averages"])
        at = state["planned_at"]
        self.planned_at = None if at is None else (int(at[0]), int(at[1]))
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])


def _check_plan(
    rest: str, by: str | None, refresh: int | str, pool: float | None, every: int, warmup: int, ratio: float
) -> None:
    """Refuse options that would be ignored or that no plan can follow."""
    if refresh != "epoch" and (not isinstance(refresh, int) or isinstance(refresh, bool) or refresh < 1):
        raise ValueError(f"refresh is {refresh!r}, expected 'epoch' or a number of optimiser steps")
    counts(every=every)
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}, expected 0 or more plans")
    if pool is not None and not 0 < pool <= 1:
        raise ValueError(f"pool is {pool}, expected a number in (0, 1]")
    if rest != "plan":
        given = {"refresh": refresh != "epoch", "pool": pool is not None, "every": every != 1, "warmup": warmup}
        ignored = [option for option, is_given in given.items() if is_given]
        if ignored:
            raise ValueError(f"{', '.join(ignored)}: of a plan only: expected rest: plan with it")
        if rest == "skip" and by == "epoch":
            raise ValueError("by: epoch with rest: skip would never score a skipped row again: use rest: plan")
    elif by is not None:
        raise ValueError(f"by is {by!r}, but a plan ranks all rows of its pool: leave by away with rest: plan")
    elif pool is not None and refresh == "epoch" and pool < ratio:
        raise ValueError(f"pool is {pool}, but {ratio} of all rows are to be chosen from it: expected more")


# ---- arm 3: which knowledge (3.4) ----------------------------------------------------------------------------------


class UncertainWeights(Selector):
    """Certain rows copy the teachers' outputs, uncertain rows their internals (DynamicKD, arm 3).

    v_labels = 1; v_response = 1 - u(i); every other kind (feature, relation, similarity): u(i). So outputs and internals weigh 1
    together in all three strategies; the released code's static weights weigh 2, and normalise hidden states along another axis.

    Args:
        strategy: `uncertainty`; `uncertainty-r`, with u and 1 - u swapped (control); `none`, the same share for all rows (control).
        share: of the internals in `none`, in place of u.
        weights: kind → factor; a kind that is not named has 1 (the released code's alphas).
        forward: as in arm 1.
        recent: in regression, the rows whose median distance is u = 1/2.
    """

    name = "uncertainty"

    def __init__(
        self,
        strategy: Literal["uncertainty", "uncertainty-r", "none"] = "uncertainty",
        share: float = 0.5,
        weights: dict[str, float] | None = None,
        forward: Literal["train", "clean"] = "train",
        recent: int = 512,
    ) -> None:
        one_of("strategy", strategy, ("uncertainty", "uncertainty-r", "none"))
        one_of("forward", forward, ("train", "clean"))
        counts(recent=recent)
        shares(share=share)
        self.strategy, self.share, self.by_kind = strategy, share, dict(weights or {})
        self.passes = Passes() if forward == "clean" and strategy != "none" else None
        self.memory = Recent(recent)
        self.averages = Averages()

    def setup(self, context: SelectionContext) -> None:
        kinds = context.kinds
        unknown = [kind for kind in self.by_kind if kind not in kinds]
        if unknown:
            raise ValueError(f"weights name {unknown}, but the method copies {list(kinds)}")
        internals = [kind for kind in kinds if kind not in ("labels", "response")]
        if "response" not in kinds or not internals:
            raise ValueError(
                f"weighs the teachers' outputs against their internals, but the method copies {', '.join(kinds)}: add knowledge: "
                "{labels: {}, response: {}, feature: {}}, or use loss_weights: fixed"
            )
        self.regression = context.regression
        self.factors = torch.tensor([float(self.by_kind.get(kind, 1.0)) for kind in kinds])
        self.is_response = torch.tensor([kind == "response" for kind in kinds])
        self.is_internal = torch.tensor([kind in internals for kind in kinds])

    def weights(self, view: StepView) -> Tensor:
        u = self._u(view)
        self.averages.add("uncertainty/mean", u.sum(), len(u))
        if self.strategy == "none":
            u = torch.full_like(u, self.share)
        inner = (1 - u if self.strategy == "uncertainty-r" else u).unsqueeze(1)  # [B, 1]
        factors, response, internal = (t.to(u.device) for t in (self.factors, self.is_response, self.is_internal))
        return factors * torch.where(internal, inner, torch.where(response, 1 - inner, 1.0))  # [B, M]

    def _u(self, view: StepView) -> Tensor:
        """float32 [B] in [0, 1]."""
        said = outputs(view, self.passes)[0]
        if not self.regression:
            return entropy(said)
        if view.teachers is None:  # no row of this batch asked: only labels weigh, whatever u
            return torch.full((len(view.keys),), 0.5, device=view.keys.device)
        asked = ~view.teachers.isnan().any(-1).any(-1)
        distances = distance(said, view.teachers)
        self.memory.add(view.keys[asked], distances[asked])
        memory = self.memory if len(self.memory.values) else Recent(1, distances[asked])
        return relative(distances, memory.quantiles(0.5))  # in the first step the median is that of its own rows

    def observations(self) -> list[list[Any]]:
        return [self.memory.pending] if self.regression else []

    def after_step(self, probe: Probe) -> None:
        self.memory.end_step()

    def health(self) -> dict[str, float]:
        """uncertainty/mean; the weights themselves are logged as knowledge/v_KIND."""
        return self.averages.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "averages": _saved(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.averages = Averages(**state["averages"])


def _saved(averages: Averages) -> dict[str, Any]:
    return {"sums": dict(averages.sums), "counts": dict(averages.counts)}
