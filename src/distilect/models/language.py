"""Language models: what is said of the token that follows, read at each unit, never for all positions and tokens at once.

The outputs of a unit are log-probabilities over its *candidates*: the token that stands there, those that some teacher named, and all other
tokens together as one class. To each of them the unit's entropy over the whole vocabulary is added, as a share of its largest value: a
constant, which no softmax sees, and which selectors read (`selection.view.normalised_entropy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from distilect.errors import DistilectError
from distilect.models.layers import row_of_tokens
from distilect.models.token_outputs import token_outputs
from distilect.models.words import per_unit

CHUNK = 1 << 24  # numbers of the logits that are there at a time


@dataclass(frozen=True)
class TokenPass:
    """A pass of a language model, read at its units.

    Attributes:
        states: [U, H], what the output layer reads.
        gold: int64 [U], the token that follows.
        outputs: of the model itself; its logits are of each row's last position alone.
    """

    states: Tensor
    gold: Tensor
    outputs: Any


def is_language_model(model: Any) -> bool:
    """Whether a model of transformers says which token follows."""
    try:
        return model.get_output_embeddings() is not None
    except (AttributeError, NotImplementedError):
        return False


def token_pass(model: nn.Module, inputs: Mapping[str, Tensor], words: Tensor, plain: Any, hidden: bool) -> TokenPass:
    """Run `model`, the language model `plain` or its wrapper.

    Args:
        words: int64 [B, W], where the units are read (`data.Encoded.collate`).
        hidden: with hidden states.
    """
    few = {"logits_to_keep": 1} if "logits_to_keep" in signature(plain.forward).parameters else {}
    with _last_states(plain) as kept:
        outputs = model(**inputs, use_cache=False, output_hidden_states=hidden, **few)
    gold = inputs["input_ids"].flatten()[words[words >= 0] + 1]
    return TokenPass(per_unit(kept[-1], words), gold, outputs)


def candidate_logits(states: Tensor, head: nn.Linear, candidates: Tensor) -> Tensor:
    """float32 [U, m + 1]: log-probabilities of candidates (int64 [U, m], -1: none) and of the rest, plus the unit's share of entropy.

    Exact over the whole vocabulary; -inf where there is no candidate. The entropy has no gradient.
    """
    log_probs, entropy, _ = token_outputs(states, head, candidates)
    return log_probs + entropy_share(entropy, len(head.weight)).unsqueeze(1)


def entropy_share(entropy: Tensor, vocabulary: int) -> Tensor:
    """H / log V: 0 certain, 1 uniform."""
    return entropy / math.log(vocabulary)


def token_scores(states: Tensor, head: nn.Linear, gold: Tensor) -> Tensor:
    """float32 [U, 4]: `tasks.TOKEN_OUTPUTS` of each unit."""
    size = max(1, CHUNK // len(head.weight))
    parts = [_scores(head(some).float(), own) for some, own in zip(states.split(size), gold.split(size), strict=True)]
    return torch.cat(parts) if parts else states.new_zeros(0, 4, dtype=torch.float32)


def _scores(logits: Tensor, gold: Tensor) -> Tensor:
    """[u, V] → [u, 4]; overwrites the logits."""
    total, best = logits.logsumexp(1), logits.argmax(1)
    of_gold = logits.gather(1, gold.unsqueeze(1)).squeeze(1)
    logits.scatter_(1, gold.unsqueeze(1), -torch.inf)
    other, place = logits.max(1)
    logits.scatter_(1, place.unsqueeze(1), -torch.inf)
    rest = logits.logsumexp(1)
    return torch.stack([of_gold - total, other - total, rest - total, best.float()], dim=1)


def output_head(model: Any) -> nn.Linear:
    """The layer whose outputs are the model's logits."""
    head: nn.Linear = model.get_output_embeddings()
    return head


def check_language_model(model: Any, missing: list[str], who: str, error: type[DistilectError]) -> None:
    """Refuse a checkpoint that is no language model, that reads what follows, or whose logits are not what its output layer says of its
    last states.

    Args:
        missing: weights that the checkpoint lacks.

    Raises:
        error: names the model and what to do.
    """
    remedy = "it is no language model; take a checkpoint that was saved as one"
    other = [name for name in model.config.architectures or () if "Classification" in str(name)]
    if missing or other:  # GPT-2's output layer is its embeddings, which a classifier has too
        lacks = f"lacks {', '.join(missing[:3])}" if missing else f"is a {other[0]}"
        raise error(f"{who} {lacks}: {remedy}")
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise error(f"{who}: {type(model).__name__} has no linear output layer: take another language model")
    row = {name: values.to(next(model.parameters()).device) for name, values in row_of_tokens(model).items()}
    training = model.training
    changed = {**row, "input_ids": torch.cat([row["input_ids"][:, :-1], row["input_ids"][:, :1]], dim=1)}
    with torch.no_grad(), _last_states(model.eval()) as kept:
        logits = model(**row, use_cache=False).logits.float()
        expected = output_head(model)(kept[-1]).float()
        earlier = model(**changed, use_cache=False).logits.float()[:, :-1]
    model.train(training)
    if not torch.allclose(logits[:, :-1], earlier, rtol=1e-3, atol=1e-3):
        raise error(f"{who}: {type(model).__name__} reads the tokens that follow: {remedy}")
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3):
        raise error(
            f"{who}: {type(model).__name__} changes its logits after the output layer (scaled or capped), which is not supported: take a "
            "model of another family"
        )


@contextmanager
def _last_states(plain: Any) -> Iterator[list[Tensor]]:
    """Yields a list that a pass inside fills with the last hidden states, [B, T, H], as the output layer reads them."""
    kept: list[Tensor] = []
    handle = plain.base_model.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    try:
        yield kept
    finally:
        handle.remove()
