"""What `distilect methods` prints: the list of methods and parts, or one of them with all of its options."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from distilect.errors import MethodError, did_you_mean
from distilect.options import expected
from distilect.selection import Preset, presets
from distilect.selection.methods import METHOD_PARTS


def overview() -> Iterator[str]:
    """One line per method, then the parts that a config can combine."""
    known = presets()
    width = max(map(len, known))
    for name, preset in known.items():
        yield f"{name:<{width}}  {preset.summary}" + (f" ({preset.reference})" if preset.reference else "")
    yield "\nparts, for method.KEY in a config:"
    for key, classes in METHOD_PARTS.items():
        yield f"  {key:<{width - 2}}  {', '.join(classes)}"
    yield "\ndistilect methods NAME shows one method or part with its options."


def details(name: str) -> Iterator[str]:
    """A method with its parts, or a single part: every option with its value, what it may be, and what it does.

    Raises:
        MethodError: there is neither a method nor a part of that name.
    """
    known = presets()
    if name in known:
        yield from _preset(known[name])
        return
    keys = [key for key, classes in METHOD_PARTS.items() if name in classes]
    if not keys:
        near = did_you_mean(name, [*known, *(part for classes in METHOD_PARTS.values() for part in classes)])
        raise MethodError(f"no method or part is called {name!r}.{near} `distilect methods` lists them")
    for key in keys:
        yield from _part(key, name, {})


def _preset(preset: Preset) -> Iterator[str]:
    yield f"{preset.name}: {preset.summary}"
    if preset.reference:
        yield f"  {preset.reference}"
    yield f"  alpha = {preset.alpha}: labels weigh 1 - alpha, response weighs alpha"
    for key in ("rows", "teachers", "loss_weights"):
        spec = getattr(preset, key)
        if spec is not None:
            given = {"name": spec} if isinstance(spec, str) else spec
            yield from _part(key, given["name"], given)
    for kind, given in preset.knowledge.items():
        yield from _part("knowledge", kind, given or {})


def _part(key: str, name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """A selector or kind of knowledge; `given` are the options that the preset sets."""
    cls = METHOD_PARTS[key][name]
    yield f"\nmethod.{key}: {name}"
    yield _indented((inspect.getdoc(cls) or "").split("\n\n")[0], 2)
    for option, field in cls.Options.model_fields.items():
        default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        set_here = f", default {default}" if option in given else ""
        value = _plain(given[option]) if option in given else default
        yield f"  {option} = {value}   ({expected(field.annotation, field.metadata)}{set_here})"
        yield _indented(field.description or "", 6)


def _plain(value: Any) -> str:
    """A value as a config has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _indented(text: str, columns: int) -> str:
    space = " " * columns
    return textwrap.fill(" ".join(text.split()), 110, initial_indent=space, subsequent_indent=space)
