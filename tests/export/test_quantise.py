"""Which weights are in 8 bits, and which products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.config import load_config
from distilect.data import Encoded, load_data
from distilect.export import ship
from distilect.export.onnx import OnnxModel
from distilect.export.quantise import by_sensitivity, products, quantise, schemes

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def fp32(exported: Path) -> Path:
    return exported / "student/onnx/model.onnx"


@pytest.fixture(scope="module")
def rows(exported: Path) -> Encoded:
    config = load_config(exported / "config.yaml")
    task = ship.Task.from_dict(ship.read_metrics(exported)["task"])
    table = load_data(config.data, config.task, config.seed).train
    return ship._load("student", exported / "student", task, config).encode(table)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def floats(path: Path) -> list[Any]:
    """Matrices and tables that are left in fp32."""
    values = onnx.load(path).graph.initializer
    return [
        value.name for value in values if value.data_type == onnx.TensorProto.FLOAT and min([*value.dims, 0][:2]) > 1
    ]


def test_every_matrix_and_table_is_stored_in_8_bits_by_every_scheme(fp32: Path, rows: Encoded, tmp_path: Path) -> None:
    assert len(products(fp32)) == 14 and len(floats(fp32)) == 17  # three tables of embeddings
    for number, (_, exact) in enumerate(schemes(fp32, rows)):
        path = quantise(fp32, tmp_path / f"{number}.onnx", exact)
        assert not floats(path)
        assert operators(path).count("MatMulInteger") == 14 - len(exact)


def test_schemes_go_from_no_exact_product_to_all_of_them(fp32: Path, rows: Encoded) -> None:
    counts = [len(exact) for _, exact in schemes(fp32, rows)]
    assert counts == [0, 4, 7, 14]


def test_the_gentler_the_scheme_the_nearer_the_outputs(fp32: Path, rows: Encoded, tmp_path: Path) -> None:
    reference = OnnxModel(fp32).predict(rows)
    differences = []
    for _, exact in schemes(fp32, rows):
        path = quantise(fp32, tmp_path / "int8.onnx", exact)
        differences.append(np.abs(OnnxModel(path).predict(rows) - reference).mean())
    assert 0 < differences[-1] < differences[0]
    assert differences[-1] < 0.01 * np.abs(reference).mean()


def test_each_row_of_a_table_has_a_scale_of_its_own(fp32: Path, tmp_path: Path) -> None:
    """With one for all, a single large row takes the others' digits."""
    model = onnx.load(fp32)
    name = next(value.name for value in model.graph.initializer if value.name.endswith("word_embeddings.weight"))
    table = next(value for value in model.graph.initializer if value.name == name)
    large = onnx.numpy_helper.to_array(table).copy()
    large[0] = 1000
    table.CopyFrom(onnx.numpy_helper.from_array(large, name))
    onnx.save(model, tmp_path / "large.onnx")
    stored = {
        value.name: onnx.numpy_helper.to_array(value)
        for value in onnx.load(quantise(tmp_path / "large.onnx", tmp_path / "q.onnx")).graph.initializer
    }
    read = stored[f"{name}_int8"] * stored[f"{name}_scale"]
    assert stored[f"{name}_int8"].dtype == np.int8
    assert np.abs(read[1:] - large[1:]).max() <= np.abs(large[1:]).max() / 250


def test_the_product_that_loses_most_is_ranked_first(fp32: Path, rows: Encoded, tmp_path: Path) -> None:
    """Its input gets a number that is 1e5 and that nothing reads."""
    model = onnx.load(fp32)
    values = {value.name: value for value in model.graph.initializer}
    nodes = list(model.graph.node)
    gelu = next(node for node in nodes if node.op_type == "Gelu")
    victim = next(node for node in nodes if gelu.output[0] in node.input)
    weight = onnx.numpy_helper.to_array(values[victim.input[1]]).copy()  # [32, 16]
    weight[0] = 0
    values[victim.input[1]].CopyFrom(onnx.numpy_helper.from_array(weight, victim.input[1]))
    bias = next(values[name] for node in nodes if gelu.input[0] in node.output for name in node.input if name in values)
    large = onnx.numpy_helper.to_array(bias).copy()
    large[0] = 1e5
    bias.CopyFrom(onnx.numpy_helper.from_array(large, bias.name))
    onnx.save(model, tmp_path / "outlier.onnx")
    assert by_sensitivity(tmp_path / "outlier.onnx", rows)[0] == victim.name


def test_a_file_does_not_depend_on_the_machine_that_it_was_made_on(fp32: Path, tmp_path: Path) -> None:
    """Weights of 8-bit products have 7 bits: larger ones overflow where there is no VNNI."""
    model = onnx.load(quantise(fp32, tmp_path / "int8.onnx"))
    values = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    factors = [values[node.input[1]] for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(factors) == 14 and all(np.abs(factor.astype(int)).max() <= 64 for factor in factors)
