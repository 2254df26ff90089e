"""How a comparison calls its methods, and of which family each is."""

from __future__ import annotations

from typing import Any

from distilect.config import MethodConfig
from distilect.experiments.config import ComparedMethodConfig
from distilect.experiments.oracle import ORACLE
from distilect.selection import get_preset
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
    if replaced:
        return "-".join(["mix", method.name, *(word for word in replaced if word != method.name)])
    changed = {k: v for k, v in (("alpha", method.alpha), ("T", method.temperature)) if v is not None}
    return "-".join([method.name, *(f"{key}{value:g}" for key, value in changed.items())])


def family(method: ComparedMethodConfig) -> str:
    """`static`: selectors neither look at the student nor learn; `adaptive`: one does; `oracle`: knows hidden labels."""
    if _is_oracle(method):
        return "oracle"
    preset = get_preset(method.name)
    chosen = (
        (ROWS, method.rows or preset.rows),
        (TEACHERS, method.teachers if method.teachers is not None else preset.teachers),
        (LOSS_WEIGHTS, method.loss_weights or preset.loss_weights),
    )
    modules = [getattr(known.get(_name(spec)), "__module__", "") for known, spec in chosen if spec is not None]
    return "static" if all(module == _STATIC for module in modules) else "adaptive"


def method_config(method: ComparedMethodConfig) -> MethodConfig:
    """The method alone, without its place in the comparison."""
    return MethodConfig.model_validate({key: getattr(method, key) for key in MethodConfig.model_fields})


def _replaced_parts(method: ComparedMethodConfig) -> list[str]:
    preset = get_preset(method.name)
    pairs = ((method.rows, preset.rows), (method.teachers, preset.teachers), (method.loss_weights, preset.loss_weights))
    found = [_name(own) for own, theirs in pairs if own is not None and _name(own) != _name(theirs)]
    if method.knowledge is not None and set(method.knowledge) != set(preset.knowledge):
        found += sorted(set(method.knowledge) - set(preset.knowledge)) or ["less"]
    return found


def _is_oracle(method: ComparedMethodConfig) -> bool:
    return method.teachers is not None and _name(method.teachers) == ORACLE


def _name(spec: Any) -> str:
    return spec if isinstance(spec, str) else str((spec or {}).get("name"))
