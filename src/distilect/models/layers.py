"""Layers: which ones a student takes, and cutting a model down to them, for any family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from distilect.errors import StudentError

# how modules of transformers call the number of their layer, and that of all layers
_PLACES = ("layer_idx", "layer_id", "layer_index", "layer_number")
_COUNTS = ("n_layers", "n_layer", "num_layers", "num_hidden_layers")


def even_layers(take: int, depth: int) -> list[int]:
    """`take` of `depth` layers as 0-based indexes, evenly spaced, the last one always among them: 3 of 6 → 1, 3, 5.

    Raises:
        StudentError: there are not so many layers.
    """
    if not 1 <= take <= depth:
        raise StudentError(f"cannot take {take} layers of a model with {depth}: expected 1 to {depth}")
    return [-(-(j + 1) * depth // take) - 1 for j in range(take)]


def even_layer_map(student_layers: int, teacher_layers: int) -> list[int]:
    """For student layers 1..m, the teacher layer that each learns from, as 1-based `hidden_states` indexes.

    Evenly spaced whatever the counts, last to last, embeddings never: 3 of 12 → 4, 8, 12; 4 of 6 → 2, 3, 5, 6.
    """
    return [-(-j * teacher_layers // student_layers) for j in range(1, student_layers + 1)]


def core_config(model: Any) -> Any:
    """The part of a model's config that has its sizes; models of several inputs keep that of the text apart."""
    config = model.config
    if hasattr(config, "num_hidden_layers"):
        return config
    try:
        return config.get_text_config()
    except ValueError:  # an encoder's and a decoder's, of different sizes
        return config


def depth_of(model: Any) -> int:
    """The number of a model's layers; 0 where its config does not say."""
    depth = getattr(core_config(model), "num_hidden_layers", None)
    return depth if isinstance(depth, int) else 0


def cut_layers(model: Any, kept: Sequence[int]) -> Any:
    """A model with some layers of a transformers model, in the given order, as saving and loading would give it.

    The stack is found by its length, so no table of families is needed: every `nn.ModuleList` of the base model with
    `num_hidden_layers` entries is cut, and so is every list of the config with one entry per layer. A model that runs one shared set
    of weights many times (ALBERT) has no such list and only runs fewer times.

    The result is made anew from the cut config, so that whatever a layer knows of its place (attention windows, caches, kinds of
    attention) is right. `model` is used up.

    Raises:
        StudentError: an index is out of range, the stack cannot be found, or the config cannot express the cut.
    """
    depth = depth_of(model)
    if not depth:
        raise StudentError(f"{type(model).__name__} does not say how many layers it has: they cannot be chosen")
    bad = [index for index in kept if not 0 <= index < depth]
    if bad or not kept:
        raise StudentError(f"layers {list(kept)}: {bad or 'none'} out of range, the model has layers 0 to {depth - 1}")
    stacks = list(_stacks(model.base_model, depth))
    shared = getattr(core_config(model), "num_hidden_groups", None) is not None
    if not stacks and not shared:
        raise StudentError(f"{type(model).__name__} keeps its {depth} layers in no list: its layers cannot be chosen")
    if list(kept) == list(range(depth)):
        return model
    for parent, name, stack in [] if shared else stacks:
        setattr(parent, name, nn.ModuleList(stack[index] for index in kept))
    for module in model.modules():
        _renumber(module, list(kept), depth)
    config = core_config(model)
    lists = {
        key: value for key, value in vars(config).items() if isinstance(value, list | tuple) and len(value) == depth
    }
    named = {key for key in lists if "layer" in key}
    found: list[tuple[bool, Any]] = []
    for per_layer in [set(lists), named] if named != set(lists) else [named]:  # a list may be as long by chance
        for key, value in lists.items():
            setattr(config, key, type(value)(value[i] for i in kept) if key in per_layer else value)
        config.num_hidden_layers = len(kept)
        found += _made_again(model)
        if found and found[-1][0]:
            return found[-1][1]
    if found:  # its layers compute something else at another place or depth, as MiniCPM3's do
        return found[0][1]
    raise StudentError(
        f"{type(model).__name__} cannot be cut to these layers: a model with its configuration would be another one; "
        "keep layer 0 if it is a special one ([layers=0,…]), or take the whole checkpoint"
    )


def _made_again(model: Any) -> list[tuple[bool, Any]]:
    """A model of the same class from the config as it would be saved, with the same weights; whether it has the same outputs.

    Nothing where there is no such model.
    """
    row = row_of_tokens(model)
    try:
        config = type(model.config).from_dict(model.config.to_dict())
        again = type(model)._from_config(config, dtype=next(model.parameters()).dtype)
        again.generation_config = getattr(model, "generation_config", None)
        again.load_state_dict(model.state_dict())
        with torch.no_grad():
            theirs = again.eval()(**row).logits
    except Exception:  # configs check themselves in many ways
        return []
    try:
        with torch.no_grad():
            ours = model.eval()(**row).logits
    except Exception:  # a model that counts its layers elsewhere cannot be run once it is cut
        return [(False, again)]
    return [(torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5, equal_nan=True), again)]


def row_of_tokens(model: Any) -> dict[str, torch.Tensor]:
    """A row of tokens from all over the vocabulary, that any model takes; BART and T5 read the last one."""
    config = core_config(model)
    places = getattr(config, "max_position_embeddings", None)
    count = min(24, places - 4) if isinstance(places, int) and places > 8 else 24
    last = (getattr(config, "vocab_size", None) or 200) - 1
    ids = torch.linspace(min(5, last), last, count).long()
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int):
        ids = torch.cat([ids[ids != end], torch.tensor([end])])
    return {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}


def layer_stack(model: Any) -> nn.ModuleList | None:
    """The list of a model's layers; None where it has none or several, or one set of weights is run many times."""
    if getattr(core_config(model), "num_hidden_groups", None) is not None:
        return None
    stacks = [stack for _, _, stack in _stacks(model.base_model, depth_of(model))]
    return stacks[0] if len(stacks) == 1 else None


def _stacks(module: nn.Module, depth: int) -> Iterator[tuple[nn.Module, str, nn.ModuleList]]:
    """(parent, name, list) of every outermost list with `depth` entries; lists inside layers (experts) are no stacks."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == depth > 0:
            yield module, name, child
        else:
            yield from _stacks(child, depth)


def _renumber(module: nn.Module, kept: list[int], depth: int) -> None:
    """Modules that know their place, or how many layers there are, learn the new numbers."""
    for name, value in list(vars(module).items()):
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if name in _PLACES and value in kept:
            setattr(module, name, kept.index(value))
        elif name in _COUNTS and value == depth:
            setattr(module, name, len(kept))
