"""The student's weights as plain checkpoints, also where its parameters are sharded over ranks (FSDP2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distilect import ranks
from distilect.errors import RunError
from distilect.models import VOCABULARY_DIGEST, has_adapters, load_adapters, quiet


def student_class(model: nn.Module) -> Any:
    """The student's class; FSDP2 puts one of its own before it."""
    return next(kind for kind in type(model).__mro__ if not kind.__name__.startswith("FSDP"))


def load_weights(model: Any, folder: str | Path, *, sharded: bool) -> None:
    """Read a checkpoint as any user would, and take over every tensor.

    The Trainer's own loading skips tensors whose names it does not find: with transformers before 5.6, which write LayerNorm
    weights under older names, a resumed student would silently keep fresh ones. Of a student with adapters these alone are there.
    """
    _check_vocabulary(Path(folder), model.config)
    if has_adapters(model):
        load_adapters(model, folder)
        return
    with quiet():
        saved = student_class(model).from_pretrained(folder, config=model.config, use_safetensors=True)
    if not sharded:
        model.load_state_dict(saved.state_dict(), strict=True)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    # every rank has read it, and takes its own pieces
    options = StateDictOptions(full_state_dict=True, strict=True)
    set_model_state_dict(model, saved.state_dict(), options=options)


def _check_vocabulary(folder: Path, config: Any) -> None:
    """Refuse weights whose rows of embeddings are of other tokens than the student's.

    Raises:
        RunError: the texts that the vocabulary was found on have changed since.
    """
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(VOCABULARY_DIGEST)
    if saved != getattr(config, VOCABULARY_DIGEST, None):
        raise RunError(
            f"{folder} has other tokens than the student has now: the texts of train or extra have changed since; "
            "start anew with overwrite=True (--overwrite on the command line)"
        )


def whole_state(model: nn.Module) -> dict[str, Any]:
    """All parameters of a sharded model on rank 0, on the CPU; nothing on the others, which have to call it too."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return state if ranks.is_main() else {}


def whole_model(model: Any, device: torch.device) -> PreTrainedModel:
    """A sharded model put together, as a plain one on every rank."""
    state = ranks.gather(whole_state(model))[0]
    with torch.device(device):
        plain: PreTrainedModel = student_class(model)(model.config)
    plain.load_state_dict(state, strict=True)
    return plain
