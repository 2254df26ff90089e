"""A learned selection module on disk: its weights as safetensors, and what it is for as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load, save
from torch import Tensor

from distilect.config import Part
from distilect.files import atomic_write

FORMAT = 2
FOLDER = "selector"  # of a run's folder
WEIGHTS, DESCRIPTION = "selector.safetensors", "selector.json"
DESIGN = ("action", "state", "phases")  # options that a module is learned with

P = TypeVar("P", bound=Part)


def write(folder: Path, described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Write both files; an earlier module there is replaced. Returns the fingerprint: 16 hex digits over the weights."""
    (folder / DESCRIPTION).unlink(missing_ok=True)  # written last: a folder without it holds no module
    content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    atomic_write(folder / WEIGHTS, content)
    found = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), **described}
    text = json.dumps(found | {"checksum": _checksum(found)}, indent=2, ensure_ascii=False)
    atomic_write(folder / DESCRIPTION, text + "\n")
    return str(found["sha256"])[:16]


def described(path: Path) -> dict[str, Any]:
    """What the JSON file says; `path` is the module's folder, or that of the run that learned it.

    Raises:
        ValueError: it is missing or damaged, or of a format that is not known here.
    """
    file = _locate(path) / DESCRIPTION
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
        if found.pop("checksum", None) != _checksum(found):
            raise ValueError("its content does not match its checksum")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): learn it anew") from None
    if found["format"] != FORMAT:
        raise ValueError(f"{file} is no selection module of format {FORMAT}: learn it anew with this version")
    return found


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights; `path` as in `described`.

    Raises:
        ValueError: either is missing or damaged, or they do not belong together.
    """
    found, file = described(path), _locate(path) / WEIGHTS
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != found["sha256"]:
            raise ValueError("its checksum is not that of the description")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}): learn it anew") from None
    return found, load(content)


def fingerprint(path: Path) -> str:
    """16 hex digits, as `write` returned them."""
    return str(described(path)["sha256"])[:16]


def as_learned(options: P, path: Path) -> P:
    """The options with the design that the module in `path` was learned with.

    Raises:
        ValueError: there is no such module, or an option was set that says otherwise.
    """
    found = described(path)
    design = {name: found[name] for name in DESIGN}
    for name in options.model_fields_set.intersection(DESIGN):
        value = getattr(options, name)
        if (set(value) != set(design[name])) if name == "state" else (value != design[name]):
            raise ValueError(f"{name} is {value!r}, but {path} was learned with {design[name]!r}: leave {name} out")
    return options.model_copy(update=design)


def check_fit(found: Mapping[str, Any], path: Path, kinds: tuple[str, ...], widths: Mapping[str, int]) -> None:
    """Refuse a module that was learned for other kinds of knowledge, or for models of other widths.

    Raises:
        ValueError: it does not fit.
    """
    if set(found["kinds"]) != set(kinds):
        learned = ", ".join(found["kinds"])
        raise ValueError(f"{path} weighs {learned}, but the method copies {', '.join(kinds)}: copy the same kinds")
    for part, width in found["widths"].items():
        if widths[part] != width:
            raise ValueError(
                f"{path} was learned with {width} numbers per token of the {part}, here there are {widths[part]}: it fits models "
                "of that width only, whatever their depth"
            )


def _locate(path: Path) -> Path:
    """The module's folder: `path` itself, or `selector/` in it."""
    for folder in (path.expanduser(), path.expanduser() / FOLDER):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise ValueError(
        f"selector: {path} holds no {DESCRIPTION}: expected the selector/ folder of a run, or the run's folder"
    )


def _checksum(content: Mapping[str, Any]) -> str:
    """64 hex digits over everything that the description says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
