"""A toy comparison: tiny models, tiny tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilect.config import parse_part
from distilect.experiments.config import CompareConfig
from tests.pipeline.helpers import write_scores, write_table
from tests.tiny import tiny_bert


class Toy:
    """Files below one folder, and configs over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = {
            name: {
                "train": str(write_table(folder / f"{name}.csv", 60, seed)),
                "dev": str(write_table(folder / f"{name}-dev.csv", 24, seed + 10)),
            }
            for seed, name in enumerate(("one", "two"))
        }
        self.scores = {
            "train": str(write_scores(folder / "scores.csv", 60)),
            "dev": str(write_scores(folder / "scores-dev.csv", 24, 1)),
        }
        self.teachers = [tiny_bert(folder / "a", ["no", "yes"], 1, layers=4), tiny_bert(folder / "b", ["no", "yes"], 2)]
        self.backbone = tiny_bert(folder / "backbone", 2, 3, layers=2)

    def raw(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": "toy",
            "output": str(self.folder / "runs"),
            "tasks": [{"name": "one", "data": self.tables["one"]}],
            "teachers": list(self.teachers),
            "students": ["a[layers=1,3]"],
            "methods": ["finetune", "kd"],
            "seeds": [0],
            "train": {"epochs": 1, "batch_size": 16, "max_length": 32, "precision": "fp32", "logging_steps": 5},
            "signals": {"precision": "fp32"},
            "resamples": 100,
        } | changes

    def config(self, **changes: Any) -> CompareConfig:
        return parse_part(CompareConfig, self.raw(**changes))

    def made(self, name: str, seed: int = 1, **learns: Any) -> dict[str, Any]:
        """A teacher that is fine-tuned here."""
        spec: dict[str, Any] = {"name": name, "finetune": {"init": self.backbone, "epochs": 1, "seed": seed}}
        return spec | ({"learns": learns} if learns else {})
