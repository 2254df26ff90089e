"""Finished runs without their training: a tiny student, a tiny teacher, and the metrics that the pipeline would write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from distilect.config import dump_config
from tests.pipeline.helpers import Job, write_scores
from tests.report.run_files import metrics, model
from tests.tiny import tiny_bert


def finished_run(folder: Path, family: Any = tiny_bert, *, regression: bool = False, **changes: Any) -> Path:
    """The run's folder; its teacher `a` is beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder)
    run = folder / "runs" / "toy"
    run.mkdir(parents=True)
    shutil.rmtree(job.teachers[0])
    labels: Any = 1 if regression else ["no", "yes"]
    family(run / "student", labels, 3)
    tiny_bert(job.teachers[0], labels, 1, layers=4)
    data: dict[str, Any] = {"train": str(job.train), "dev": str(job.dev)}
    task: dict[str, Any] = {
        "name": "toy",
        "kind": "classification",
        "labels": ["no", "yes"],
        "metrics": ["accuracy", "f1"],
        "num_texts": 1,
    }
    if regression:
        data |= {"dev": str(write_scores(folder / "scores.csv", 30))}
        task |= {"kind": "regression", "labels": [], "metrics": ["pearson"]}
    config = job.config(data=data, **changes)
    (run / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    values = metrics(
        name="toy",
        task=task,
        primary=task["metrics"][0],
        method="uniform",
        teachers=[{"name": "a", "path": job.teachers[0], **model(0.8, 100, 10.0)}],
    )
    (run / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return run
