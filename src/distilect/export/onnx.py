"""A checkpoint as ONNX in fp32, and how a file is run: torch's own exporter.

torch.onnx with dynamo rather than optimum: it is maintained with the torch that trained the model, needs no list of known
architectures, and optimum's exporter still depends on the TorchScript path that torch has retired.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilect.data import Encoded, scoring_batches
from distilect.errors import ExportError
from distilect.models import quiet
from distilect.models.words import per_unit, split_words

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TWO_GB = 1_900_000_000  # an ONNX file is a protocol buffer, which ends at 2 GB: larger weights go to a file beside it
MAX_TOKENS = 16384  # of a batch


def check_packages() -> None:
    """Refuse before any work is done.

    Raises:
        ExportError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--onnx needs {', '.join(missing)}: pip install 'distilect[onnx]'")


class _Logits(nn.Module):
    """A classifier that returns its logits alone: what the file shall give."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits
        return logits


def export_onnx(model: Any, example: Mapping[str, Tensor], target: Path) -> Path:
    """Write `model` (on the CPU, fp32) as ONNX, whole or not at all.

    Args:
        example: inputs of two rows or more, int64 [B, T]; batch and length are free in the file. Of a model that tags words the file
            gives logits of every token.

    Raises:
        ExportError: torch cannot export this architecture.
    """
    inputs = {name: example[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in example}
    named = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)  # older exporters know no names of axes
    free = {0: "batch", 1: "length"} if named else dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    model.config.use_cache = False  # a decoder's file shall not hand out its keys and values
    try:
        with torch.no_grad(), silent():
            program = torch.onnx.export(
                _Logits(model).eval(),
                args=(),
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=dict.fromkeys(inputs, free),
                input_names=list(inputs),
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:
        kind = getattr(model.config, "model_type", type(model).__name__)
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ExportError(
            f"torch {torch.__version__} cannot export {kind} to ONNX ({type(error.__cause__ or error).__name__}: {reason}): try another "
            "version of torch, or ship the checkpoint itself"
        ) from error
    assert program is not None
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > TWO_GB
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnx-") as folder:
        program.save(str(Path(folder) / target.name), external_data=large)  # the file names the one with its weights
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            os.replace(file, target.parent / file.name)
    return target


class OnnxModel:
    """An ONNX file, ready to run on the CPU.

    Args:
        threads: for one operator; None: onnxruntime's choice, one per core.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        # its threads would otherwise go on turning between two runs, and slow down whatever is timed in turns with it
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Logits float32 [B, C], of each token [B, T, C]; inputs that the file does not know are left out."""
        feed = {name: inputs[name].numpy() for name in self.names}
        return np.asarray(self.session.run(["logits"], feed)[0], dtype=np.float32)

    def predict(self, encoded: Encoded) -> NDArray[np.float32]:
        """Logits float32 [N, C] of all rows, or [U, C] of all words."""
        return outputs(self, encoded)


def outputs(run: Callable[[dict[str, Tensor]], Any], encoded: Encoded) -> NDArray[np.float32]:
    """Logits float32 [N, C] of all rows, in batches by length as `evaluation.predict` runs them; [U, C] of a word table's words."""
    batches = scoring_batches(encoded.lengths, MAX_TOKENS)
    parts = np.concatenate([_run(run, encoded, rows) for rows in batches])
    order = np.concatenate(batches)
    if encoded.words is not None:
        order = encoded.words.units.of(order)
    logits = np.empty_like(parts)
    logits[order] = parts
    return logits


def _run(run: Callable[[dict[str, Tensor]], Any], encoded: Encoded, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One batch: [B, C] of its rows, or [U, C] of their words, each read at its first token."""
    inputs, words = split_words(encoded.collate(rows))
    return per_unit(torch.from_numpy(run(inputs)), words).numpy()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """The exporter and the quantiser print steps and warn of packages that they could use."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
