"""`distilect estimate` against measured runs at three sizes: the error of its cost model, on this machine.

    python -m benchmarks.estimate_check [--rows 1000 2000 4000]

Each run has its own output folder, so that nothing is scored before it. Run this on a quiet machine: the estimate measures what a step
costs at that moment.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import BACKBONE, untrained_teachers, write_result
from distilect.config import parse_config
from distilect.demo import build_docstrings
from distilect.pipeline import run
from distilect.pipeline.estimate import estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--method", default="uniform")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw: dict[str, Any] = {
            "data": {"train": str(build_docstrings(folder / "data").train_path), "validation_size": 200},
            "student": "teacher-1[layers=3]",
            "method": given.method,
            "train": {"epochs": 2, "max_length": 96},
        }
        raw["teachers"] = untrained_teachers(raw, [BACKBONE, f"{BACKBONE}[layers=4]"], folder)
        lines = [measured(raw, count, folder) for count in given.rows]
    worst = max(abs(line[f"{what}_error"]) for line in lines for what in ("scoring", "training", "bytes"))
    write_result("estimate_check", {"runs": lines, "worst_error": worst})


def measured(raw: dict[str, Any], count: int, folder: Path) -> dict[str, Any]:
    """One run over so many rows, and its estimate."""
    output = folder / f"out-{count}"
    config = parse_config(raw | {"output": str(output), "data": raw["data"] | {"max_train_rows": count}})
    foretold = estimate(config, [count])[0]
    cost = run(config)[0].metrics["cost"]
    stored = sum(path.stat().st_size for path in (output / "signals").glob("*/*/shard-*.safetensors"))
    pairs = {
        "scoring": (foretold.scoring_seconds, cost["scoring_seconds"]),
        "training": (foretold.training_seconds, cost["train_seconds"]),
        "bytes": (foretold.signal_bytes, float(stored)),
    }
    line: dict[str, Any] = {"rows": count}
    for name, (before, found) in pairs.items():
        line |= {
            name: round(found, 2),
            f"{name}_foretold": round(before, 2),
            f"{name}_error": round(before / found - 1, 3),
        }
    return line


if __name__ == "__main__":
    main()
