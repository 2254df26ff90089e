"""Queries, keys and values of a layer's self-attention, read while the model runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from distilect.errors import MethodError
from distilect.models.layers import depth_of, layer_stack

PARTS = ("query", "key", "value")
# names of the three linear maps of a layer in BERT's family, in DistilBERT, in most decoders, in MPNet
_NAMES = {
    "query": ("query", "q_lin", "q_proj", "q"),
    "key": ("key", "k_lin", "k_proj", "k"),
    "value": ("value", "v_lin", "v_proj", "v"),
}


def attention_maps(model: Any, layer: int) -> dict[str, nn.Module]:
    """The modules whose outputs are queries, keys and values of a layer, counted from 1; [B, T, H] each.

    Raises:
        MethodError: the model keeps them in another form: fused (GPT-2), as bare weights (XLNet), shared by all layers (ALBERT).
    """
    stack = layer_stack(model)
    if stack is not None and 1 <= layer <= len(stack):
        named = [(name.rpartition(".")[2], module) for name, module in stack[layer - 1].named_modules()]
        found = {part: [m for name, m in named if name in _NAMES[part]] for part in PARTS}
        if all(len(modules) == 1 for modules in found.values()):
            return {part: modules[0] for part, modules in found.items()}
    raise MethodError(
        f"{type(model).__name__} keeps queries, keys and values of layer {layer} in no linear maps of their own: "
        "leave out attention knowledge"
    )


def keeps_attention(model: Any) -> bool:
    """Whether its last layer has `attention_maps`."""
    try:
        return bool(attention_maps(model, depth_of(model)))
    except MethodError:
        return False


@contextmanager
def captured(model: Any, layers: Collection[int]) -> Iterator[dict[str, Tensor]]:
    """Yields a mapping that a forward pass inside fills: `query.L`, `key.L`, `value.L` → [B, T, H], with their graph."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs[name] = output

    with ExitStack() as hooks:
        for layer in layers:
            for part, module in attention_maps(model, layer).items():
                hooks.callback(module.register_forward_hook(partial(keep, f"{part}.{layer}")).remove)
        yield outputs
