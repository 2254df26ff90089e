"""A toy job on disk: a table that can be learned, two tiny teachers, a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import RunConfig, parse_config
from tests.tiny import SENTENCES, tiny_bert


def write_table(path: Path, rows: int, seed: int = 0, labels: tuple[str, ...] = ("no", "yes")) -> Path:
    """CSV with columns text, label; the first word gives the label away."""
    rng = np.random.default_rng(seed)
    words = [w for w in " ".join(SENTENCES).replace(",", "").split() if w not in ("good", "bad")]
    marks = ("bad", "good", "cold", "fine")
    lines = ["text,label"]
    for _ in range(rows):
        label = int(rng.integers(len(labels)))
        text = " ".join([marks[label], *rng.choice(words, size=int(rng.integers(3, 10)))])
        lines.append(f"{text},{labels[label]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_scores(path: Path, rows: int, seed: int = 0) -> Path:
    """CSV with columns text, score."""
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).replace(",", "").split()
    lines = ["text,score"]
    for _ in range(rows):
        score = float(rng.uniform(0, 5))
        lines.append(f"{' '.join(['good'] * round(score) + list(rng.choice(words, size=5)))},{score:.3f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Job:
    """Files of a toy job below one folder, and configs over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = write_table(folder / "train.csv", 80)
        self.dev = write_table(folder / "dev.csv", 30, seed=1)
        self.teachers = [tiny_bert(folder / "a", ["no", "yes"], 1, layers=4), tiny_bert(folder / "b", ["yes", "no"], 2)]

    def raw(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": "toy",
            "output": str(self.folder / "runs"),
            "data": {"train": str(self.train), "dev": str(self.dev)},
            "teachers": list(self.teachers),
            "student": "a[layers=1,3]",
            "method": "uniform",
            "train": {
                "epochs": 2,
                "batch_size": 16,
                "max_length": 32,
                "precision": "fp32",
                "logging_steps": 1,
                "dropout": None,
            },
            "signals": {"precision": "fp32"},
        } | changes

    def config(self, **changes: Any) -> RunConfig:
        return parse_config(self.raw(**changes))
