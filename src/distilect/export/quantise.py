"""A student's ONNX file in 8 bits, by schemes from the fastest to the gentlest.

Embeddings are stored in 8 bits with a scale per row, matrices with a scale per output channel. What the schemes differ in is arithmetic:
a product in 8 bits quantises its input too, batch by batch (onnxruntime's dynamic quantisation); an *exact* product reads its
8-bit weights as fp32 numbers.

Measured and left out (docs/results/export.md): ranges of activations that are fixed on rows of train are slower and change the outputs twice as
much, and products with 16-bit activations are slower than PyTorch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.data import Encoded
from distilect.export.onnx import OnnxModel, silent
from distilect.files import atomic
from distilect.progress import track

_WEIGHT = {"Gather": 0, "MatMul": 1, "Gemm": 1}  # which input of an operator is its weight


@dataclass(frozen=True)
class Scheme:
    """A way to quantise.

    Args:
        exact: share of the products that are calculated in fp32, the most sensitive ones first.
    """

    name: str
    exact: float


SCHEMES = (
    Scheme("int8", 0.0),
    Scheme("int8, a quarter of the products in fp32", 0.25),
    Scheme("int8, half of the products in fp32", 0.5),
    Scheme("8-bit weights, products in fp32", 1.0),
)


def quantise(source: Path, target: Path, exact: Collection[str] = ()) -> Path:
    """Write the ONNX file `source` in 8 bits.

    8-bit products take weights of 7 bits: sums of 8-bit ones overflow on processors without instructions for them (VNNI), and the
    file has to give the same outputs everywhere.

    Args:
        exact: names of products to calculate in fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # The exporter turns weights round after it has written down their shapes, which the quantiser then takes for a contradiction;
    # it infers them anew.
    del model.graph.value_info[:]
    _store_in_8_bits(model.graph, exact)
    with atomic(target) as temporary, silent():
        quantize_dynamic(
            model,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # float, where the exporter wrote no type beside a value
        )
    return target


def products(source: Path) -> list[str]:
    """The names of the matrix products with a weight, in the order of the file."""
    import onnx

    graph = onnx.load(source).graph
    weights = _weights(graph)
    return [node.name for node in graph.node if node.op_type != "Gather" and _weight_of(node, weights)]


def by_sensitivity(source: Path, rows: Encoded) -> list[str]:
    """The products, those first that change the outputs most when they alone are calculated in 8 bits.

    Args:
        rows: of train; the validation split judges the result, so it takes no part in the choice.
    """
    names, reference = products(source), OnnxModel(source).predict(rows)
    changes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in track(names, "ranking products by sensitivity"):
            path = quantise(source, Path(folder) / "one.onnx", [other for other in names if other != name])
            changes[name] = float(np.abs(OnnxModel(path).predict(rows) - reference).mean())
    return sorted(names, key=lambda name: -changes[name])


def schemes(source: Path, rows: Encoded) -> Iterator[tuple[Scheme, list[str]]]:
    """Each scheme with its exact products, the gentlest last; `rows` rank the products when a scheme first asks for it."""
    names, ranked = products(source), list[str]()
    for scheme in SCHEMES:
        count = math.ceil(scheme.exact * len(names))
        if 0 < count < len(names):
            ranked = ranked or by_sensitivity(source, rows)
        yield scheme, (ranked or names)[:count]


def _weights(graph: Any) -> dict[str, NDArray[np.float32]]:
    """float32 [I, O] or [V, H] by name: matrices and tables."""
    import onnx

    found = {}
    for value in graph.initializer:
        if value.data_type == onnx.TensorProto.FLOAT and len(value.dims) == 2:
            found[value.name] = onnx.numpy_helper.to_array(value)
    return found


def _weight_of(node: Any, weights: Mapping[str, Any]) -> str | None:
    """The name of the weight that a product or a look-up reads; None for other operators."""
    place = _WEIGHT.get(node.op_type)
    name = node.input[place] if place is not None else ""
    return name if name in weights else None


def _store_in_8_bits(graph: Any, exact: Collection[str]) -> None:
    """Replace the weights of look-ups and of `exact` products by 8-bit numbers and scales, which are multiplied when they are read.

    onnxruntime multiplies those of a product once, when it loads the file: the product is as fast as in fp32.
    """
    weights, nodes = _weights(graph), []
    for node in graph.node:
        name = _weight_of(node, weights)
        if name and node.op_type == "Gather":
            _add_stored(graph, name, weights[name], axis=1)
            nodes += _looked_up(node, name)
        elif name and node.name in exact:
            turned = any(each.name == "transB" and each.i for each in node.attribute)  # [O, I]
            _add_stored(graph, name, weights[name], axis=1 if turned else 0)
            nodes += _multiplied(node, name)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [value for value in graph.initializer if value.name in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept)):
        del field[:]
        field.extend(values)


def _add_stored(graph: Any, name: str, weight: NDArray[np.float32], axis: int) -> None:
    """Add NAME_int8 and NAME_scale, one scale for all numbers along `axis`; once for a weight that several operators share."""
    import onnx

    if any(value.name == f"{name}_int8" for value in graph.initializer):
        return
    scale = np.abs(weight).max(axis=axis, keepdims=True) / 127
    scale[scale == 0] = 1
    graph.initializer.append(onnx.numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{name}_int8"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))


def _looked_up(node: Any, name: str) -> list[Any]:
    """Rows of a table: numbers int8 [B, T, H] times scales [B, T, 1]."""
    from onnx import TensorProto, helper

    (out,), places = node.output, node.input[1]
    return [
        helper.make_node("Gather", [f"{name}_int8", places], [f"{out}_int8"], f"{node.name}_int8"),
        helper.make_node("Gather", [f"{name}_scale", places], [f"{out}_scale"], f"{node.name}_scale"),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], f"{node.name}_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out], node.name),
    ]


def _multiplied(node: Any, name: str) -> list[Any]:
    """A product whose weight is its 8-bit numbers times their scales."""
    from onnx import TensorProto, helper

    out = node.output[0]
    cast = helper.make_node("Cast", [f"{name}_int8"], [f"{out}_float"], f"{node.name}_float", to=TensorProto.FLOAT)
    scaled = helper.make_node("Mul", [f"{out}_float", f"{name}_scale"], [f"{out}_weight"], f"{node.name}_weight")
    node.input[_WEIGHT[node.op_type]] = f"{out}_weight"
    return [cast, scaled, node]
