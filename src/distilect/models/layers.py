"""Layers: which ones a student takes, and cutting a model down to them, for any family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from distilect.errors import StudentError


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


def cut_layers(model: Any, kept: Sequence[int]) -> None:
    """Keep some layers of a transformers model, in the given order; in place, config included.

    The stack is found by its length, so no table of families is needed: every `nn.ModuleList` of the base model with
    `num_hidden_layers` entries is cut. A model that runs one shared set of weights many times (ALBERT) has no such list and only
    runs fewer times.

    Raises:
        StudentError: an index is out of range, or the stack cannot be found.
    """
    config, depth = model.config, model.config.num_hidden_layers
    bad = [index for index in kept if not 0 <= index < depth]
    if bad or not kept:
        raise StudentError(f"layers {list(kept)}: {bad or 'none'} out of range, the model has layers 0 to {depth - 1}")
    stacks = list(_stacks(model.base_model, depth))
    shared = getattr(config, "num_hidden_groups", None) is not None
    if not stacks and not shared:
        raise StudentError(f"{type(model).__name__} keeps its {depth} layers in no list: its layers cannot be chosen")
    for parent, name, stack in [] if shared else stacks:
        setattr(parent, name, nn.ModuleList(stack[index] for index in kept))
        _renumber(getattr(parent, name))
    _cut_config(config, kept, depth)


def layer_stack(model: Any) -> nn.ModuleList | None:
    """The list of a model's layers; None where it has none or several, or one set of weights is run many times."""
    if getattr(model.config, "num_hidden_groups", None) is not None:
        return None
    stacks = [stack for _, _, stack in _stacks(model.base_model, model.config.num_hidden_layers)]
    return stacks[0] if len(stacks) == 1 else None


def _stacks(module: nn.Module, depth: int) -> Iterator[tuple[nn.Module, str, nn.ModuleList]]:
    """(parent, name, list) of every outermost list with `depth` entries; lists inside layers (experts) are no stacks."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            yield module, name, child
        else:
            yield from _stacks(child, depth)


def _renumber(stack: nn.ModuleList) -> None:
    """Modules that know their place (for caches or attention patterns) learn the new one."""
    for index, layer in enumerate(stack):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index  # type: ignore[assignment]


def _cut_config(config: Any, kept: Sequence[int], depth: int) -> None:
    """The count, and every list that has one entry per layer (such as `layer_types`)."""
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth and "layer" in key:
            setattr(config, key, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
