"""A language model's outputs on candidate tokens, and their gradient, without the logits of all positions at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_NUMBERS = 1 << 23  # of a chunk's logits: 32 MB for these, as much for their exponentials
_TINY = torch.finfo(torch.float32).tiny


def token_outputs(
    hidden: Tensor, head: nn.Linear, ids: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact log-probabilities of candidate tokens and of all other tokens together; differentiable in hidden states and the head.

    The logits [chunk, V] of some positions at a time are computed, and once more in the backward pass.

    Args:
        hidden: [U, H], what the head reads of U positions.
        head: the output layer, [V, H] with or without bias. Logits that a model scales or caps after it are not these.
        ids: int64 [U, m], distinct in a row; -1: no candidate, never in the first column.
        chunk: positions at a time; default: some 32 MB of logits.

    Returns:
        log_probs: float32 [U, m + 1], last the other tokens; -inf where there is no candidate, or no other token.
        entropy: float32 [U], in nats over the vocabulary, without gradient.
        best: int64 [U], the likeliest token.
    """
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    if torch.is_autocast_enabled(hidden.device.type):  # here, because autocast ends before the backward pass
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    size = chunk or max(1, _NUMBERS // len(weight))
    found: tuple[Tensor, Tensor, Tensor] = _TokenOutputs.apply(hidden, weight, bias, ids, size)
    return found


class _TokenOutputs(torch.autograd.Function):
    """Keeps hidden states and the head; of a chunk's logits, whatever the backward pass needs is computed again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, ids)
        ctx.size = size
        chunks = zip(hidden.split(size), ids.split(size), strict=True)
        log_probs, entropy, best = zip(*(_outputs(_logits(h, weight, bias), i) for h, i in chunks), strict=True)
        found = torch.cat(log_probs), torch.cat(entropy), torch.cat(best)
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), ctx.size):
            here = slice(start, start + ctx.size)
            to_logits = _logits_gradient(_logits(hidden[here], weight, bias), ids[here], gradient[here])
            if to_bias is not None:
                to_bias += to_logits.sum(0)
            to_logits = to_logits.to(hidden.dtype)
            to_hidden[here] = to_logits @ weight
            if to_weight is not None:
                to_weight = _add_product(to_weight, to_logits.T, hidden[here])
        return to_hidden, _as(to_weight, weight), _as(to_bias, bias), None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """float32 [u, V]."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden, weight, bias).float()


def _outputs(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`token_outputs` of a chunk; overwrites its logits [u, V]."""
    peak, best = logits.max(1, keepdim=True)
    logits -= peak
    powers = logits.exp()
    mean = torch.einsum("uv,uv->u", powers, logits)
    named, rest = _part(powers, ids)
    total = named.sum(1, keepdim=True) + rest
    entropy = total.squeeze(1).log() - mean / total.squeeze(1)
    values = torch.cat(
        [logits.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, -torch.inf), _log_rest(rest, ids, logits)], 1
    )
    return values - total.log(), entropy, best.squeeze(1)


def _logits_gradient(logits: Tensor, ids: Tensor, gradient: Tensor) -> Tensor:
    """float32 [u, V], in the place of the logits [u, V].

    d log p_c / dz = δ_c - p for a candidate c, and d log p_rest / dz = p·[not a candidate] / p_rest - p.

    Args:
        gradient: [u, m + 1], of a loss by the log-probabilities.
    """
    powers = logits.sub_(logits.amax(1, keepdim=True)).exp_()
    named, rest = _part(powers, ids)
    own, other = gradient[:, :-1].masked_fill(ids < 0, 0.0), gradient[:, -1:]
    scale = (own.sum(1, keepdim=True) + other) / (named.sum(1, keepdim=True) + rest)
    powers.mul_(other / rest.clamp_min(_TINY) - scale)
    return _set(powers, ids, own - named * scale)


def _part(powers: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates' values [u, m], 0 where there is none, and the sum of all others [u, 1]; candidates' columns become 0.

    A difference of sums would cancel.
    """
    named = powers.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, 0.0)
    _set(powers, ids, torch.zeros_like(named))
    return named, powers.sum(1, keepdim=True)


def _set(target: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """Write values [u, m] into columns of target [u, V]; where there is no candidate, the first one's is written again."""
    none = ids < 0
    return target.scatter_(1, torch.where(none, ids[:, :1], ids), torch.where(none, values[:, :1], values))


def _log_rest(rest: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
    """[u, 1]: finite where there are other tokens, however unlikely."""
    nothing = (ids >= 0).sum(1, keepdim=True) == logits.shape[1]
    return rest.clamp_min(_TINY).log().masked_fill(nothing, -torch.inf)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right, in place where the types agree."""
    if left.dtype == total.dtype:
        return total.addmm_(left, right)
    return total.add_(left @ right)


def _as(gradient: Tensor | None, of: Tensor | None) -> Tensor | None:
    return None if gradient is None or of is None else gradient.to(of.dtype)
