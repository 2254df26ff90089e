"""Results and predictions of comparisons that never ran."""

from __future__ import annotations

from typing import Any

import numpy as np

from distilect.experiments.results import Result

LABELS = np.arange(200) % 2


def predicted(share: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """Classes of which that share is right, the first rows."""
    return np.where(np.arange(200) < round(share * 200), LABELS, 1 - LABELS)


class Made:
    """Collects results of trials with a given accuracy."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.predictions: dict[str, np.ndarray[Any, Any]] = {}

    def add(
        self,
        method: str,
        accuracy: float,
        *,
        task: str = "one",
        seed: int = 0,
        scenario: str = "ordinary",
        teacher: float = 0.9,
        family: str = "static",
        tokens: int = 1000,
        **cost: float,
    ) -> Made:
        values = predicted(accuracy)
        exact = float((values == LABELS).mean())
        trial = f"{scenario}.{task}.s.{method}.seed={seed}"
        rows = f"{scenario}.{task} dev"
        self.predictions[f"{trial} x"] = values.astype(float)
        self.predictions[f"labels {rows}"] = LABELS.astype(float)
        label_space = {
            "name": task,
            "kind": "classification",
            "labels": ["0", "1"],
            "metrics": ["accuracy"],
            "num_texts": 1,
        }
        self.results.append(
            {
                "trial": trial,
                "settings": "x",
                "scenario": scenario,
                "task_name": task,
                "student_name": "s",
                "method": method,
                "family": family,
                "seed": seed,
                "primary": "accuracy",
                "task": label_space,
                "dev_fingerprint": "dev",
                "student": {"scores": {"accuracy": exact}, "validation": {}, "layers": 3, "parameters": 17_000_000},
                "teachers": [
                    {"name": "t", "scores": {"accuracy": teacher}, "layers": 6},
                    {"name": "table", "scores": {}},
                ],
                "cost": {"train_seconds": 2.0, "steps": 10, "student_tokens": tokens, **cost},
                "rows": {"train": 100, "validation": 10, "dev": 200, "extra": 0},
                "versions": {"distilect": "0", "torch": "2"},
                "machine": {"platform": "here", "device": "cpu"},
            }
        )
        return self
