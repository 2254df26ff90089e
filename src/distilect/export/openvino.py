"""A student for OpenVINO, made of its ONNX file by OpenVINO's own reader, and how it is run.

The package `openvino` alone: optimum-intel needs optimum's exporter, which is behind transformers and torch.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distilect.errors import ExportError


def check_openvino() -> None:
    """Refuse before any work is done.

    Raises:
        ExportError: the package is missing.
    """
    if importlib.util.find_spec("openvino") is None:
        raise ExportError("--openvino needs openvino: pip install 'distilect[openvino]'")


def convert(source: Path, target: Path) -> Path:
    """Write an ONNX file as OpenVINO's .xml with its .bin, the weights first; numbers of 32 bits are stored in 16."""
    import openvino

    model = openvino.Core().read_model(str(source))  # `openvino.convert_model` reports its use over the network
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".openvino-") as folder:
        openvino.save_model(model, str(Path(folder) / target.name), compress_to_fp16=True)
        for suffix in (".bin", ".xml"):
            os.replace((Path(folder) / target.name).with_suffix(suffix), target.with_suffix(suffix))
    return target


class OpenVinoModel:
    """An OpenVINO model, ready to run on the CPU.

    Args:
        threads: None: OpenVINO's choice.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import openvino

        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self.model = openvino.Core().compile_model(str(path), "CPU", settings)
        self.request = self.model.create_infer_request()
        self.names = [value.any_name for value in self.model.inputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Logits float32 [B, C], of each token [B, T, C]; inputs that the model does not know are left out."""
        found = self.request.infer({name: inputs[name].numpy() for name in self.names})
        return np.asarray(found["logits"], dtype=np.float32)
