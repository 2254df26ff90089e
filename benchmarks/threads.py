"""What waiting OpenMP threads cost: a training step with two threads, quiet and beside busy processes, by how long they spin.

    python -m benchmarks.threads

Each setting runs in a process of its own, since OpenMP reads it once; all of them in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.common import BACKBONE, write_result

DEFAULT = "default of OpenMP"  # torch is loaded before distilect
ONE = "one thread"
OURS = "distilect"  # nothing is set: what `import distilect` chooses
SETTINGS: dict[str, dict[str, str]] = {
    DEFAULT: {},
    OURS: {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    ONE: {"OMP_NUM_THREADS": "1"},
}
BATCH, LENGTH = 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", type=int, default=4, help="busy processes")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    given = parser.parse_args()
    quiet = measure(given.repeats, given.seconds)
    with busy_processes(given.busy):
        busy = measure(given.repeats, given.seconds)
    write_result("threads", {"busy_processes": given.busy, "quiet": summary(quiet), "busy": summary(busy)})


def measure(repeats: int, seconds: float) -> dict[str, list[float]]:
    """Tokens per second of each setting, `repeats` times, in turns."""
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(repeats):
        for name, changes in SETTINGS.items():
            found[name].append(_in_process("torch" if name == DEFAULT else "distilect", changes, seconds))
    return found


def _in_process(first: str, changes: dict[str, str], seconds: float) -> float:
    """Tokens per second of a new process that imports the module `first` before all others."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    work = f"import {first}; from benchmarks.threads import tokens_per_second; print(tokens_per_second({seconds}))"
    command = [sys.executable, "-c", work]
    done = subprocess.run(command, env={**plain, **changes}, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def tokens_per_second(seconds: float) -> float:
    """Of training steps of a six-layer model in this process."""
    import torch

    from distilect.config import StudentConfig
    from distilect.models import build_student
    from distilect.tasks import Task

    student = build_student(
        StudentConfig(init=BACKBONE),
        Task("speed", "classification", ("0", "1"), ("accuracy",), 1),
        {},
        0,
        max_length=LENGTH,
    )
    model = student.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    inputs = {"input_ids": torch.randint(1000, 20_000, (BATCH, LENGTH)), "labels": torch.randint(0, 2, (BATCH,))}
    steps, start = -2, 0.0  # two to warm up
    while steps < 1 or time.perf_counter() - start < seconds:
        if steps == 0:
            start = time.perf_counter()
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps * BATCH * LENGTH / (time.perf_counter() - start)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """`count` processes that take all the time they get."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and each setting's ratio to OpenMP's default and to one thread in the same turn."""
    return {
        name: {
            "tokens_per_second": round(statistics.median(values)),
            "over_default": _ratio(values, found[DEFAULT]),
            "over_one_thread": _ratio(values, found[ONE]),
        }
        for name, values in found.items()
    }


def _ratio(values: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, others, strict=True)), 3)


if __name__ == "__main__":
    main()
