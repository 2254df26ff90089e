"""How a comparison calls its methods, and of which family each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distilect.config import MethodConfig
from distilect.experiments.config import ComparedMethodConfig
from distilect.experiments.oracle import ORACLE
from distilect.selection import get_preset
from distilect.selection.methods import merged
from distilect.selection.registry import LOSS_WEIGHTS, ROWS, TEACHERS

_STATIC = "distilect.selection.static"


def label_of(method: ComparedMethodConfig) -> str:
    """The method's name in results: its label, or the preset's name with what is changed.

    A mix puts another selector, or other kinds of knowledge, in the place of its preset's. Its name begins with `mix-`.
    """
    replaced = _replaced_parts(method)
    if method.label is not None:
        plain = not replaced or method.label.startswith("mix-") or _is_oracle(method)
        return method.label if plain else f"mix-{method.label}"
    if method.stages is not None:
        return f"{method.name}-stages"
    if replaced:
        return "-".join(["mix", method.name, *(word for word in replaced if word != method.name)])
    changed = {k: v for k, v in (("alpha", method.alpha), ("T", method.temperature)) if v is not None}
    return "-".join([method.name, *(f"{key}{value:g}" for key, value in changed.items())])


def family(method: ComparedMethodConfig) -> str:
    """`static`: selectors neither look at the student nor learn; `adaptive`: one does; `oracle`: knows hidden labels."""
    if _is_oracle(method):
        return "oracle"
    known: dict[str, Any] = {"rows": ROWS, "teachers": TEACHERS, "loss_weights": LOSS_WEIGHTS}
    methods: list[MethodConfig] = [method]
    for stage in (method.stages or {}).values():
        own = stage.get("method") if isinstance(stage, Mapping) else None
        methods += [MethodConfig.model_validate({"name": own} if isinstance(own, str) else own)] if own else []
    modules = [
        getattr(known[axis].get(name), "__module__", "")
        for each in methods
        for axis, (name, _) in _selectors(each).items()
    ]
    return "static" if all(module == _STATIC for module in modules) else "adaptive"


def method_config(method: ComparedMethodConfig) -> MethodConfig:
    """The method alone, without its place in the comparison."""
    return MethodConfig.model_validate({key: getattr(method, key) for key in MethodConfig.model_fields})


def _replaced_parts(method: ComparedMethodConfig) -> list[str]:
    found = [own for own, of_preset in _selectors(method).values() if own != of_preset]
    given, preset = method.knowledge or {}, set(get_preset(method.name).knowledge)
    kinds = (preset | set(given)) - {kind for kind, options in given.items() if options is False}
    if kinds != preset:
        found += sorted(kinds - preset) or ["less"]
    return found


def _selectors(method: MethodConfig) -> dict[str, tuple[str, str]]:
    """Axis → (name of the method's selector, name of its preset's); an axis without a selector is left out."""
    preset = get_preset(method.name)
    found = {}
    for axis in ("rows", "teachers", "loss_weights"):
        own, of_preset = (merged(spec, getattr(preset, axis)).get("name") for spec in (getattr(method, axis), None))
        if own is not None:
            found[axis] = (str(own), str(of_preset))
    return found


def _is_oracle(method: ComparedMethodConfig) -> bool:
    return _selectors(method).get("teachers", ("", ""))[0] == ORACLE
