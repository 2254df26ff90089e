"""How long models take, in PyTorch and in onnxruntime, measured in turns on the same texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilect.data import Encoded
from distilect.evaluation import take_turns
from distilect.export.onnx import OnnxModel
from distilect.export.openvino import OpenVinoModel
from distilect.models.words import split_words
from distilect.progress import track

Inputs = dict[str, Tensor]
# number of threads (None: as many as it likes) → a function that runs one batch with so many
Start = Callable[[int | None], Callable[[Inputs], Any]]
ROUNDS = {1: 40, 32: 6}  # measured rounds by batch size; a larger batch varies less


def start_torch(model: Any, *, bf16: bool = False) -> Start:
    """A PyTorch model in fp32, or a copy of it in bf16; the number of threads is the process's."""
    model = copy.deepcopy(model).to(torch.bfloat16) if bf16 else model

    def run(inputs: Inputs) -> None:
        with torch.inference_mode():
            model(**inputs)

    return lambda threads: run


def start_onnx(path: Path) -> Start:
    """An ONNX file; each number of threads gets a session of its own."""
    return lambda threads: OnnxModel(path, threads)


def start_openvino(path: Path) -> Start:
    """An OpenVINO model; each number of threads gets a compiled model of its own."""
    return lambda threads: OpenVinoModel(path, threads)


def speed_table(
    models: Mapping[str, tuple[Start, Encoded]],
    *,
    reference: str,
    threads: Sequence[int] = (1, 2),
    rounds: Mapping[int, int] = ROUNDS,
) -> list[dict[str, Any]]:
    """One line per number of threads, batch size and model: p50_ms and p95_ms of a batch's forward pass, rows_per_second, faster.

    `faster` is the median over rounds of the reference's time over the model's in the same round: on a shared machine only ratios mean
    much.

    Args:
        models: name → how to start it, and the texts in its own tokens.
        reference: the model that the others are compared with.
        rounds: batch size → measured rounds.
    """
    before = torch.get_num_threads()
    lines = []
    try:
        for count, size in track([(count, size) for count in threads for size in rounds], "timing"):
            torch.set_num_threads(count)
            jobs = {name: (start(count), _batches(rows, size, rounds[size])) for name, (start, rows) in models.items()}
            times = take_turns(jobs, rounds[size])
            for name, seconds in times.items():
                p50, p95 = (1000.0 * float(np.quantile(seconds, q)) for q in (0.5, 0.95))
                speed = {
                    "p50_ms": round(p50, 4),
                    "p95_ms": round(p95, 4),
                    "rows_per_second": round(1000 * size / p50, 2),
                    "faster": round(float(np.median(np.divide(times[reference], seconds))), 3),
                }
                lines.append({"model": name, "threads": count, "batch": size, **speed})
    finally:
        torch.set_num_threads(before)
    return lines


def _batches(rows: Encoded, size: int, rounds: int) -> list[Inputs]:
    """As many batches as there are rounds or different rows; all models get the same rows."""
    count = max(1, min(rounds, len(rows) // size))
    return [model_inputs(rows, np.arange(i * size, (i + 1) * size) % len(rows)) for i in range(count)]


def model_inputs(rows: Encoded, index: Sequence[int] | NDArray[np.int64]) -> Inputs:
    """What a model reads of some rows; where the words stand in it is left out."""
    return split_words(rows.collate(index))[0]
