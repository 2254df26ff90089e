"""What RL-KD costs beside `uniform`: the time of an epoch with stored signals, as a ratio.

    python -m benchmarks.rlkd_price --data-dir PATH/TO/glue

All measured alternately in this one process on MRPC's first rows. The policy acts and learns in every step (no student warm-up,
an update per step); teachers have the backbone's real size and are not fine-tuned, which does not matter for speed. The
preset's policy warm-up is once per run and is reported by itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.step_speed import BACKBONE, EpochTime
from distilect.config import MethodConfig, StudentConfig, parse_config
from distilect.data import load_data
from distilect.models import build_student
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.work import Workbench
from distilect.training import DistillationTrainer

ACTING: dict[str, Any] = {"warmup_epochs": 0, "policy_rows": 0, "update_every": 1}
PUBLISHED: dict[str, Any] = {"name": "reinforced", **ACTING}
METHODS: dict[str, Any] = {
    "rlkd (virtual step)": {"name": "reinforced-virtual", **ACTING},
    "reward 1, half of the rows": {**PUBLISHED, "reward": 1},
    "reward 2, half of the rows": {**PUBLISHED, "reward": 2},
    "reward 2, all rows": {**PUBLISHED, "reward": 2, "share": 1.0},
    "reward 3, 256 validation rows every 10 steps": {**PUBLISHED, "reward": 3},
}


def open_bench(data_dir: str, rows: int, folder: Path) -> Workbench:
    """Three teachers of the backbone's size and their stored signals."""
    raw: dict[str, Any] = {
        "data": {"glue": "MRPC", "max_train_rows": rows, "validation_size": 256},
        "data_dir": data_dir,
        "student": f"{BACKBONE}[layers=3]",
        "output": str(folder),
        "train": {"epochs": 1, "load_best_model_at_end": False},
    }
    config = parse_config(raw)
    task = load_data(config.data, config.task, 0, Path(data_dir)).task
    raw["teachers"] = []
    for seed in (1, 2, 3):
        built = build_student(StudentConfig(init=BACKBONE), task, {}, seed, max_length=128)
        built.model.save_pretrained(folder / f"t{seed}")
        built.tokenizer.save_pretrained(folder / f"t{seed}")
        raw["teachers"].append({"name": f"t{seed}", "path": str(folder / f"t{seed}")})
    return Workbench.open(parse_config(raw), {})


class Contender:
    """One method, built once; every `epoch` trains the same student on."""

    def __init__(self, bench: Workbench, teachers: Any, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.student = bench.new_student()
        self.method, self.prepared = bench.prepare(MethodConfig(name="uniform", teachers=teachers), self.student)
        self.rows = training_rows(self.student, bench.data.train, bench.data.validation, bench.data.task)

    def epoch(self) -> float:
        """Seconds of one epoch of the real trainer; evaluation and saving are outside."""
        timer = EpochTime()
        trainer = DistillationTrainer(
            self.student.model,
            self.rows,
            self.method,
            self.prepared.source,
            self.bench.config.train,
            self.folder,
            0,
            [timer],
            vectors=self.prepared.vectors,
        )
        trainer.train()
        return timer.seconds


def warm_up_seconds(bench: Workbench) -> float:
    """The preset's policy warm-up, once per run."""
    student = bench.new_student()
    method, prepared = bench.prepare(MethodConfig(name="rlkd"), student)
    rows = training_rows(student, bench.data.train, bench.data.validation, bench.data.task)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            student.model, rows, method, prepared.source, bench.config.train, Path(folder), 0, vectors=prepared.vectors
        )
        started = time.perf_counter()
        assert method.teachers is not None
        method.teachers.begin_epoch(trainer.probe, 0)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/")
    parser.add_argument("--rows", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bench = open_bench(given.data_dir, given.rows, folder)
        uniform = Contender(bench, "uniform", folder / "uniform")
        contenders = {name: Contender(bench, spec, folder / "method") for name, spec in METHODS.items()}
        ratios: dict[str, list[float]] = {name: [] for name in METHODS}
        uniform.epoch()  # warms the machine up
        before = uniform.epoch()
        for repeat in range(given.repeats):
            for name in list(METHODS) if repeat % 2 else list(reversed(METHODS)):
                seconds = contenders[name].epoch()
                after = uniform.epoch()
                ratios[name].append(seconds / ((before + after) / 2))  # the machine's speed drifts
                print(f"{name} {ratios[name][-1]:.3f} ({seconds:.1f} s)", flush=True)
                before = after
        epoch = before
        values: dict[str, Any] = {
            "rows": len(bench.data.train),
            "epoch_over_uniform": {
                name: {"median": round(statistics.median(all_), 3), "all": [round(r, 3) for r in all_]}
                for name, all_ in ratios.items()
            },
            "policy_warm_up_over_uniform_epoch": round(warm_up_seconds(bench) / epoch, 3),
        }
    write_result("rlkd_price", values)


if __name__ == "__main__":
    main()
