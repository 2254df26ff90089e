"""Low-rank adapters (LoRA; Hu et al., 2021, arXiv 2106.09685) in a student, by the package peft.

They are put into the model's own linear maps, without a wrapper around the model: whatever reads it finds the same modules.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from distilect.config import LoraConfig
from distilect.errors import RunError, StudentError
from distilect.models.language import is_language_model, output_head

ADAPTERS = "adapters.safetensors"  # what is trained: the adapters, and a classifier's head


def check_peft() -> None:
    """Raises:
    StudentError: the package is missing.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise StudentError("student.lora needs the package peft: pip install 'distilect[lm]', or remove it") from None


def add_adapters(model: Any, spec: LoraConfig, seed: int) -> int:
    """Freeze the model but what comes after its encoder (a classifier's head), and give its linear maps adapters, in place.

    An adapter's update is 0 at first. The output layer of a language model has none.

    Args:
        seed: of the adapters' first factors.

    Returns:
        how many parameters are trained.

    Raises:
        StudentError: peft is not installed, or the model has no linear map.
    """
    check_peft()
    from peft import LoraConfig as Settings
    from peft import LoraModel

    encoder = model.base_model
    inside = {id(module) for module in encoder.modules()}
    maps = [name for name, module in model.named_modules() if id(module) in inside and _is_linear(module)]
    if not maps:
        raise StudentError(f"student.lora is set, but {type(model).__name__} has no linear maps to adapt: remove it")
    within = {id(parameter) for parameter in encoder.parameters()}
    if is_language_model(model):
        within |= {id(parameter) for parameter in output_head(model).parameters()}
    alpha = spec.alpha if spec.alpha is not None else 2 * spec.rank
    settings = Settings(r=spec.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=maps)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of GPT-2's transposed maps, which peft knows
        torch.manual_seed(seed)
        LoraModel(model, settings, "default")
    for parameter in model.parameters():  # a head outside the encoder is trained whole
        if not parameter.requires_grad and id(parameter) not in within:
            parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _is_linear(module: nn.Module) -> bool:
    """Also GPT-2's maps, whose weights are transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def has_adapters(model: Any) -> bool:
    """Whether `add_adapters` was called on it, and `merge_adapters` was not."""
    return hasattr(model, "peft_config")


def merge_adapters(model: Any) -> Any:
    """Add the updates to the weights, in place; the model is a plain one afterwards, all of it trainable. Nothing without adapters."""
    if not has_adapters(model):
        return model
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    return model.requires_grad_(True)


def save_adapters(model: Any, folder: str | Path) -> None:
    """What is trained, and a hash of what is not."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, str(Path(folder) / ADAPTERS), {"frozen": _frozen(model)})
    model.config.save_pretrained(folder)


def load_adapters(model: Any, folder: str | Path) -> None:
    """Take over what `save_adapters` wrote of the same model.

    Raises:
        RunError: the file is damaged, or it belongs to another model.
    """
    path = Path(folder) / ADAPTERS
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        with safe_open(str(path), "pt") as file:
            about, saved = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is not readable: {' '.join(str(error).split())[:120]}") from None
    shapes = {name: tuple(p.shape) for name, p in own.items()}
    if shapes != {name: tuple(p.shape) for name, p in saved.items()} or about.get("frozen") != _frozen(model):
        raise RunError(
            f"{path} belongs to adapters of another model: the checkpoint that the student starts from has changed since; start anew with "
            "overwrite=True (--overwrite on the command line)"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _frozen(model: Any) -> str:
    """A hash of the weights that are not trained, about a second per gigabyte."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            values = parameter.detach().cpu().contiguous()
            digest.update(json.dumps([name, list(values.shape), str(values.dtype)]).encode())
            digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
