"""What choosing rows saves: epochs on a tenth of the rows against `kd` on all of them, with stored outputs and with a live teacher.

    python -m benchmarks.selection_speed --data-dir PATH/TO/glue

All ratios are measured in turns in this one process, over the same number of epochs. Measurements of other tasks, batch sizes and numbers
of epochs stay in the result file. The time of an epoch includes loading, scoring passes, planning, teachers and optimiser steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, in_turns, made, open_bench, ratios, table, timed_training, write_result
from distilect.data import encode
from distilect.pipeline.work import Workbench

RATIO = 0.1
SKIP: dict[str, Any] = {"name": "uncertainty-skip", "ratio": RATIO}
PLAN: dict[str, Any] = {"name": "uncertainty-plan", "ratio": RATIO}
ROWS: dict[str, dict[str, Any]] = {
    "all": {"name": "all"},
    "random, skip": {**SKIP, "score": "random"},
    "entropy, labels": {"name": "uncertainty", "ratio": RATIO},
    "entropy, skip": SKIP,
    "entropy, plan of each step": {**PLAN, "refresh": 1},
    "random, plan": {**PLAN, "score": "random"},
    "stale, every epoch": PLAN,
}
TARGETS = {"entropy, skip": 0.45, "entropy, plan of each step": 0.45}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with the GLUE tasks")
    parser.add_argument("--tasks", nargs="+", default=["MRPC", "SST-2"])
    parser.add_argument("--rows", type=int, default=8000, help="of each task, at most")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="rows per step of `all`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    names = ["all", *(name for name in given.methods if name != "all")]
    path = RESULTS / "selection_speed.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for glue, batch in itertools.product(given.tasks, given.batches):
        train = {"epochs": given.epochs, "batch_size": batch}
        measured = measure({"glue": glue, "max_train_rows": given.rows}, train, given.data_dir, names, given.repeats)
        title = f"{glue}, batches of {batch}, {given.epochs} epochs"
        found[title] = {**measured, "made": made()}
        write_result("selection_speed", {**found, "ratio": RATIO})
        print(f"\n### {title}: {measured['rows']:,} rows of {measured['mean_tokens']} tokens\n\n{as_table(measured)}\n")


def measure(
    data: dict[str, Any], train: dict[str, Any], data_dir: str, names: list[str], repeats: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for signals in ("stored", "live"):
        with tempfile.TemporaryDirectory() as folder:
            bench = open_bench(data_dir, data, train, Path(folder), live=signals == "live")
            found[signals] = compare(bench, names, repeats)
            table = bench.data.train
            tokens = encode(table, bench.new_student().tokenizer, 128).lengths
    return {"rows": len(table), "mean_tokens": round(float(tokens.mean()), 1), **found}


def compare(bench: Workbench, names: list[str], repeats: int) -> dict[str, Any]:
    """Name → time as a ratio to `all`, and what was trained on, scored and asked."""
    counts: dict[str, dict[str, float]] = {}

    def seconds(name: str) -> float:
        taken, trainer = timed_training(bench, {"name": "kd", "rows": ROWS[name]})
        counts[name] = {
            "steps": trainer.state.global_step,
            "rows": trainer.counts.rows,
            "probed": trainer.counts.extra.get("probed_rows", 0),
            "asked": trainer.counts.extra["teacher_rows"],
        }
        return taken

    times = in_turns(seconds, names, repeats)
    return {name: {**ratios(times[name], times["all"]), "target": TARGETS.get(name), **counts[name]} for name in names}


def as_table(measured: dict[str, Any]) -> str:
    def cell(signals: str, name: str) -> str:
        one = measured[signals][name]
        return f"{one['median']:.2f} ({min(one['all']):.2f}–{max(one['all']):.2f})"

    rows = [
        [
            name,
            cell("stored", name),
            cell("live", name),
            "" if one["target"] is None else f"≤ {one['target']:.2f}",
            f"{one['rows']:,}",
            f"{one['probed']:,.0f}",
        ]
        for name, one in measured["stored"].items()
    ]
    return table(["rows", "stored signals", "live teacher", "aim", "rows trained on", "rows scored"], rows)


if __name__ == "__main__":
    main()
