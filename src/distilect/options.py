"""Build a registered class from plain options, with errors that name the nearest known word."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from distilect.errors import MethodError, did_you_mean

T = TypeVar("T")


def construct(registry: Mapping[str, type[T]], spec: Mapping[str, Any] | str, what: str, **given: Any) -> T:
    """An instance of the class that `spec` names.

    Args:
        registry: name → class.
        spec: a name, or a mapping with `name` and the class's keyword options.
        what: what is being built, for messages: "row selector", "kind of knowledge".
        given: keyword arguments that the caller supplies, not the user.

    Raises:
        MethodError: unknown name, unknown option, or a value that the class refuses.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if name not in registry:
        near = did_you_mean(str(name), registry)
        raise MethodError(f"no {what} is called {name!r}; known: {', '.join(registry)}.{near}")
    cls = registry[name]
    known = [p for p in inspect.signature(cls).parameters if p not in given]
    for option in options:
        if option not in known:
            raise MethodError(
                f"{what} {name!r} has no option {option!r}; known: {', '.join(known) or 'none'}."
                f"{did_you_mean(option, known)}"
            )
    try:
        return cls(**given, **options)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{what} {name!r}: {error}") from None


def one_of(option: str, value: Any, known: tuple[Any, ...], other: str = "") -> None:
    """Refuse a value that is none of `known`; `other` says what it might be besides.

    Raises:
        ValueError: names the nearest known value.
    """
    if value not in known:
        words = [str(word) for word in known if word is not None]
        listed = ", ".join([*words, other] if other else words)
        raise ValueError(f"{option} is {value!r}, expected one of {listed}.{did_you_mean(str(value), words)}")


def shares(**values: float) -> None:
    """Refuse what is not from 0 to 1.

    Raises:
        ValueError: names the option.
    """
    for option, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{option} is {value}, expected a number from 0 to 1")


def above_zero(**values: float) -> None:
    """Refuse 0, less, and NaN.

    Raises:
        ValueError: names the option.
    """
    for option, value in values.items():
        if not value > 0:
            raise ValueError(f"{option} is {value}, expected a number above 0")


def zero_or_more(**values: float) -> None:
    """Refuse less than 0, and NaN.

    Raises:
        ValueError: names the option.
    """
    for option, value in values.items():
        if not value >= 0:
            raise ValueError(f"{option} is {value}, expected 0 or more")


def counts(**values: int) -> None:
    """Refuse what is not a whole number from 1; True is none.

    Raises:
        ValueError: names the option.
    """
    for option, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{option} is {value!r}, expected a whole number from 1")
