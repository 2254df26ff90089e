"""Nested state of selectors and projections in one safetensors file: no pickle is written or read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from distilect.errors import RunError
from distilect.files import atomic_write

_TENSOR = "__tensor__"


def to_bytes(state: dict[str, Any]) -> bytes:
    """Nested dicts and lists of tensors, numbers, strings, booleans and None, with a checksum over all of it."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_strip(state, "", tensors))
    # one entry, as safetensors writes several in an order of its own: ranks compare these bytes
    about = json.dumps({"state": text, "sha256": _digest(text, tensors)})
    return bytes(save(tensors, metadata={"about": about}))


def from_bytes(content: bytes) -> dict[str, Any]:
    """What `to_bytes` was given.

    Raises:
        ValueError, KeyError, SafetensorError: the content is damaged.
    """
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
    tensors = load(content)
    if about["sha256"] != _digest(about["state"], tensors):
        raise ValueError("its bytes do not match its checksum")
    state: dict[str, Any] = _fill(json.loads(about["state"]), tensors)
    return state


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write `to_bytes(state)`; whole or not at all."""
    atomic_write(path, to_bytes(state))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return from_bytes(path.read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        message = f"{path} is missing or damaged ({error}): remove that checkpoint to go on from an earlier one"
        raise RunError(message) from None


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """Over all content, 64 hex digits."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _strip(value: Any, key: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` with its tensors moved into `tensors` and their keys left in place."""
    if isinstance(value, torch.Tensor):
        key = f"{len(tensors)}:{key}"  # numbered: the paths of {"a/b": …} and {"a": {"b": …}} are the same
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: key}
    if isinstance(value, dict):
        # integer keys (torch optimisers number their parameters) would come back as strings: pairs keep them
        return {"__items__": [[k, _strip(v, f"{key}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_strip(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _fill(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {k: _fill(v, tensors) for k, v in value["__items__"]}
    if isinstance(value, list):
        return [_fill(v, tensors) for v in value]
    return value
