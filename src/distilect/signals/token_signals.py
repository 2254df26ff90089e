"""What is kept of a language model's outputs at a token, packed into some 50 bytes, and how several teachers' become one axis.

Of each unit these are exact: the log-probability of the gold token and of the likeliest other one, and the entropy. Of the tokens that are
left the likeliest and the mass of the rest are kept, or unbiased draws (`signals.tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilect.config import TokenSignalConfig
from distilect.models import CHUNK, entropy_share
from distilect.signals.sparse import (
    Packed,
    SparseOutputs,
    candidates,
    draw,
    id_bytes,
    on_candidates,
    pack_draws,
    pack_top,
    top,
    unpack_draws,
    unpack_top,
)

TOP, DRAWS = 10, 16  # at most 50 bytes a token with up to 2^18 different tokens


@dataclass(frozen=True)
class TokenFormat:
    """How the outputs of a teacher are kept.

    Args:
        config: what is kept.
        vocabulary: tokens that there are; a model's output layer may have more.
        seed: of draws.
    """

    config: TokenSignalConfig
    vocabulary: int
    seed: int = 0

    @property
    def top(self) -> int:
        """Tokens with a log-probability of their own, besides the gold one."""
        return (self.config.count or TOP) if self.config.keep == "top" else 1

    @property
    def draws(self) -> int:
        return (self.config.count or DRAWS) if self.config.keep == "samples" else 0

    @property
    def others(self) -> int:
        """Tokens that are named besides the gold one, at most."""
        return self.top + self.draws

    @property
    def width(self) -> int:
        """Bytes of a unit."""
        return id_bytes(self.top, self.vocabulary) + 2 * (self.top + 1) + id_bytes(self.draws, self.vocabulary) + 4

    # ---- from a model's outputs ------------------------------------------------------------------------------------

    @torch.no_grad()
    def pack(self, states: Tensor, head: nn.Linear, gold: Tensor, keys: Tensor) -> Packed:
        """uint8 [U, bytes] of U units; the logits of some of them are there at a time.

        Args:
            states: [U, H], what the output layer reads; gold: int64 [U]; keys: int64 [U], identities that draws depend on.
        """
        size = max(1, CHUNK // len(head.weight))
        parts = zip(states.split(size), gold.split(size), keys.split(size), strict=True)
        found = [self._packed(head(some)[:, : self.vocabulary].float(), *own) for some, *own in parts]
        return np.concatenate([np.zeros((0, self.width), np.uint8), *found])

    def _packed(self, logits: Tensor, gold: Tensor, keys: Tensor) -> Packed:
        """Of logits [u, V], which are overwritten."""
        log_probs = logits.log_softmax(1)
        exact = torch.stack([log_probs.gather(1, gold.unsqueeze(1)).squeeze(1), _entropy(log_probs)], dim=1)
        log_probs.scatter_(1, gold.unsqueeze(1), -torch.inf)
        left = log_probs.logsumexp(1)  # of the mass without the gold token
        named = top(log_probs, self.top)
        named = SparseOutputs(named.ids, named.log_probs + left.unsqueeze(1), named.rest + left)
        parts = [pack_top(named, self.vocabulary)]
        if self.draws:
            rest = log_probs.scatter_(1, named.ids.clamp_min(0), -torch.inf)
            parts.append(pack_draws(draw(_proper(rest), keys, self.seed, self.draws), self.vocabulary))
        return np.concatenate([*parts, _halves(exact)], axis=1)

    # ---- and back --------------------------------------------------------------------------------------------------

    def unpack(self, packed: Packed, gold: Tensor) -> TokenOutputs:
        """What `pack` packed; `gold` int64 [U]."""
        exact = torch.from_numpy(np.ascontiguousarray(packed[:, -4:]).view("<f2").astype(np.float32))
        split = packed.shape[1] - 4 - id_bytes(self.draws, self.vocabulary)
        named = unpack_top(packed[:, :split], self.vocabulary, self.top)
        ids, log_probs, rest = [gold.unsqueeze(1), named.ids], [exact[:, :1], named.log_probs], named.rest
        if self.draws:
            drawn = unpack_draws(packed[:, split:-4], self.vocabulary, self.draws)
            lost = rest.unsqueeze(1) == -torch.inf  # nothing was left to draw from
            ids.append(drawn.ids.masked_fill(lost, -1))
            log_probs.append((drawn.log_probs + rest.unsqueeze(1)).masked_fill(lost, -torch.inf))
            rest = torch.full_like(rest, -torch.inf)
        return TokenOutputs(SparseOutputs(torch.cat(ids, 1), torch.cat(log_probs, 1), rest), exact[:, 1], self)


@dataclass(frozen=True)
class TokenOutputs:
    """What a teacher says of U units.

    Attributes:
        sparse: tokens that it named, the gold one first.
        entropy: float32 [U], in nats over the vocabulary.
        format: how it was kept.
    """

    sparse: SparseOutputs
    entropy: Tensor
    format: TokenFormat

    def scores(self) -> Tensor:
        """float32 [U, 4]: `tasks.TOKEN_OUTPUTS`."""
        gold, other = self.sparse.log_probs[:, 0], self.sparse.log_probs[:, 1]
        rest = torch.log1p(-(gold.exp() + other.exp()).clamp_max(1.0))
        best = torch.where(gold >= other, self.sparse.ids[:, 0], self.sparse.ids[:, 1])
        return torch.stack([gold, other, rest, best.float()], dim=1)


def on_one_axis(teachers: Sequence[TokenOutputs]) -> tuple[Tensor, Tensor]:
    """Candidates, int64 [U, m], and the teachers' outputs on them, float32 [U, K, m + 1]; m depends on the teachers alone.

    To a unit's log-probabilities its share of entropy is added, as to a student's (`models.language`).
    """
    ids = candidates(teachers[0].sparse.ids[:, 0], [teacher.sparse for teacher in teachers])
    width = 1 + sum(teacher.format.others for teacher in teachers)
    ids = torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=-1)
    found = []
    for teacher in teachers:
        log_probs = on_candidates(teacher.sparse, ids, teacher.format.vocabulary)
        found.append(log_probs + entropy_share(teacher.entropy, teacher.format.vocabulary).unsqueeze(1))
    return ids, torch.stack(found, dim=1)


def broken(packed: Any) -> NDArray[np.bool_]:
    """bool [U]: units whose outputs were no finite numbers."""
    exact = np.ascontiguousarray(packed[:, -4:]).view("<f2")
    return np.asarray(np.isnan(exact).any(axis=1))


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(1)


def _proper(log_probs: Tensor) -> Tensor:
    """The same with some distribution where nothing is left; it is not used."""
    nothing = (log_probs == -torch.inf).all(1, keepdim=True)
    return torch.where(nothing, torch.zeros_like(log_probs), log_probs)


def _halves(values: Tensor) -> Packed:
    """float32 [U, n] → uint8 [U, 2 n], in half precision."""
    with np.errstate(over="ignore"):  # below -65504 there is -inf
        return values.cpu().numpy().astype("<f2").view(np.uint8).reshape(len(values), -1)
