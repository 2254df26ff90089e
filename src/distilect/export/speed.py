"""How long models take, in PyTorch and in onnxruntime, measured in turns on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilect.data import Encoded
from distilect.evaluation import take_turns
from distilect.export.onnx import OnnxModel
from distilect.progress import track

Inputs = dict[str, Tensor]
ROUNDS = {1: 60, 32: 12}  # measured rounds by batch size; a larger batch varies less


@dataclass(frozen=True)
class Runner:
    """A model to time.

    Attributes:
        start: number of threads → a function that runs one batch with so many.
        encoded: the texts in its own tokens.
    """

    start: Callable[[int], Callable[[Inputs], Any]]
    encoded: Encoded

    def batches(self, size: int, rounds: int) -> list[Inputs]:
        """As many batches as there are rounds or different rows; all models get the same rows."""
        count, rows = max(1, min(rounds, len(self.encoded) // size)), len(self.encoded)
        return [self.encoded.collate(np.arange(i * size, (i + 1) * size) % rows) for i in range(count)]


def torch_runner(model: Any, encoded: Encoded) -> Runner:
    """A PyTorch model in fp32; the number of threads is the process's."""

    def run(inputs: Inputs) -> None:
        with torch.inference_mode():
            model(**inputs)

    return Runner(lambda threads: run, encoded)


def onnx_runner(path: Path, encoded: Encoded) -> Runner:
    """An ONNX file; each number of threads gets a session of its own."""
    return Runner(lambda threads: OnnxModel(path, threads), encoded)


def speed_table(
    runners: Mapping[str, Runner], *, threads: Sequence[int] = (1, 2), rounds: Mapping[int, int] = ROUNDS
) -> list[dict[str, Any]]:
    """One line per number of threads, batch size and model: p50_ms and p95_ms of a batch's forward pass, rows_per_second.

    Texts are tokenised before. On a shared machine only ratios mean much.
    """
    before = torch.get_num_threads()
    lines = []
    try:
        for count, size in track([(count, size) for count in threads for size in rounds], "timing"):
            torch.set_num_threads(count)
            models = {
                name: (runner.start(count), runner.batches(size, rounds[size])) for name, runner in runners.items()
            }
            for name, seconds in take_turns(models, rounds[size]).items():
                p50, p95 = (1000.0 * float(np.quantile(seconds, q)) for q in (0.5, 0.95))
                times = {
                    "p50_ms": round(p50, 4),
                    "p95_ms": round(p95, 4),
                    "rows_per_second": round(1000.0 * size / p50, 2),
                }
                lines.append({"model": name, "threads": count, "batch": size, **times})
    finally:
        torch.set_num_threads(before)
    return lines
