"""How long models take, in PyTorch and in onnxruntime, measured in turns on the same texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilect.data import Encoded
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


def speed_table(
    runners: Mapping[str, Runner], *, threads: Sequence[int] = (1, 2), rounds: Mapping[int, int] = ROUNDS
) -> list[dict[str, Any]]:
    """One line per number of threads, batch size and model: p50_ms and p95_ms of a batch's forward pass, rows_per_second.

    Texts are tokenised before. All models take turns, each going first in turn, so that a disturbance hits all of them alike; on
    a shared machine only ratios mean much.
    """
    before = torch.get_num_threads()
    jobs = [(count, size) for count in threads for size in rounds]
    lines = []
    try:
        for count, size in track(jobs, "timing"):
            torch.set_num_threads(count)
            started = {name: runner.start(count) for name, runner in runners.items()}
            for name, seconds in _times(started, runners, size, rounds[size]).items():
                p50, p95 = (1000.0 * float(np.quantile(seconds, q)) for q in (0.5, 0.95))
                lines.append(
                    {
                        "model": name,
                        "threads": count,
                        "batch": size,
                        "p50_ms": round(p50, 4),
                        "p95_ms": round(p95, 4),
                        "rows_per_second": round(1000.0 * size / p50, 2),
                    }
                )
    finally:
        torch.set_num_threads(before)
    return lines


def torch_runner(model: Any, encoded: Encoded) -> Runner:
    """A PyTorch model in fp32; the number of threads is the process's."""

    def run(inputs: Inputs) -> None:
        with torch.inference_mode():
            model(**inputs)

    return Runner(lambda threads: run, encoded)


def _times(
    started: Mapping[str, Callable[[Inputs], Any]], runners: Mapping[str, Runner], size: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per batch: `rounds` measured ones after two that are thrown away."""
    names = list(started)
    batches = {name: _batches(runners[name].encoded, size, rounds) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-2, rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            inputs = batches[name][max(index, 0) % len(batches[name])]
            began = time.perf_counter()
            started[name](inputs)
            if index >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _batches(encoded: Encoded, size: int, rounds: int) -> list[Inputs]:
    """As many batches as there are rounds or different rows; all models get the same rows."""
    count = max(1, min(rounds, len(encoded) // size))
    return [encoded.collate(np.arange(i * size, (i + 1) * size) % len(encoded)) for i in range(count)]
