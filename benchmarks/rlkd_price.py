"""What RL-KD costs beside `uniform`: the time of an epoch with three stored teachers, as a ratio.

    python -m benchmarks.rlkd_price --data-dir PATH/TO/glue

All ratios are measured in turns in this one process, on MRPC's first rows. The policy acts and learns in every step (no warm-up of the
student, an update per step). The preset's warm-up of the policy takes place once per run and is measured on its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import build_trainer, in_turns, open_bench, ratios, table, timed_training, write_result
from distilect.pipeline.work import Workbench

ACTING: dict[str, Any] = {"warmup_epochs": 0, "policy_rows": 0, "update_every": 1}
PUBLISHED: dict[str, Any] = {"name": "reinforced", **ACTING}
TEACHERS: dict[str, Any] = {
    "uniform": "uniform",
    "rlkd (virtual step)": {"name": "reinforced-virtual", **ACTING},
    "reward 1, half of the rows": {**PUBLISHED, "reward": 1},
    "reward 2, half of the rows": {**PUBLISHED, "reward": 2},
    "reward 2, all rows": {**PUBLISHED, "reward": 2, "share": 1.0},
    "reward 3, 256 validation rows every 10 steps": {**PUBLISHED, "reward": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with MRPC/")
    parser.add_argument("--rows", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = {"glue": "MRPC", "max_train_rows": given.rows, "validation_size": 256}
        bench = open_bench(given.data_dir, data, {"epochs": 1}, Path(folder), teachers=3)

        def measure(name: str) -> float:
            return timed_training(bench, {"name": "uniform", "teachers": TEACHERS[name]})[0]

        times = in_turns(measure, list(TEACHERS), given.repeats)
        warm_up = warm_up_seconds(bench) / statistics.median(times["uniform"])
        found = {name: ratios(seconds, times["uniform"]) for name, seconds in times.items() if name != "uniform"}
        rows = len(bench.data.train)
    values = {"rows": rows, "epoch_over_uniform": found, "policy_warm_up_over_uniform_epoch": round(warm_up, 3)}
    write_result("rlkd_price", values)
    print(as_table(found))


def as_table(found: dict[str, Any]) -> str:
    lines = [[name, f"{v['median']:.2f}", f"{min(v['all']):.2f}–{max(v['all']):.2f}"] for name, v in found.items()]
    return table(["", "epoch / epoch of `uniform`, median", "range"], lines)


def warm_up_seconds(bench: Workbench) -> float:
    """Seconds of the preset's policy warm-up, which comes before the first step."""
    trainer, method = build_trainer(bench, {"name": "rlkd"})
    assert method.teachers is not None
    started = time.perf_counter()
    method.teachers.begin_epoch(trainer.probe, 0)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
