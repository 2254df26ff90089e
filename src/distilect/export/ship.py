"""`distilect export`: a finished run's student made ready to ship, checked and timed on the rows that the run reports on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect.config import RunConfig, TeacherConfig, load_config
from distilect.data import Encoded, Table, encode, load_data, load_table
from distilect.errors import DataError, DistilectError, ExportError, RunError
from distilect.evaluation import predict
from distilect.export.hub import check_card, check_name, push
from distilect.export.model_card import write_model_card
from distilect.export.onnx import OnnxModel, check_packages, example_of, export_onnx, quantise
from distilect.export.speed import ROUNDS, Runner, speed_table, torch_runner
from distilect.models import CheckpointTeacher
from distilect.progress import console
from distilect.report import best_teacher, build_report, model_rows
from distilect.report.files import mapping, read_metrics, records
from distilect.tasks import Task

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
    rounds: dict[int, int] | None = None,
) -> Exported:
    """Make the student of a finished run ready to ship: model card, ONNX files beside the checkpoint, upload.

    Writes `student/README.md`, `student/onnx/`, `export.json` and the run's page.

    Args:
        onnx, int8: which files to write; int8 is made from the fp32 file, which is then written too.
        dev: labelled table to check and time on; by default the one of the run's config.
        repository: OWNER/NAME on the Hub to push to, `public` or private.
        license, base_model, language: for the model card, as the Hub names them; remembered for the next export.
        rounds: batch size → measured rounds; for tests.

    Raises:
        RunError: there is no finished run in the folder.
        ExportError: a package is missing, the exporter fails, or the file does not say what the student says.
    """
    root = Path(folder)
    metrics, student = read_metrics(root), root / "student"
    if not (student / "config.json").is_file():
        raise RunError(f"no student in {student}: expected the folder of a finished run")
    if repository is not None:
        check_name(repository)
    config = load_config(root / "config.yaml")
    known = _previous(root)
    given = {"license": license, "base_model": base_model, "language": language}
    card = {key: value or mapping(known.get("card")).get(key) for key, value in given.items()}
    measured: dict[str, Any] = {key: known[key] for key in ("rows", "files", "speed") if key in known}
    lines = []
    if onnx or int8:
        check_packages()
        bench = _Bench(root, metrics, config, dev)
        measured = bench.export(int8, rounds or ROUNDS)
        lines = [f"{check['file']}: {check['text']}" for check in measured["files"]]
    _write(root / "export.json", {**measured, "card": card})
    write_model_card(student, metrics, config, export=measured, **card)
    check_card(student / "README.md")
    lines.append(f"model card: {student / 'README.md'}")
    build_report(root)
    address = push(student, repository, public=public) if repository else None
    return Exported(lines, measured.get("speed", []) if onnx or int8 else [], address)


class _Bench:
    """The student of a run with its best teacher, and the rows to check them on."""

    def __init__(self, root: Path, metrics: dict[str, Any], config: RunConfig, dev: str | None) -> None:
        self.root, self.config = root, config
        self.task = Task.from_dict(mapping(metrics.get("task")))
        self.student = self._load("student", root / "student")
        self.rows = rows_to_check(config, root / "student", dev)
        self.encoded = self._encode(self.student, self.rows)
        self.teacher = self._best_teacher(metrics)

    def export(self, int8: bool, rounds: dict[int, int]) -> dict[str, Any]:
        """Write the files, check them, and time all models."""
        reference = predict(self.student.model, self.encoded, precision="fp32")
        score = self._scores(reference)
        console.print("exporting to ONNX (about half a minute)")
        path = export_onnx(self.student.model, example_of(self.encoded), self.root / "student" / FP32)
        fp32 = self._check(path, reference, score)
        if fp32["max_difference"] > TOLERANCE * max(1.0, float(np.abs(reference).max())):
            path.unlink()
            raise ExportError(
                f"{path}: its logits differ from the student's by up to {fp32['max_difference']:.2g} on {len(self.rows)} rows: not kept; "
                "try another version of torch or onnxscript"
            )
        files, paths = [fp32], {"ONNX": path}
        if int8:
            paths["ONNX int8"] = quantise(path, self.root / "student" / INT8)
            files.append(self._check(paths["ONNX int8"], reference, score))
        return {"rows": len(self.rows), "files": files, "speed": self._speed(paths, rounds)}

    def _check(self, path: Path, reference: NDArray[np.float32], score: dict[str, float]) -> dict[str, Any]:
        """What the file says on the rows, against what the student says."""
        logits = OnnxModel(path).predict(self.encoded)
        apart = float(np.abs(logits - reference).max())
        scores, size = self._scores(logits), _bytes(path)
        changed = int((logits.argmax(1) != reference.argmax(1)).sum()) if self.task.labels else 0
        parts = [f"{size / 1e6:.1f} MB", f"largest difference from PyTorch {apart:.2g} on {len(self.rows):,} rows"]
        if self.task.labels:
            parts.append(f"{changed} of them labelled otherwise")
        for name, value in scores.items():
            drop = f"{value - score[name]:+.4f}".replace("-", "−")
            parts.append(f"{name} {value:.4f} ({drop})")
        return {
            "file": str(path.relative_to(self.root)),
            "bytes": size,
            "max_difference": apart,
            "changed_labels": changed,
            "scores": scores,
            "text": ", ".join(parts),
        }

    def _scores(self, logits: NDArray[np.float32]) -> dict[str, float]:
        if not self.rows.has_label.any():
            return {}
        return self.task.score(logits[:, self.student.order], self.rows.labels)

    def _speed(self, paths: dict[str, Path], rounds: dict[int, int]) -> list[dict[str, Any]]:
        """Teacher, student and files, each in its own tokens of the same rows."""
        some = self.rows.take(np.arange(min(TIMED_ROWS, len(self.rows))))
        runners: dict[str, Runner] = {}
        for name, model in (("teacher", self.teacher), ("student", self.student)):
            if model is not None:
                shown = name if name == "student" else f"teacher {model.name}"
                runners[shown] = torch_runner(model.model, self._encode(model, some))
        tokens = self._encode(self.student, some)
        for name, path in paths.items():
            runners[name] = Runner(lambda threads, path=path: OnnxModel(path, threads), tokens)  # type: ignore[misc]
        threads: Sequence[int] = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
        return speed_table(runners, threads=threads, rounds=rounds)

    def _best_teacher(self, metrics: dict[str, Any]) -> CheckpointTeacher | None:
        """The best teacher where it is a checkpoint that is still there; the table does without it otherwise."""
        best = best_teacher(model_rows(metrics))
        if best is None:
            return None
        path = next((raw.get("path") for raw in records(metrics.get("teachers")) if raw.get("name") == best.name), None)
        try:
            return self._load(best.name, path) if path else None
        except DistilectError as error:
            console.print(f"[yellow]the best teacher is not timed:[/yellow] {error}")
            return None

    def _load(self, name: str, path: Any) -> CheckpointTeacher:
        length = self.config.student.max_length or self.config.train.max_length
        labels = next((t.labels for t in self.config.teachers if t.name == name), None)
        settings = TeacherConfig(name=name, path=str(path), labels=labels)
        model = CheckpointTeacher(
            name, str(settings.path), self.task, max_length=length, precision="fp32", labels=settings.labels
        )
        model.model.cpu()  # the files run there; a GPU would not be compared with them
        return model

    def _encode(self, model: CheckpointTeacher, rows: Table) -> Encoded:
        return encode(rows, model.tokenizer, model.max_length)


def rows_to_check(config: RunConfig, student: Path, dev: str | None = None) -> Table:
    """The run's dev rows, read again; those held out of train where it has none.

    Raises:
        ExportError: the file is not where the config says.
    """
    data = config.data
    try:
        spec = dev or data.dev or data.glue
        if spec is None:
            return load_data(data, config.task, config.seed, Path(config.data_dir)).validation
        where = Path(".") if dev else Path(config.data_dir)
        table, _ = load_table(spec, text=data.text, label=data.label, data_dir=where, like=student)
        return table
    except DataError as error:
        raise ExportError(f"the export is checked on the run's dev rows: {error}; or give --dev FILE") from None


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _previous(root: Path) -> dict[str, Any]:
    try:
        return mapping(json.loads((root / "export.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
