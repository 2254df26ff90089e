"""Random draws that are a function of (seed, epoch, row identity, stream) and of nothing else.

Batch split, accumulation, number of ranks and row order therefore never change a draw.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# who draws; append only: a new number changes all draws
_NAMES = ("rows", "teachers", "knowledge", "plan", "hide", "reward", "shuffle", "sample", "ties", "look", "episode")
_STREAMS = {name: number for number, name in enumerate(_NAMES, start=1)}
_MASK = (1 << 64) - 1


def row_uniform(keys: Tensor, seed: int, epoch: int, stream: str) -> Tensor:
    """Uniform draws in [0, 1), one per row; different streams are independent.

    Args:
        keys: int64 [B], identities of the rows.
        stream: who draws.

    Returns:
        float64 [B].
    """
    bits = _mix(keys ^ _mix(torch.tensor(_key(seed, epoch, stream), device=keys.device)))
    return ((bits >> 11) & ((1 << 53) - 1)).double() / float(1 << 53)


def row_uniforms(keys: Tensor, count: int, seed: int, epoch: int, stream: str) -> Tensor:
    """float64 [B, count]: several independent draws per row."""
    columns = [_mix(keys ^ _mix(torch.tensor(k + 1, device=keys.device))) for k in range(count)]
    return torch.stack([row_uniform(column, seed, epoch, stream) for column in columns], dim=1)


def step_uniform(shape: tuple[int, ...], seed: int, step: int, stream: str) -> Tensor:
    """Uniform float64 draws, a function of (seed, step, stream): the same in every part of one optimiser step."""
    numbers = torch.arange(int(np.prod(shape)), dtype=torch.int64)
    return row_uniform(_mix(numbers + 1), seed, step, stream).reshape(shape)


def draw_rows(keys: Tensor, count: int, seed: int, number: int, stream: str) -> Tensor:
    """`count` of the rows (int64 [N], identities), drawn by (seed, number, identity); ascending."""
    draws = row_uniform(keys, seed, number, stream)
    return keys[draws.topk(min(count, len(keys)), largest=False).indices].sort().values


def _key(seed: int, epoch: int, stream: str) -> int:
    """One signed 64-bit integer for the three; Python integers so that no product overflows."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + _STREAMS[stream] * 0x8CB92BA72F3D8DD7) & _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 (wrapping): a bijection whose outputs look independent."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> by) & ((1 << (64 - by)) - 1)
