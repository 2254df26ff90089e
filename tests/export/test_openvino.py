"""The student in OpenVINO, judged like the 8-bit ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.errors import ExportError
from distilect.export import export_run
from distilect.export.openvino import OpenVinoModel
from tests.export.runs import finished_run, harm, outlying_weights

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("quick_exporter")]


def test_a_missing_package_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path)
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "openvino" else find(name, *more)
    )
    with pytest.raises(ExportError, match=r"needs openvino: pip install 'distilect\[openvino\]'"):
        export_run(run, openvino=True)
    assert not (run / "export.json").exists() and not (run / "student/onnx").exists()


def test_a_model_with_8_bit_weights_is_written_judged_and_timed(run: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    export_run(run, openvino=True)
    found = json.loads((run / "export.json").read_text())
    fp32, file = found["files"]
    assert (file["file"], file["scheme"]) == ("student/openvino/model.xml", "8-bit weights")
    assert [each["scheme"] for each in found["gate"]["tried"]] == ["OpenVINO, 8-bit weights"]
    assert (run / "student/openvino/model.bin").stat().st_size < 0.4 * fp32["bytes"]
    assert {line["model"] for line in found["speed"]} >= {"student", "ONNX", "OpenVINO"}
    assert not list((run / "student").rglob(".*")) and not (run / "student/onnx/model_int8.onnx").exists()


def test_outputs_are_pytorch_s_at_every_batch_size_and_length(run: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    export_run(run, openvino=True)
    model = AutoModelForSequenceClassification.from_pretrained(run / "student")
    tokenizer, file = (
        AutoTokenizer.from_pretrained(run / "student"),
        OpenVinoModel(run / "student/openvino/model.xml", 1),
    )
    for rows, words in ((1, 1), (1, 25), (7, 3), (2, 12)):
        inputs = tokenizer([" ".join(["the sea"] * words)] * rows, return_tensors="pt", padding=True)
        with torch.no_grad():
            assert np.abs(file(inputs) - model(**inputs).logits.numpy()).max() < 0.1


def test_weights_of_16_bits_are_kept_where_8_lose_too_much(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    run = finished_run(tmp_path)
    harm(run / "student", outlying_weights)
    with pytest.raises(ExportError, match="no 8-bit ONNX file is kept"):
        export_run(run, int8=True, openvino=True)
    found = json.loads((run / "export.json").read_text())
    assert [file["file"] for file in found["files"]] == ["student/onnx/model.onnx", "student/openvino/model.xml"]
    assert [each["verdict"] for each in found["gate"]["tried"][-2:]] == ["loses too much", "kept"]
    assert found["files"][1]["scheme"] == "16-bit weights"
