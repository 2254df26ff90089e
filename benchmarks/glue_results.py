"""The five GLUE configs' numbers as one page, from the runs' own metrics files.

    for t in mrpc rte cola sts-b sst-2; do distilect run configs/glue/$t.yaml data_dir=PATH/TO/glue; done
    python benchmarks/glue_results.py runs/glue

Writes docs/results/glue.jsonl (one line per student, its whole metrics.json) and docs/results/glue.md.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parent.parent / "docs" / "results"
TASKS = ("mrpc", "rte", "cola", "sts-b", "sst-2")


def collect(folder: Path) -> list[dict[str, Any]]:
    """Metrics of all finished runs below `folder`, in the order of the tasks."""
    found = []
    for task in TASKS:
        for path in sorted(folder.glob(f"{task}*/metrics.json"), key=lambda p: (len(p.parent.name), p.parent.name)):
            config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
            metrics = json.loads(path.read_text(encoding="utf-8"))
            found.append({**metrics, "run": path.parent.name, "max_train_rows": config["data"]["max_train_rows"]})
    return found


def scores(values: dict[str, float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values.values())


def _subset(line: dict[str, Any]) -> str:
    count = line["max_train_rows"]
    return f"The first {count:,} rows of train only: " if count else ""


def page(lines: list[dict[str, Any]]) -> str:
    """Markdown: per task its teachers, then the students with the share of the best teacher that they keep."""
    parts = [
        "# GLUE, one run each",
        "",
        "Made by `distilect run configs/glue/TASK.yaml data_dir=…`, then `python benchmarks/glue_results.py runs/glue`; the whole",
        "`metrics.json` of every run (versions, machine, costs, data fingerprint) is a line of [glue.jsonl](glue.jsonl).",
        "Scores are on the official dev set × 100, which nothing was chosen on: 10 % of train was held out for checkpoint",
        "choice. **One seed**: differences of a point or two between students are noise (the dev sets have 277 to 1,500 rows);",
        "the issue on comparisons measures with seeds and tests. Times are of a shared machine and mean nothing alone.",
        "",
    ]
    for task in TASKS:
        runs = [line for line in lines if line["run"].startswith(task)]
        if not runs:
            continue
        first = runs[0]
        metrics = " / ".join(first["task"]["metrics"])
        rows = first["rows"]
        parts += [
            f"## {task.upper()}: {metrics}",
            "",
            f"{_subset(first)}{rows['train']:,} train rows, {rows['validation']:,} held out, {rows['dev']:,} dev.",
            "",
            f"| model | layers | parameters | {metrics} | share of best teacher |",
            "|---|---|---|---|---|",
        ]
        primary = first["primary"]
        best = max(t["scores"][primary] for t in first["teachers"])
        for t in first["teachers"]:
            parts.append(
                f"| teacher {t['name']} | {t['layers']} | {t['parameters'] / 1e6:.1f} M | {scores(t['scores'])} | |"
            )
        for run in runs:
            s = run["student"]
            kept = f"{100 * s['scores'][primary] / best:.1f} %"
            parts.append(
                f"| student, `{run['method']}` | {s['layers']} | {s['parameters'] / 1e6:.1f} M | {scores(s['scores'])} | {kept} |"
            )
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    lines = collect(parser.parse_args().folder)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in (("glue.jsonl", "".join(json.dumps(x) + "\n" for x in lines)), ("glue.md", page(lines))):
        temporary = TARGET / (name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, TARGET / name)
    print(f"{len(lines)} runs → {TARGET / 'glue.md'}")


if __name__ == "__main__":
    main()
