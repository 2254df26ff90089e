"""A model's outputs on a table, and its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilect.data.batches import scoring_batches
from distilect.evaluation.modes import eval_mode
from distilect.models.language import candidate_logits, output_head, token_pass, token_scores
from distilect.models.precision import autocast
from distilect.models.words import per_unit, split_words
from distilect.tasks import TOKEN_OUTPUTS, has_label

if TYPE_CHECKING:
    from distilect.data.encoding import Encoded
    from distilect.data.table import Table
    from distilect.tasks import Task

Candidates = Callable[[NDArray[np.int64]], torch.Tensor]  # rows → int64 [u, m], of their units


def predict(
    model: nn.Module,
    encoded: Encoded,
    *,
    rows: NDArray[np.int64] | None = None,
    max_tokens: int = 16384,
    precision: str = "auto",
    dropout: bool = False,
    candidates: Candidates | None = None,
) -> NDArray[np.float32]:
    """Logits [N, C] float32 of all rows, or of some in the order given; of a word table [U, C], of their words; of a language model
    [U, 4], `TOKEN_OUTPUTS` of their units. The model's device and training mode are left as they were.

    Rows are run by length, in batches of at most `max_tokens` padded tokens: hardly any padding is computed.

    Args:
        candidates: of a language model, the tokens that are its classes: [U, m + 1] (`models.language.candidate_logits`) instead.
    """
    rows = np.arange(len(encoded)) if rows is None else rows
    batches = scoring_batches(encoded.lengths[rows], max_tokens)
    parts = run_batches(model, encoded, [rows[batch] for batch in batches], precision, dropout, candidates=candidates)
    if not parts:
        outputs = len(TOKEN_OUTPUTS) if encoded.causal else getattr(getattr(model, "config", None), "num_labels", 1)
        return np.zeros((0, outputs), dtype=np.float32)
    values = torch.cat(parts).cpu().numpy()  # one transfer, after all batches
    order = np.concatenate(batches)
    if encoded.words is not None:
        order = encoded.words.units.take(rows).of(order)
    logits = np.empty_like(values)
    logits[order] = values
    return logits


def run_batches(
    model: nn.Module,
    encoded: Encoded,
    batches: Sequence[NDArray[np.int64]],
    precision: str,
    dropout: bool = False,
    before: Callable[[int], object] = lambda number: None,
    candidates: Candidates | None = None,
) -> list[torch.Tensor]:
    """What `predict` gives of each batch of rows, float32 [b, C] or [u, C], without gradient; `before` is called with its number.

    The model's device and training mode are left as they were.
    """
    device = next(model.parameters()).device
    # sharded parameters (FSDP2) are gathered in each pass, which inference tensors do not allow
    sharded = hasattr(next(model.parameters()), "full_tensor")
    off = torch.no_grad if sharded else torch.inference_mode
    parts: list[torch.Tensor] = []
    with eval_mode(model, dropout=dropout), off(), autocast(precision, device):
        for number, batch in enumerate(batches):
            before(number)
            inputs, words = split_words({key: value.to(device) for key, value in encoded.collate(batch).items()})
            if encoded.causal and words is not None:
                named = None if candidates is None else candidates(batch).to(device)
                parts.append(_token_outputs(model, inputs, words, named))
            else:
                parts.append(per_unit(model(**inputs).logits.float(), words))
    return parts


def _token_outputs(
    model: Any, inputs: dict[str, torch.Tensor], words: torch.Tensor, candidates: torch.Tensor | None
) -> torch.Tensor:
    """float32 [u, C] of a language model at the units of a batch."""
    found = token_pass(model, inputs, words, model, hidden=False)
    if candidates is None:
        return token_scores(found.states, output_head(model), found.gold)
    return candidate_logits(found.states, output_head(model), candidates)


def evaluate(
    model: nn.Module, encoded: Encoded, table: Table, task: Task, *, max_tokens: int = 16384, precision: str = "auto"
) -> dict[str, float]:
    """The task's metrics of `model` on the labelled rows of `table`; `encoded` is its tokens."""
    logits = predict(model, encoded, max_tokens=max_tokens, precision=precision)
    return task.score(logits, table.labels, offsets=table.offsets)


def share_kept(score: float, teacher: float | None, chance: float = 0.0) -> float | None:
    """The student's score as a share of its teacher's, both above `chance`; None where that is unknown or not positive."""
    return None if teacher is None or teacher <= chance else (score - chance) / (teacher - chance)


@dataclass(frozen=True)
class Chance:
    """What a model scores that knows nothing of the rows.

    Attributes:
        score: the best that one prediction for all rows scores: the majority class for accuracy, 0 for correlations.
        limit: 95 % of models that know nothing score below it, about.
    """

    score: float
    limit: float


def chance_of(task: Task, labels: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> Chance:
    """Chance in the task's primary metric.

    Args:
        labels: [N] class indexes or scores, of rows of which some may have none; of words [U].
        offsets: of a word table, where the words of each row begin.
    """
    if task.kind == "causal-lm":
        return Chance(0.0, 0.0)
    known = labels if offsets is not None else labels[has_label(labels)]
    constants: list[Any] = np.eye(len(task.labels)).tolist()
    if task.kind == "regression":
        constants = [[float(known.mean())]]
    elif task.kind == "multi-label":  # the most frequent label, the two most frequent ones, …
        frequent = np.argsort(-(known == 1).sum(axis=0), kind="stable")
        constants = [np.isin(np.arange(len(frequent)), frequent[: k + 1]) * 1.0 for k in range(len(frequent))]
    outputs = [np.tile(np.array(one), (len(known), 1)) for one in constants]
    score = max(task.score(one, known, offsets=offsets)[task.primary] for one in outputs)
    variance = 1.0 if task.primary in ("matthews", "pearson", "spearman") else max(0.0, score * (1 - score))
    rows = len(known) if offsets is None else len(offsets) - 1  # the words of a row are not independent
    return Chance(score, score + 1.645 * math.sqrt(variance / rows))
