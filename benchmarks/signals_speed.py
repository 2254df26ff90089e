"""What teacher outputs cost: scoring against a bare loop of forward passes, and looking rows up in a store of a million.

python -m benchmarks.signals_speed --data-dir PATH/TO/glue
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import open_bench, ratios, write_result
from distilect.data import Table, encode, scoring_batches
from distilect.models import CallableTeacher, CheckpointTeacher, autocast, default_device
from distilect.signals import SignalStore, prepare_signals
from distilect.tasks import Task

MAX_TOKENS = 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store that rows are looked up in")
    parser.add_argument("--scored", type=int, default=1500, help="rows of MRPC, at most, that are scored")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = lookup(folder, given.rows, 300)
        write_result(
            "signals_speed", {"lookup": found, "scoring": scoring(given.data_dir, given.scored, folder, given.repeats)}
        )


def scoring(data_dir: str, rows: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Throughput of `prepare_signals` over that of forward passes on the same batches, in turns."""
    bench = open_bench(data_dir, {"glue": "MRPC", "max_train_rows": rows}, {}, folder)
    teacher, table = bench.teachers[0], bench.data.train
    assert isinstance(teacher, CheckpointTeacher)
    bare, ours = [], []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        encoded = encode(table, teacher.tokenizer, 128)
        with torch.inference_mode(), autocast("auto", default_device()):
            for batch in scoring_batches(encoded.lengths, MAX_TOKENS):
                inputs = {name: values.to(default_device()) for name, values in encoded.collate(batch).items()}
                teacher.model(**inputs)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        prepare_signals([teacher], table, SignalStore(folder / f"store-{turn}"), [[]], max_tokens=MAX_TOKENS)
        ours.append(time.perf_counter() - start)
    found = ratios(bare[1:], ours[1:])  # the first turn warms up
    return {"rows": len(table), "throughput_over_bare_loop": found["median"], "all": found["all"]}


def lookup(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Milliseconds to fetch the logits of 32 random rows from three teachers, with `rows` rows in the store."""
    task = Task("synthetic", "classification", ("a", "b"), ("accuracy",), 1)
    table = Table.from_texts([f"row number {i}" for i in range(rows)])

    def outputs(number: int) -> Any:
        return lambda texts: np.full((len(texts), 2), number, dtype=np.float32)

    teachers = [CallableTeacher(f"t{k}", outputs(k), task) for k in range(3)]
    source = prepare_signals(teachers, table, SignalStore(folder / "million"), [[], [], []]).source
    assert source is not None
    rng = np.random.default_rng(0)
    times = []
    for _ in range(repeats):
        wanted = rng.integers(0, rows, size=32)
        start = time.perf_counter()
        signals = source.fetch(table, wanted, [[], [], []])
        times.append(1000 * (time.perf_counter() - start))
        assert signals.logits.shape == (32, 3, 2) and signals.logits[0, 2, 0] == 2
    return {
        "rows": rows,
        "median_ms": round(statistics.median(times), 4),
        "p99_ms": round(float(np.quantile(times[5:], 0.99)), 4),
    }


if __name__ == "__main__":
    main()
