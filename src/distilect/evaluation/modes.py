"""Evaluation mode that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*models: nn.Module, dropout: bool = False) -> Iterator[None]:
    """Put `models` in eval mode and give every single module its own mode back, also after an error.

    `model.train(was_training)` would not do: it also wakes parts that were deliberately frozen in eval mode.

    Args:
        dropout: put them in training mode instead.
    """
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.train(dropout)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
