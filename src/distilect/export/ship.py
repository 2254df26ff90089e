"""`distilect export`: a finished run's student made ready to ship, checked and timed on the rows that the run reports on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import RunConfig, load_config
from distilect.data import Encoded, Table, load_data, load_table
from distilect.errors import DataError, DistilectError, ExportError, RunError
from distilect.evaluation import predict
from distilect.export.hub import check_card, check_name, push
from distilect.export.model_card import write_model_card
from distilect.export.onnx import OnnxModel, check_packages, export_onnx, quantise
from distilect.export.speed import ROUNDS, Start, speed_table, start_onnx, start_torch
from distilect.files import atomic_write
from distilect.models import CheckpointTeacher
from distilect.progress import console
from distilect.report import best_teacher, build_report, model_rows
from distilect.report.files import mapping, read_export, read_metrics, records
from distilect.tasks import Task, margins

TOLERANCE = 1e-3  # of logits, relative to the largest: rounding of other kernels stays far below
TIMED_ROWS = 512
FP32, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"  # where transformers.js and optimum look


@dataclass(frozen=True)
class Exported:
    """What `export_run` made: lines for the user, one per file; and the measurements of `export.json`."""

    lines: list[str]
    speed: list[dict[str, Any]]
    address: str | None = None


def export_run(
    folder: str | Path,
    *,
    onnx: bool = False,
    int8: bool = False,
    dev: str | None = None,
    repository: str | None = None,
    public: bool = False,
    license: str | None = None,
    base_model: str | None = None,
    language: str | None = None,
) -> Exported:
    """Make the student of a finished run ready to ship: model card, ONNX files beside the checkpoint, upload.

    Writes `student/README.md`, `student/onnx/`, `export.json` and the run's page.

    Args:
        onnx, int8: which files to write; int8 is made from the fp32 file, which is then written too.
        dev: labelled table to check and time on; by default the one of the run's config.
        repository: OWNER/NAME on the Hub to push to, `public` or private.
        license, base_model, language: for the model card, as the Hub names them; remembered for the next export.

    Raises:
        RunError: there is no finished run in the folder.
        ExportError: a package is missing, the exporter fails, or the file's logits differ from the student's.
    """
    root = Path(folder)
    metrics, student = read_metrics(root), root / "student"
    if not (student / "config.json").is_file():
        raise RunError(f"no student in {student}: expected the folder of a finished run")
    if repository is not None:
        check_name(repository)
    config, known = load_config(root / "config.yaml"), read_export(root)
    given = {"license": license, "base_model": base_model, "language": language}
    card = {key: value or mapping(known.get("card")).get(key) for key, value in given.items()}
    lines, speed = list[str](), list[dict[str, Any]]()
    if onnx or int8:
        check_packages()
        measured = _export_onnx(root, metrics, config, dev, int8)
        lines = [f"{file['file']}: {file['text']}" for file in measured["files"]]
        speed = measured["speed"]
    else:
        measured = {key: known[key] for key in ("rows", "files", "speed") if key in known}
    content = json.dumps({**measured, "card": card}, indent=2, ensure_ascii=False)
    atomic_write(root / "export.json", content + "\n")
    write_model_card(student, metrics, config, export=measured, **card)
    check_card(student / "README.md")
    lines.append(f"model card: {student / 'README.md'}")
    build_report(root)
    address = push(student, repository, public=public) if repository else None
    return Exported(lines, speed, address)


def _rows_to_check(config: RunConfig, student: Path, dev: str | None = None) -> Table:
    """The run's dev rows, read again; its validation rows where it has no dev.

    Raises:
        ExportError: the file is not where the config says.
    """
    data = config.data
    try:
        spec = dev or data.dev or data.glue
        if spec is None:
            return load_data(data, config.task, config.seed, Path(config.data_dir)).validation
        where = Path(".") if dev else Path(config.data_dir)
        dialect: dict[str, Any] = {} if dev else {"delimiter": data.delimiter, "quoting": data.quoting}
        labels: dict[str, Any] = {"label": data.label, "label_delimiter": data.label_delimiter}
        table, _ = load_table(spec, text=data.text, data_dir=where, like=student, **labels, **dialect)
        return table
    except DataError as error:
        raise ExportError(f"the export is checked on the run's dev rows: {error}; or give --dev FILE") from None


def _export_onnx(root: Path, metrics: dict[str, Any], config: RunConfig, dev: str | None, int8: bool) -> dict[str, Any]:
    """Write the files, check each against PyTorch, and time all models: the content of `export.json`."""
    folder, task = root / "student", Task.from_dict(mapping(metrics.get("task")))
    student = _load("student", folder, task, config)
    rows = _rows_to_check(config, folder, dev)
    encoded = student.encode(rows)
    reference = predict(student.model, encoded, precision="fp32")

    def scores(logits: Any) -> dict[str, float]:
        if not rows.has_label.any():
            return {}
        return task.score(logits[:, student.order], rows.labels, student.thresholds)

    before = scores(reference)

    def check(path: Path) -> dict[str, Any]:
        """The file's logits on the rows against the student's."""
        logits = OnnxModel(path).predict(encoded)
        difference = float(np.abs(logits - reference).max())
        ours, theirs = logits[:, student.order], reference[:, student.order]
        changed = _changed_labels(task, ours, theirs, student.thresholds) if task.labels else 0
        size = sum(
            file.stat().st_size for file in path.parent.glob(f"{path.name}*")
        )  # large weights are in a second file
        found = scores(logits)
        text = [f"{size / 1e6:.1f} MB", f"largest difference from PyTorch {difference:.2g} on {len(rows):,} rows"]
        text += [f"{changed} labels changed"] if task.labels else []
        for name, value in found.items():
            change = f"{value - before[name]:+.4f}".replace("-", "−")
            text.append(f"{name} {value:.4f} ({change})")
        return {
            "file": str(path.relative_to(root)),
            "bytes": size,
            "max_difference": difference,
            "changed_labels": changed,
            "scores": found,
            "text": ", ".join(text),
        }

    console.print("exporting to ONNX (about half a minute)")
    # Two rows, or one row twice: a size of 1 would be taken for a constant.
    example = encoded.collate([0, 1 % len(encoded)])
    paths = {"ONNX": export_onnx(student.model, example, folder / FP32)}
    files = [check(paths["ONNX"])]
    difference = files[0]["max_difference"]
    if difference > TOLERANCE * max(1.0, float(np.abs(reference).max())):
        paths["ONNX"].unlink()
        raise ExportError(
            f"{paths['ONNX']}: its logits differ from the student's by up to {difference:.2g} on {len(rows)} rows: not kept; "
            "try another version of torch or onnxscript"
        )
    if int8:
        paths["ONNX int8"] = quantise(paths["ONNX"], folder / INT8)
        files.append(check(paths["ONNX int8"]))

    timed = rows.take(np.arange(min(TIMED_ROWS, len(rows))))  # each model reads them in its own tokens
    tokens = student.encode(timed)
    models: dict[str, tuple[Start, Encoded]] = {}
    if teacher := _best_teacher(metrics, task, config):
        own = teacher.encode(timed)
        models[f"teacher {teacher.name}"] = (start_torch(teacher.model), own)
    models["student"] = (start_torch(student.model), tokens)
    models |= {name: (start_onnx(path), tokens) for name, path in paths.items()}
    threads = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
    return {"rows": len(rows), "files": files, "speed": speed_table(models, threads=threads, rounds=ROUNDS)}


def _changed_labels(task: Task, logits: Any, reference: Any, thresholds: list[float] | None) -> int:
    """Rows whose predicted label is another one; of a multi-label task pairs of row and label.

    Args:
        logits, reference: [N, C], in the task's order.
    """
    if task.kind != "multi-label":
        return int((logits.argmax(1) != reference.argmax(1)).sum())
    ours, theirs = (margins(np.asarray(values, np.float64), thresholds) > 0 for values in (logits, reference))
    return int((ours != theirs).sum())


def _best_teacher(metrics: dict[str, Any], task: Task, config: RunConfig) -> CheckpointTeacher | None:
    """The best teacher where it is a checkpoint that is still there; it is not timed otherwise."""
    best = best_teacher(model_rows(metrics))
    paths = {raw.get("name"): raw.get("path") for raw in records(metrics.get("teachers"))}
    path = paths.get(best.name) if best else None
    if best is None or not path:
        return None
    try:
        return _load(best.name, path, task, config)
    except DistilectError as error:
        console.print(f"[yellow]the best teacher is not timed:[/yellow] {error}")
        return None


def _load(name: str, path: str | Path, task: Task, config: RunConfig) -> CheckpointTeacher:
    """A model on the CPU, where the files run too: a GPU would not compare with them."""
    length = config.student.max_length or config.train.max_length
    spec = next((teacher for teacher in config.teachers if teacher.name == name), None)
    labels, tokenizer = (spec.labels, spec.tokenizer) if spec else (None, None)
    model = CheckpointTeacher(
        name, str(path), task, max_length=length, precision="fp32", labels=labels, tokenizer=tokenizer
    )
    model.model.cpu()
    return model
