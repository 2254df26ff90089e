"""Evaluation and training mode that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Put `models` in eval mode and give every single module its own mode back, also after an error.

    `model.train(was_training)` would not do: it also wakes parts that were deliberately frozen in eval mode.
    """
    with _mode(models, False):
        yield


@contextmanager
def train_mode(*models: nn.Module) -> Iterator[None]:
    """The same for training mode: dropout is on inside."""
    with _mode(models, True):
        yield


@contextmanager
def _mode(models: Sequence[nn.Module], training: bool) -> Iterator[None]:
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
