"""What a run reports of itself: versions, fingerprints, sizes, speeds, scores."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from distilect import __version__
from distilect.data import Data
from distilect.evaluation import (
    bytes_on_disk,
    expected_calibration_error,
    flops_per_token,
    measure_speed,
    parameters,
    softmax,
)
from distilect.models import CheckpointTeacher, Student, Teacher, default_device
from distilect.report.models import calibration_text
from distilect.signals import LEAST_ROWS, Calibration, Prepared
from distilect.tasks import Task, has_label
from distilect.training import Fitted

SPEED_TEXTS, SPEED_ROUNDS = 64, 40  # enough for a stable median in a few seconds
STAGE_A_COSTS = ("seconds", "steps", "tokens", "rows", "probed_rows")


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import accelerate
    import tokenizers
    import torch
    import transformers

    modules = {"torch": torch, "transformers": transformers, "tokenizers": tokenizers, "accelerate": accelerate}
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"distilect": __version__, "python": platform.python_version(), "numpy": np.__version__, **found}


def machine() -> dict[str, Any]:
    """Where a run ran; a GPU by its name too."""
    device = default_device()
    named = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"platform": platform.platform(), "device": str(device), **named, "cores": os.cpu_count()}


def data_fingerprint(data: Data) -> str:
    """16 hex digits over all rows of a run, in order, with their labels."""
    parts = [data.train, data.validation, data.dev, data.extra]
    text = " ".join("-" if part is None else part.fingerprint() for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_counts(data: Data, truncated: int) -> dict[str, int]:
    """Rows by role; `truncated` training rows were longer than the student reads."""
    optional = {"dev": data.dev, "extra": data.extra}
    counts = {role: 0 if table is None else len(table) for role, table in optional.items()}
    return {"train": len(data.train), "validation": len(data.validation), **counts, "truncated": truncated}


def student_size(student: Student, folder: Path) -> dict[str, Any]:
    """Parameters, how many of them (of adapters: beside them) were trained, bytes of the saved checkpoint, depth and operations."""
    size = parameters(student.model)
    return {
        "parameters": size.total,
        "trained_parameters": student.source.get("lora", {}).get("parameters", size.total),
        "parameters_without_embeddings": size.without_embeddings,
        "bytes": bytes_on_disk(folder),
        "layers": student.num_layers,
        "max_length": student.max_length,
        "flops_per_token": flops_per_token(student.model),
        "source": student.source,
    }


def teacher_size(teacher: Teacher) -> dict[str, Any]:
    """The same of a teacher; unknown for tables and functions."""
    if not isinstance(teacher, CheckpointTeacher):
        return {"parameters": None}
    return {
        "parameters": parameters(teacher.model).total,
        "bytes": bytes_on_disk(teacher.path),
        "path": str(teacher.path),
        "layers": teacher.num_layers,
    }


def calibration_scores(
    task: Task, calibration: Calibration, outputs: NDArray[np.float32], labels: NDArray[Any]
) -> dict[str, Any]:
    """How a teacher's outputs are calibrated, and what that changes on the validation rows that it was fitted on.

    Classification: temperature; shift of the classes that it never predicts; the expected calibration error before and after.
    Multi-label: the same over all pairs of row and label. Regression: slope, intercept, root mean squared error.

    Args:
        outputs: [N, C] as the teacher gave them; labels: [N] or [N, C].
    """
    if not calibration.rows:
        return {"rows": 0}
    known = has_label(labels)
    measure, name = (_rmse, "rmse") if task.kind == "regression" else (_ece, "ece")
    before, after = (round(measure(values[known], labels[known]), 4) for values in (outputs, calibration(outputs)))
    scores = {"rows": calibration.rows, name: {"before": before, "after": after}}
    if task.kind == "regression":
        return {"slope": calibration.scale, "intercept": calibration.shift, **scores}
    shifted = {"shifted": [task.labels[c] for c in calibration.shifted]} if calibration.shifted else {}
    shift = {"shift": calibration.shift} if calibration.shift else {}
    return {"temperature": round(calibration.temperature, 4), **shift, **shifted, **scores}


def _ece(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    if labels.ndim == 1:
        return expected_calibration_error(softmax(outputs), labels)
    having = expit(outputs).reshape(-1)
    return expected_calibration_error(np.stack([1 - having, having], axis=1), labels.reshape(-1))


def _rmse(outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((outputs[:, 0] - labels) ** 2)))


def calibration_lines(calibrations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What `calibration_scores` says of each teacher, in a line for the user; none where nothing is to be calibrated."""
    if not calibrations:
        return []
    rows = max(one["rows"] for one in calibrations.values())
    if not rows:
        return [f"teacher outputs are not calibrated: fewer than {LEAST_ROWS} validation rows have a label"]
    shown = "; ".join(f"{name} {calibration_text(one)}" for name, one in calibrations.items())
    return [f"calibrated on {rows:,} validation rows: {shown}"]


def costs(
    fitted: Fitted, prepared: Prepared, live_forwards: int, finetune_seconds: float, selection: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Wall times, teacher rows, steps and tokens of a run; running teachers over dev belongs to the report, not to the method.

    Args:
        live_forwards: rows that teachers were run on during training, over all ranks.
        selection: what `learn_selection` returned.
    """
    return {
        "train_seconds": round(fitted.seconds, 3),
        "scoring_seconds": round(prepared.seconds, 3),
        "finetune_seconds": round(finetune_seconds, 3),
        "teacher_forwards": prepared.forwards + live_forwards,
        "steps": fitted.steps,
        "tokens": fitted.tokens,
        "teacher_rows": fitted.asked,
        "probed_rows": fitted.probed,
        "forward_tokens": fitted.forward_tokens,
        "stage_tokens": fitted.stage_tokens,
        "student_tokens": fitted.student_tokens,
        "resumed_at_step": fitted.resumed,
        **{f"selection_{key}": selection[key] for key in STAGE_A_COSTS if selection and key in selection},
    }


def speeds(student: Student, teachers: Sequence[Teacher], data: Data) -> dict[str, dict[str, Any]]:
    """Latency and throughput of `student` and of each `teacher/NAME`, measured in turns on the same texts."""
    table = data.dev if data.dev is not None else data.train
    texts = table.text(np.arange(min(SPEED_TEXTS, len(table))))
    models = {"student": (student.model, student.tokenizer, student.max_length)}
    for teacher in teachers:
        if isinstance(teacher, CheckpointTeacher):
            models[f"teacher/{teacher.name}"] = (teacher.model, teacher.tokenizer, teacher.max_length)
    return {name: speed.to_dict() for name, speed in measure_speed(models, texts, repeats=SPEED_ROUNDS).items()}


def thresholds_by_label(task: Task, thresholds: Sequence[float] | None) -> dict[str, Any]:
    """{"thresholds": label → probability}; empty where a model has none."""
    return {} if thresholds is None else {"thresholds": dict(zip(task.labels, thresholds, strict=True))}


def score_text(scores: Mapping[str, float]) -> str:
    """`accuracy 0.8123, f1 0.8456`."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "no score"
