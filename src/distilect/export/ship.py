"""`distilect export`: a finished run's student made ready to ship, checked on the rows that the run reports on, and timed."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import RunConfig, load_config
from distilect.data import Encoded
from distilect.errors import DistilectError, ExportError, RunError
from distilect.export.gate import Gate
from distilect.export.hub import check_card, check_name, push
from distilect.export.model_card import write_model_card
from distilect.export.onnx import OnnxModel, check_packages, export_onnx, outputs
from distilect.export.openvino import OpenVinoModel, check_openvino, convert
from distilect.export.plain import write_plain
from distilect.export.quantise import products, quantise, schemes
from distilect.export.rows import Comparison, Rows, rows_to_report, run_data
from distilect.export.speed import ROUNDS, Start, model_inputs, speed_table, start_onnx, start_openvino, start_torch
from distilect.files import atomic_write
from distilect.models import CheckpointTeacher
from distilect.progress import console
from distilect.report import best_teacher, build_report, model_rows
from distilect.report.files import mapping, read_export, read_metrics, records
from distilect.tasks import Task

TOLERANCE = 1e-3  # of logits, relative to the largest: rounding of other kernels stays far below
TIMED_ROWS = 512
CALIBRATION_ROWS = 128  # of train, on which products are ranked
MAX_DROP = 0.3  # points of the primary metric
FP32, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"  # where transformers.js and optimum look
OPENVINO = "openvino/model.xml"


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
    openvino: bool = False,
    max_drop: float = MAX_DROP,
    dev: str | None = None,
    repository: str | None = None,
    public: bool = False,
    license: str | None = None,
    base_model: str | None = None,
    language: str | None = None,
) -> Exported:
    """Make the student of a finished run ready to ship: model card, ONNX files beside the checkpoint, upload.

    Writes `student/README.md`, `student/onnx/`, `student/openvino/`, `export.json` and the run's page. Files of an earlier export
    are replaced.

    Args:
        onnx, int8, openvino: which files to write; the others are made from the fp32 file, which is then written too.
        max_drop: points of the primary metric that an 8-bit file may lose on the validation split. Above it the next gentler scheme is
            tried.
        dev: labelled table to check and time on; by default the one of the run's config.
        repository: OWNER/NAME on the Hub to push to, `public` or private.
        license, base_model, language: for the model card, as the Hub names them; remembered for the next export.

    Raises:
        RunError: there is no finished run in the folder.
        ExportError: a package is missing, the exporter fails, the file's logits differ from the student's, or no 8-bit file stays within
            `max_drop`. In the last case all that was asked for but that file is written; nothing is uploaded.
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
    if config.task.kind == "causal-lm" and (onnx or int8 or openvino):
        raise ExportError(
            f"a language model is shipped as its checkpoint, {student}, which transformers, vLLM and llama.cpp's converter read: leave out "
            "--onnx, --int8 and --openvino"
        )
    if onnx or int8 or openvino:
        measured = _export_files(root, metrics, config, dev, _Asked(int8, openvino, max_drop))
        lines = [f"{file['file']}: {file['text']}" for file in measured["files"]]
        speed = measured["speed"]
    else:
        measured = {key: known[key] for key in ("rows", "files", "gate", "speed") if key in known}
    content = json.dumps({**measured, "card": card}, indent=2, ensure_ascii=False)
    atomic_write(root / "export.json", content + "\n")
    write_model_card(student, metrics, config, export=measured, **card)
    check_card(student / "README.md")
    lines.append(f"model card: {student / 'README.md'}")
    build_report(root)
    refusals = mapping(measured.get("gate")).get("refusals") if int8 or openvino else None
    if refusals:
        raise ExportError("; ".join(refusals))
    address = push(student, repository, public=public) if repository else None
    return Exported(lines, speed, address)


@dataclass(frozen=True)
class _Asked:
    """What to write beside the fp32 file."""

    int8: bool
    openvino: bool
    max_drop: float


@dataclass
class _Files:
    """The files that are kept: each compared with the student on the reported rows."""

    root: Path
    dev: Rows
    found: list[dict[str, Any]] = field(default_factory=list)
    starts: dict[str, Start] = field(default_factory=dict)

    def add(self, name: str, path: Path, start: Start, scheme: str = "") -> float:
        """Note a file; returns the largest difference of its outputs.

        Args:
            start: of the file, as it is timed.
            scheme: how it was quantised.
        """
        compared = self.dev.compare(outputs(start(None), self.dev.encoded))
        self.starts[name] = start
        self.found.append(
            {
                "file": str(path.relative_to(self.root)),
                "scheme": scheme,
                "bytes": _size(path),
                "max_difference": compared.largest,
                "changed_labels": compared.changed,
                "scores": compared.scores,
                "text": self._text(compared, scheme, _size(path)),
            }
        )
        return compared.largest

    def _text(self, compared: Comparison, scheme: str, size: int) -> str:
        """`int8, 8.5 MB, largest difference from PyTorch 0.5 on 951 rows, 16 labels changed, accuracy 0.6519 (−0.0021)`."""
        differ = f"largest difference from PyTorch {compared.largest:.2g} on {len(self.dev):,} rows"
        text = [*([scheme] if scheme else []), f"{size / 1e6:.1f} MB", differ]
        text += [] if compared.changed is None else [f"{compared.changed} labels changed"]
        before = self.dev.scores(self.dev.reference)
        for metric, value in compared.scores.items():
            change = f"{value - before[metric]:+.4f}".replace("-", "−")
            text.append(f"{metric} {value:.4f} ({change})")
        return ", ".join(text)


def _export_files(
    root: Path, metrics: dict[str, Any], config: RunConfig, dev: str | None, asked: _Asked
) -> dict[str, Any]:
    """Write the files, check each against PyTorch, and time all models: the content of `export.json`."""
    _check(asked)
    folder, task = root / "student", Task.from_dict(mapping(metrics.get("task")))
    student = _load("student", folder, task, config)
    files = _Files(root, Rows.of(student, task, rows_to_report(config, folder, dev)))
    # what can fail fails before the exporter
    data = run_data(config, folder, metrics) if asked.int8 or asked.openvino else None
    fp32 = _write_fp32(files, student, folder / FP32)
    if missing := write_plain(student, task, files.dev.table, files.dev.encoded, fp32.parent):
        console.print(missing, markup=False)
    gate = None
    if data is not None:
        gate = Gate(Rows.of(student, task, data.validation, own_labels=True), asked.max_drop)
        if gate.open and asked.int8:
            draw = np.random.default_rng(config.seed).permutation(len(data.train))[:CALIBRATION_ROWS]
            _write_int8(files, fp32, folder / INT8, gate, student.encode(data.train.take(np.sort(draw))))
        if gate.open and asked.openvino:
            _write_openvino(files, fp32, folder / OPENVINO, gate)
    speed = _time(files, student, _best_teacher(metrics, task, config))
    judged = {"gate": gate.to_dict()} if gate else {}
    return {"rows": len(files.dev), "files": files.found, **judged, "speed": speed}


def _check(asked: _Asked) -> None:
    """Refuse before any work is done."""
    check_packages()
    if asked.openvino:
        check_openvino()
    if not asked.max_drop >= 0:
        raise ExportError(f"--max-drop {asked.max_drop}: expected points of the primary metric, 0 or more")


def _write_fp32(files: _Files, student: CheckpointTeacher, target: Path) -> Path:
    """The fp32 file, whose outputs are the student's; the other files of an earlier export are then removed."""
    console.print("exporting to ONNX (about half a minute)")
    encoded, reference = files.dev.encoded, files.dev.reference
    # Two rows, or one row twice: a size of 1 would be taken for a constant.
    export_onnx(student.model, encoded.collate([0, 1 % len(encoded)]), target)
    difference = files.add("ONNX", target, start_onnx(target))
    if difference > TOLERANCE * max(1.0, float(np.abs(reference).max())):
        _remove(target)
        raise ExportError(
            f"{target}: its logits differ from the student's by up to {difference:.2g} on {len(files.dev)} rows: not kept; "
            "try another version of torch or onnxscript"
        )
    for old in (INT8, OPENVINO):
        _remove(files.root / "student" / old)
    return target


def _write_int8(files: _Files, source: Path, target: Path, gate: Gate, calibration: Encoded) -> None:
    """The 8-bit file by the first scheme that the gate keeps; none if it keeps none."""
    first = len(gate.tried)
    for scheme, exact in schemes(source, calibration):
        quantise(source, target, exact)
        if gate.keeps(scheme.name, _size(target), OnnxModel(target).predict(gate.rows.encoded)):
            files.add("ONNX int8", target, start_onnx(target), scheme.name)
            return
        _remove(target)
    gate.refuse("8-bit ONNX file", gate.tried[first:])


def _write_openvino(files: _Files, source: Path, target: Path, gate: Gate) -> None:
    """The student for OpenVINO with 8-bit weights, or with 16-bit ones, whichever the gate keeps first."""
    first = len(gate.tried)
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".int8-") as folder:
        weights = quantise(source, Path(folder) / "weights.onnx", products(source))
        for scheme, of in (("8-bit weights", weights), ("16-bit weights", source)):
            convert(of, target)
            logits = outputs(OpenVinoModel(target), gate.rows.encoded)
            if gate.keeps(f"OpenVINO, {scheme}", _size(target), logits):
                files.add("OpenVINO", target, start_openvino(target), scheme)
                return
    _remove(target)
    gate.refuse("OpenVINO file", gate.tried[first:])


def _time(files: _Files, student: CheckpointTeacher, teacher: CheckpointTeacher | None) -> list[dict[str, Any]]:
    """The best teacher, the student in fp32 and in bf16, and the files, on the same texts."""
    timed = files.dev.table.take(np.arange(min(TIMED_ROWS, len(files.dev))))  # each model reads them in its own tokens
    tokens = student.encode(timed)
    models: dict[str, tuple[Start, Encoded]] = {}
    if teacher:
        models[f"teacher {teacher.name}"] = (start_torch(teacher.model), teacher.encode(timed))
    models["student"] = (start_torch(student.model), tokens)
    bf16 = start_torch(student.model, bf16=True)
    try:
        bf16(None)(model_inputs(tokens, [0]))
        models["student bf16"] = (bf16, tokens)
    except RuntimeError as error:
        console.print(f"[yellow]bf16 is not timed:[/yellow] PyTorch cannot run it here ({error})")
    models |= {name: (start, tokens) for name, start in files.starts.items()}
    threads = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
    return speed_table(models, threads=threads, rounds=ROUNDS, reference="student")


def _parts(path: Path) -> list[Path]:
    """A model's file and those with its weights beside it."""
    return sorted(path.parent.glob(f"{path.stem}.*"))


def _size(path: Path) -> int:
    """Bytes of all parts of a model."""
    return sum(file.stat().st_size for file in _parts(path))


def _remove(path: Path) -> None:
    for file in _parts(path):
        file.unlink()


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
