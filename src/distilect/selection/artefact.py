"""A learned selection module on disk: one safetensors file and one JSON file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1
FOLDER = "selector"  # of a run's folder
WEIGHTS, DESCRIPTION = "selector.safetensors", "selector.json"


def write(folder: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Both files in `folder`; an earlier artefact there is replaced. Returns the fingerprint: 16 hex digits over weights and design."""
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / WEIGHTS).write_bytes(content)
    content_of = {"format": FORMAT, "sha256": digest, **described}
    content_of["checksum"] = _checksum(content_of)
    text = json.dumps(content_of, indent=2, ensure_ascii=False)
    (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return digest[:16]


def locate(path: Path) -> Path:
    """The artefact's folder: `path` itself, or `selector/` in it where `path` is a run's folder.

    Raises:
        ValueError: there is none.
    """
    for folder in (path.expanduser(), path.expanduser() / FOLDER):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise ValueError(
        f"selector: {path} holds no {DESCRIPTION}: expected the selector/ folder of a run, or the run's folder"
    )


def described(path: Path) -> dict[str, Any]:
    """What the JSON file says.

    Raises:
        ValueError: it is missing or damaged, or of a format that is not known here.
    """
    file = locate(path) / DESCRIPTION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not _is_whole(found):
            raise ValueError("its content does not match its checksum")
        fits = isinstance(found, dict) and {"format", "sha256", "kinds", "state", "widths"} <= set(found)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): learn it anew") from None
    if not fits or found["format"] != FORMAT:
        raise ValueError(f"{file} is no selection module of format {FORMAT}: learn it anew with this version")
    return dict(found)


def _checksum(content: Mapping[str, Any]) -> str:
    """64 hex digits over everything that the description says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_whole(found: Any) -> bool:
    """Whether the description is as it was written; those of before checksums have one digest only."""
    if not isinstance(found, dict):
        return True  # told below as no selection module
    rest = {key: value for key, value in found.items() if key != "checksum"}
    if "checksum" in found:
        return bool(found["checksum"] == _checksum(rest))
    return sum(isinstance(value, str) and len(value) == 64 for value in rest.values()) <= 1


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors; the weights are those that the description was written with.

    Raises:
        ValueError: either is missing or damaged.
    """
    found, file = described(path), locate(path) / WEIGHTS
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != found["sha256"]:
            raise ValueError("its checksum is not that of the description")
        return found, load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}): learn it anew") from None


def fingerprint(path: Path) -> str:
    """16 hex digits, as `write` returned them."""
    return str(described(path)["sha256"])[:16]
