"""What a step costs: an epoch with three stored teachers against plain fine-tuning, and against the usual way.

    python -m benchmarks.step_speed --data-dir PATH/TO/glue
    python -m benchmarks.step_speed --words PATH/TO/wnut17        (a tag per word; into words_speed.json)

All ratios are measured in turns in this one process.
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

from benchmarks.common import in_turns, open_bench, ratios, timed_training, write_result
from distilect.data import encode
from distilect.knowledge.response import response_kl
from distilect.models import CheckpointTeacher
from distilect.pipeline.work import Workbench

USUAL_STEPS = 12
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data-dir", help="folder with MRPC/ and SST-2/")
    source.add_argument("--words", help="folder with train.conll")
    parser.add_argument("--tasks", nargs="+", default=["MRPC", "SST-2"])
    parser.add_argument("--rows", type=int, default=8000, help="of each task, at most")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.words:
        write_result("words_speed", measure_words(given.words, given.rows, given.repeats))
        return
    write_result("step_speed", {task: measure(task, given.rows, given.data_dir, given.repeats) for task in given.tasks})


def measure(glue: str, rows: int, data_dir: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        train = {"epochs": 1, "batch_size": BATCH}
        bench = open_bench(data_dir, {"glue": glue, "max_train_rows": rows}, train, Path(folder), teachers=3)
        times = in_turns(lambda name: timed_training(bench, {"name": name})[0], ["finetune", "uniform"], repeats)
        table = bench.data.train
        usual = usual_step(bench) * len(table) / BATCH
        tokens = encode(table, bench.new_student().tokenizer, 128).lengths
    return {
        "rows": len(table),
        "mean_tokens": round(float(tokens.mean()), 1),
        "uniform_over_finetune": ratios(times["uniform"], times["finetune"]),
        "usual_over_uniform": round(usual / statistics.median(times["uniform"]), 2),
        "usual_steps_measured": USUAL_STEPS - 1,
    }


def measure_words(data_dir: str, rows: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data = {"train": "train.conll", "max_train_rows": rows}
        bench = open_bench(data_dir, data, {"epochs": 1, "batch_size": BATCH}, Path(folder), teachers=3)
        names = ["finetune", "uniform", "gate", "entropy"]
        times = in_turns(lambda name: timed_training(bench, {"name": name})[0], names, repeats)
    table = bench.data.train
    found = {f"{name}_over_finetune": ratios(times[name], times["finetune"]) for name in names[1:]}
    return {"rows": len(table), "words": table.num_units, **found}


def usual_step(bench: Workbench) -> float:
    """Mean seconds of a step the usual way: padded to 128, fp32, every teacher run live; a bare loop, no Trainer."""
    student, table = bench.new_student(), bench.data.train
    models = [teacher.model for teacher in bench.teachers if isinstance(teacher, CheckpointTeacher)]
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=5e-5)
    order = np.random.default_rng(0).permutation(len(table))
    student.model.train()
    times = []
    for step in range(USUAL_STEPS):
        start = time.perf_counter()
        batch = order[np.arange(BATCH * step, BATCH * (step + 1)) % len(table)]
        columns = [list(column) for column in zip(*table.text(batch), strict=True)]
        inputs = student.tokenizer(*columns, padding="max_length", truncation=True, max_length=128, return_tensors="pt")
        inputs = inputs.to(student.model.device)
        with torch.no_grad():
            teachers = torch.stack([model(**inputs).logits for model in models], dim=1)  # [B, K, C]
        logits = student.model(**inputs).logits
        labels = torch.from_numpy(table.labels[batch]).to(logits.device)
        hard = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        (0.5 * hard + 0.5 * response_kl(logits, teachers, 4.0).mean(1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.mean(times[1:])  # the first step warms up


if __name__ == "__main__":
    main()
