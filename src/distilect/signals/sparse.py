"""Outputs over a vocabulary, kept sparse: the likeliest tokens and the rest's mass, or unbiased samples.

A unit is a token of a completion. Its classes are its *candidates*: the gold token, the tokens that some teacher named, and all other
tokens as one class, so that no tensor has a vocabulary's width for every unit and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distilect.data.units import splitmix64

Packed = NDArray[np.uint8]


@dataclass(frozen=True)
class SparseOutputs:
    """What a teacher says of U units.

    Attributes:
        ids: int64 [U, k], distinct in a row; -1 where unused.
        log_probs: float32 [U, k]; -inf where unused.
        rest: float32 [U], log of the mass of all tokens that are not named; -inf of samples.
    """

    ids: Tensor
    log_probs: Tensor
    rest: Tensor


def top(logits: Tensor, k: int) -> SparseOutputs:
    """The k likeliest tokens of logits [U, V], and the mass of all others; fewer of a smaller vocabulary."""
    log_probs = logits.float().log_softmax(-1)
    values, ids = log_probs.topk(min(k, log_probs.shape[1]), dim=-1)
    rest = log_probs.scatter(1, ids, -torch.inf).logsumexp(-1)  # not log(1 - sum), which cancels
    unused = (0, k - values.shape[1])
    ids = ids.masked_fill(values == -torch.inf, -1)
    return SparseOutputs(F.pad(ids, unused, value=-1), F.pad(values, unused, value=-torch.inf), rest)


def draw(logits: Tensor, keys: Tensor, seed: int, n: int) -> SparseOutputs:
    """n draws from softmax(logits) per unit, with the log of each token's share of the draws.

    The share of a token has its probability as expectation, so the cross-entropy and its gradient are unbiased (Anshumann et al., 2025,
    *Sparse Logit Sampling*, arXiv 2503.16870), at temperature 1: a softened distribution is not estimated by softened shares. Ours:
    draw i comes from the i-th of n equal parts of the distribution, which keeps the expectation and never has more variance.

    Args:
        logits: [U, V].
        keys: int64 [U], identities of the units: draws depend on these and on the seed, not on the order or number of units.

    Returns:
        n columns; ids ascend, unused columns come last.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    cumulative /= cumulative[:, -1:].clone()
    points = (torch.arange(n) + _uniform(keys, seed, n)) / n
    return _counted(torch.searchsorted(cumulative, points.to(logits.device), right=True))


def _uniform(keys: Tensor, seed: int, n: int) -> Tensor:
    """float64 [U, n] in [0, 1), a function of (key, seed) and the column."""
    start = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    state = splitmix64(keys.cpu().numpy().view(np.uint64) ^ start)[:, None]
    bits = splitmix64(state ^ splitmix64(np.arange(n, dtype=np.uint64)))
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) / float(1 << 53))


def _counted(drawn: Tensor) -> SparseOutputs:
    """Distinct ids and their shares, from draws int64 [U, n] that ascend in each row."""
    units, n = drawn.shape
    new = torch.ones_like(drawn, dtype=torch.bool)
    new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    place = new.long().cumsum(1) - 1  # [U, n], the column of each draw's token
    counts = torch.zeros_like(drawn).scatter_add_(1, place, torch.ones_like(drawn))
    ids = torch.full_like(drawn, -1).scatter_(1, place, drawn)
    rest = torch.full((units,), -torch.inf, device=drawn.device)
    return SparseOutputs(ids, counts.float().log() - math.log(n), rest)


# ---- on disk -------------------------------------------------------------------------------------------------------


def pack_top(outputs: SparseOutputs, vocabulary: int) -> Packed:
    """uint8 [U, bytes]: ids in as few bits as the vocabulary needs, then log-probabilities and the rest's in half precision."""
    values = torch.cat([outputs.log_probs, outputs.rest.unsqueeze(1)], 1)
    with np.errstate(over="ignore"):  # below -65504 there is -inf
        halves = values.cpu().numpy().astype("<f2")
    return np.concatenate([_to_bits(outputs.ids.clamp_min(0), vocabulary), halves.view(np.uint8)], axis=1)


def unpack_top(packed: Packed, vocabulary: int, k: int) -> SparseOutputs:
    """What `pack_top` packed, with k columns."""
    split = packed.shape[1] - 2 * (k + 1)
    values = torch.from_numpy(np.ascontiguousarray(packed[:, split:]).view("<f2").astype(np.float32))
    ids = _from_bits(packed[:, :split], vocabulary, k)
    return SparseOutputs(ids.masked_fill(values[:, :-1] == -torch.inf, -1), values[:, :-1], values[:, -1])


def pack_draws(outputs: SparseOutputs, vocabulary: int) -> Packed:
    """uint8 [U, bytes]: the id of every draw. A token's count is how often its id is there."""
    n = outputs.ids.shape[1]
    counts = (outputs.log_probs.exp() * n).round().long()
    return _to_bits(outputs.ids.flatten().repeat_interleave(counts.flatten()).reshape(-1, n), vocabulary)


def unpack_draws(packed: Packed, vocabulary: int, n: int) -> SparseOutputs:
    """What `pack_draws` packed, of n draws."""
    return _counted(_from_bits(packed, vocabulary, n))


def _to_bits(ids: Tensor, vocabulary: int) -> Packed:
    shifts = np.arange(_id_bits(vocabulary))
    bits = (ids.cpu().numpy()[:, :, None] >> shifts) & 1  # [U, k, bits]
    return np.packbits(bits.astype(np.uint8).reshape(len(bits), ids.shape[1] * len(shifts)), axis=1)


def _from_bits(packed: Packed, vocabulary: int, k: int) -> Tensor:
    """int64 [U, k]."""
    shifts = np.arange(_id_bits(vocabulary))
    bits = np.unpackbits(packed, axis=1, count=k * len(shifts)).reshape(len(packed), k, len(shifts))
    return torch.from_numpy((bits.astype(np.int64) << shifts).sum(-1))


def id_bytes(count: int, vocabulary: int) -> int:
    """What so many packed ids take."""
    return math.ceil(count * _id_bits(vocabulary) / 8)


def _id_bits(vocabulary: int) -> int:
    return max(1, (vocabulary - 1).bit_length())


# ---- candidates ----------------------------------------------------------------------------------------------------


def candidates(labels: Tensor, teachers: Sequence[SparseOutputs]) -> Tensor:
    """The tokens that are classes of their own on each unit: gold first, then those that some teacher named, ascending.

    Args:
        labels: int64 [U], gold tokens.

    Returns:
        int64 [U, m], distinct; -1 after the last of a unit with fewer.
    """
    gold, none = labels.unsqueeze(1), torch.iinfo(torch.int64).max
    named = torch.cat([gold[:, :0], *(teacher.ids for teacher in teachers)], 1)
    named = named.masked_fill((named < 0) | (named == gold), none).sort(1).values
    named[:, 1:] = named[:, 1:].masked_fill(named[:, 1:] == named[:, :-1], none)
    named = named.sort(1).values
    width = int((named != none).sum(1).max()) if named.numel() else 0
    return torch.cat([gold, named[:, :width].masked_fill(named[:, :width] == none, -1)], 1)


def on_candidates(outputs: SparseOutputs, ids: Tensor, vocabulary: int) -> Tensor:
    """A teacher's log-probabilities of candidates and, last, of all other tokens together; a unit's probabilities sum to 1.

    A token that the teacher did not name has an equal share of its rest.

    Args:
        ids: int64 [U, m], from `candidates`: every token that the teacher named is among them.

    Returns:
        float32 [U, m + 1]; -inf where there is no candidate.
    """
    known, order = outputs.ids.sort(1)
    place = torch.searchsorted(known, ids).clamp_max(known.shape[1] - 1)  # [U, m]
    named = (known.gather(1, place) == ids) & (ids >= 0)
    unnamed = ~named & (ids >= 0)
    others = vocabulary - (outputs.ids >= 0).sum(1)  # [U], tokens that share the rest
    share = outputs.rest - others.clamp_min(1).log()
    values = torch.where(named, outputs.log_probs.gather(1, order.gather(1, place)), share.unsqueeze(1))
    last = share + (others - unnamed.sum(1)).log()
    return torch.cat([values.masked_fill(ids < 0, -torch.inf), last.unsqueeze(1)], 1).log_softmax(1)
