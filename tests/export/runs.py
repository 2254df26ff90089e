"""Finished runs without their pipeline: a tiny student that has learned its table, a tiny teacher, and the metrics of a run.

`harm` and `fake_exporter` make students of the same shape that are hard to quantise, without the exporter's ten seconds each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import dump_config
from distilect.data import load_table
from distilect.export import ship
from tests.pipeline.helpers import Job, write_scores
from tests.report.run_files import metrics, model
from tests.tiny import tiny_bert

# what a machine that serves the model does not have; the beginning of a script
WITHOUT_US = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "distilect", "datasets", "sentence_transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


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
    data: dict[str, Any] = {"train": str(job.train), "dev": str(job.dev), "validation_size": 40}
    task: dict[str, Any] = {
        "name": "toy",
        "kind": "classification",
        "labels": ["no", "yes"],
        "metrics": ["accuracy", "f1"],
        "num_texts": 1,
    }
    if regression:
        data |= {
            name: str(write_scores(folder / f"{name}-scores.csv", rows)) for name, rows in (("train", 80), ("dev", 30))
        }
        task |= {"kind": "regression", "labels": [], "metrics": ["pearson"]}
    config = job.config(data=data, **changes)
    (run / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    tokenizer.model_max_length = config.train.max_length
    tokenizer.save_pretrained(run / "student")
    teach(run / "student", data["train"], (family.__name__, regression))
    values = metrics(
        name="toy",
        task=task,
        primary=task["metrics"][0],
        method="uniform",
        rows={"train": 40, "validation": 40, "dev": 30},
        teachers=[{"name": "a", "path": job.teachers[0], **model(0.8, 100, 10.0)}],
    )
    (run / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return run


_taught: dict[Any, dict[str, Tensor]] = {}  # weights by what was taught, so that a kind of student learns once


def teach(student: Path, train: str, kind: Any) -> None:
    """Train a checkpoint on its toy table until it knows it."""
    model = AutoModelForSequenceClassification.from_pretrained(student)
    if kind not in _taught:
        table, _ = load_table(train, like=student)
        texts = [text for (text,) in table.text(range(len(table)))]
        inputs = AutoTokenizer.from_pretrained(student)(texts, return_tensors="pt", padding=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(60):
            model(**inputs, labels=torch.from_numpy(table.labels)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _taught[kind] = model.state_dict()
    model.load_state_dict(_taught[kind])
    model.save_pretrained(student)


def harm(student: Path, change: Callable[[Mapping[str, Tensor]], None]) -> None:
    """Change a checkpoint's weights in place."""
    model = AutoModelForSequenceClassification.from_pretrained(student)
    with torch.no_grad():
        change(dict(model.named_parameters()))
    model.save_pretrained(student)


def outlying_activations(weights: Mapping[str, Tensor]) -> None:
    """One number of each layer's inner vectors becomes 100,000, and nothing reads it: in 8 bits the others become 0."""
    for name, values in weights.items():
        if name.endswith(("value.weight", "intermediate.dense.weight")):
            values[0] = 0
            weights[name.replace("weight", "bias")][0] = 1e5
        elif name.endswith("output.dense.weight"):
            values[:, 0] = 0


def outlying_weights(weights: Mapping[str, Tensor]) -> None:
    """Two weights of each output that cancel, and are so large that all others are 0 in 8 bits."""
    weights["bert.pooler.dense.weight"][:2] = 0
    weights["bert.pooler.dense.bias"][:2] = 0.5
    weights["classifier.weight"][:, 0], weights["classifier.weight"][:, 1] = 1000, -1000


def one_answer(weights: Mapping[str, Tensor]) -> None:
    """The same label whatever the text."""
    weights["classifier.weight"][:] *= 1e-3


def fake_exporter(run: Path, patch: pytest.MonkeyPatch) -> None:
    """From now on the exporter writes the file of an exported `run` with the weights of the model that it is given."""
    student = run / "student"
    before = AutoModelForSequenceClassification.from_pretrained(student).state_dict()
    content = (student / "onnx" / "model.onnx").read_bytes()

    def export(model: Any, example: Any, target: Path) -> Path:
        file, after = onnx.ModelProto.FromString(content), model.state_dict()
        for value in file.graph.initializer:
            old = onnx.numpy_helper.to_array(value)
            for name, weight in before.items():
                for turn in (lambda array: array, np.transpose):  # the exporter turns the matrices of products round
                    if np.array_equal(old, turn(weight.numpy())):
                        new = np.ascontiguousarray(turn(after[name].numpy()))
                        value.CopyFrom(onnx.numpy_helper.from_array(new, value.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.SerializeToString())
        return target

    patch.setattr(ship, "export_onnx", export)
