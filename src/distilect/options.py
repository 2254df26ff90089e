"""Options of selectors and kinds of knowledge: declared once, as a nested `Options` class with a description per field.

Checking, "did you mean", docs/configuration.md, `distilect methods NAME` and the YAML schema all come from that declaration.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from distilect.config import Part
from distilect.errors import MethodError, did_you_mean

Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Ratio = Annotated[float, Field(gt=0.0, le=1.0)]  # a share above 0
AboveZero = Annotated[float, Field(gt=0.0)]
ZeroOrMore = Annotated[float, Field(ge=0.0)]

P = TypeVar("P", bound=Part)
T = TypeVar("T")


def parse_options(kind: type[P], values: Mapping[str, Any]) -> P:
    """Options from plain values, checked.

    Raises:
        ValueError: an unknown option, with the nearest known one; or a wrong value, with what was expected.
    """
    for option in values:
        if option not in kind.model_fields:
            known = ", ".join(kind.model_fields) or "none"
            raise ValueError(f"unknown option {option!r}; known: {known}.{did_you_mean(option, kind.model_fields)}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(dict.fromkeys(_explain(kind, e) for e in error.errors()))) from None


def _explain(kind: type[Part], error: Any) -> str:
    if error["type"] == "value_error":  # from one of our validators, which names the options itself
        return str(error["ctx"]["error"])
    option = error["loc"][0]
    field = kind.model_fields[option]
    value = error["input"]
    words = [str(word) for word in _words(field.annotation)]
    near = did_you_mean(value, words) if isinstance(value, str) else ""
    return f"{option} is {value!r}, expected {expected(field.annotation, field.metadata)}.{near}".removesuffix(".")


def expected(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describe the values that an annotation allows: `one of a, b`, `a number above 0`, `a list`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner = [m for part in arguments[1:] for m in getattr(part, "metadata", [part])]
        return expected(arguments[0], [*inner, *metadata])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(a, metadata) for a in arguments if a is not type(None))
    if annotation in (int, float):
        return _bounds("a whole number" if annotation is int else "a number", metadata)
    names = {bool: "true or false", str: "text", list: "a list", dict: "a mapping"}
    return names.get(origin or annotation, getattr(annotation, "__name__", "another value"))


def _bounds(what: str, metadata: Sequence[Any]) -> str:
    found: dict[str, Any] = {}
    for limit in metadata:
        found |= {name: getattr(limit, name) for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)}
    if "gt" in found and "le" in found:
        return f"{what} in ({found['gt']:g}, {found['le']:g}]"
    if "gt" in found:
        return f"{what} above {found['gt']:g}" + (f" and below {found['lt']:g}" if "lt" in found else "")
    if "ge" in found:
        end = f" to {found['le']:g}" if "le" in found else f" to less than {found['lt']:g}" if "lt" in found else ""
        return f"{what} from {found['ge']:g}{end}" if end or found["ge"] else "0 or more"
    return what


def _words(annotation: Any) -> Iterable[Any]:
    """The literal values that an annotation allows."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return [word for argument in typing.get_args(annotation) for word in _words(argument)]


def construct(registry: Mapping[str, type[T]], spec: Mapping[str, Any] | str, what: str, **given: Any) -> T:
    """Build the class that `spec` names.

    Args:
        registry: name → class.
        spec: a name, or a mapping with `name` and the class's options.
        what: name of the part, for messages: "row selector", "kind of knowledge".
        given: keyword arguments of the caller, which users cannot set.

    Raises:
        MethodError: an unknown name, an unknown option, or a value that the class refuses.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if name not in registry:
        near = did_you_mean(str(name), registry)
        raise MethodError(f"no {what} is called {name!r}; known: {', '.join(registry)}.{near}")
    for option in given.keys() & options.keys():  # they would collide with the caller's
        raise MethodError(f"{what} {name!r}: unknown option {option!r}")
    try:
        return registry[name](**given, **options)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{what} {name!r}: {error}") from None
