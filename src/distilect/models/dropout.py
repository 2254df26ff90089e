"""The dropout of a model: in its modules, in numbers that they hold, and in its config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

SAMPLING = 0.1  # of passes that are compared with each other, in a model that trains without dropout


def set_dropout(model: Any, probability: float) -> None:
    """Set every dropout of the model, in its modules and its config."""
    for owner, name in _places(model):
        setattr(owner, name, probability)
    for key, value in vars(model.config).items():
        if "dropout" in key and isinstance(value, float):
            setattr(model.config, key, probability)


@contextmanager
def sampling(model: Any) -> Iterator[None]:
    """Passes inside differ by their dropout masks, also where the model trains without dropout: it is 0.1 then."""
    places = list(_places(model))
    own = [getattr(owner, name) for owner, name in places]
    try:
        for owner, name in places if not any(own) else ():
            setattr(owner, name, SAMPLING)
        yield
    finally:
        for (owner, name), value in zip(places, own, strict=True):
            setattr(owner, name, value)


def _places(model: Any) -> Iterator[tuple[Any, str]]:
    """(module, attribute) of each dropout: `nn.Dropout.p`, and numbers such as BART's `attention_dropout`."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p"
        else:
            yield from (
                (module, name) for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)
            )
