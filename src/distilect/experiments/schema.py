"""JSON schemas of whole configs, with the options of every selector and kind of knowledge, for editors that complete YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distilect.config import Part, RunConfig
from distilect.experiments.config import CompareConfig
from distilect.selection.methods import METHOD_PARTS

ROOTS: dict[str, type[Part]] = {"run": RunConfig, "compare": CompareConfig}


def schema(of: str) -> dict[str, Any]:
    """The JSON schema of a config file: `of` is `run` or `compare`."""
    found = ROOTS[of].model_json_schema()
    for part in ("MethodConfig", "ComparedMethodConfig"):
        properties = found["$defs"].get(part, {}).get("properties", {})
        for key, classes in METHOD_PARTS.items() if properties else ():
            properties[key]["anyOf"] = [{"type": "null"}, *_alternatives(key, classes)]
    return found


def _alternatives(key: str, classes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a config may say of one part of a method."""
    options = {name: cls.Options.model_json_schema().get("properties", {}) for name, cls in classes.items()}
    if key == "knowledge":
        kinds = {name: _object(of_kind) | {"type": ["object", "boolean", "null"]} for name, of_kind in options.items()}
        return [_object(kinds)]
    named = [_object({"name": {"const": name}, **given}, required=["name"]) for name, given in options.items()]
    merged = {"type": "object", "not": {"required": ["name"]}}  # options of the preset's own selector
    return [{"enum": list(classes)}, *named, merged]


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}
