"""How the options of the preset `rlkd` were chosen: by hidden labels of training rows, not by any student, never on dev.

    python -m benchmarks.rlkd specialists --data demo --work WORK --seeds 0 --methods finetune     # makes teachers and tables
    python -m benchmarks.rlkd_options --work WORK/specialists-demo

Three docstring specialists; 5 % of the labels are known (seeds 100 and 101, which no experiment uses). The policy learns in its
warm-up alone, from an untrained student. What counts is the weighted mean of the teachers' probabilities on the other training rows:
its accuracy and its cross-entropy against the labels that were hidden, for the drawn masks (averaged over 20 epochs) and for the
normalised probabilities. The committed result also holds choices that are fixed in the code by now. `gate`, `entropy` and `uniform` are measured in the same way.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import write_result
from benchmarks.rlkd import VECTOR, few_labels, largest_classes, read_rows
from distilect.config import MethodConfig, parse_config
from distilect.data import row_keys
from distilect.pipeline.work import Workbench
from distilect.selection import StepView, TrainingSample
from distilect.selection.rlkd import ReinforcedTeachers

CHANGES: dict[str, dict[str, Any]] = {
    "rlkd": {},
    "state: joint": {"state": "joint"},
    "without encoder": {"encoder": None},
    "pooling: cls": {"pooling": "cls"},
    "reward: 2": {"reward": 2},
    "policy_updates: 600": {"policy_updates": 600},
    "step_size: 0.5": {"step_size": 0.5},
    "step_size: 8": {"step_size": 8.0},
    "learning_rate: 0.003": {"learning_rate": 0.003},
}


class Untrained:
    """A student that says nothing yet."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def logits(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), self.classes)


def view_of(sample: TrainingSample, epoch: int) -> StepView:
    """The sample without its labels."""
    hidden = replace(sample, labels=torch.full_like(sample.labels, -100))
    return hidden.view(torch.zeros_like(sample.teachers[:, 0]), seed=0, epoch=epoch)


def quality(selector: Any, sample: TrainingSample, gold: Tensor) -> dict[str, float]:
    """Accuracy and cross-entropy of the weighted mean of the teachers."""
    if isinstance(selector, ReinforcedTeachers):
        selector.begin_epoch(Untrained(sample.teachers.shape[-1]), 0)  # type: ignore[arg-type]
    chosen: dict[str, Tensor] = {"": selector.decide(view_of(sample, 1))}
    if isinstance(selector, ReinforcedTeachers):
        masks = [selector.act(view_of(sample, e))[0].actions.float() for e in range(1, 21)]
        chosen["drawn_"] = torch.stack([mask / mask.sum(1, keepdim=True) for mask in masks]).mean(0)
    found = {}
    for name, weights in chosen.items():
        mean = (weights.unsqueeze(-1) * sample.teachers.softmax(-1)).sum(1)
        found[f"{name}accuracy"] = round(float((mean.argmax(1) == gold).float().mean()), 3)
        of_gold = mean[torch.arange(len(gold)), gold].clamp_min(1e-9)
        found[f"{name}cross_entropy"] = round(float(-of_gold.log().mean()), 3)
    return found


def measure(seed: int, work: Path) -> dict[str, Any]:
    train, _ = largest_classes(*read_rows("demo", ".", work, None), 6)
    labels = sorted({label for _, label in train})
    teachers = [work / "teachers" / f"specialist-{third}" / "student" for third in range(3)]
    bench = Workbench.open(parse_config(few_labels("demo", train, labels, teachers, work, seed)), {})
    table = bench.data.distillation
    names = dict(train)
    gold_of = {
        int(key): labels.index(names[text[0]])
        for key, text in zip(row_keys(table.ids), table.text(np.arange(len(table))), strict=True)
    }
    student = bench.new_student()
    methods: dict[str, dict[str, Any]] = {
        "uniform": {"name": "uniform"},
        "entropy": {"name": "entropy"},
        "gate": {"name": "gate", "teachers": {"name": "gate", **VECTOR}},
    }
    methods |= {name: {"name": "rlkd", "teachers": {**VECTOR, **change}} for name, change in CHANGES.items()}
    found = {}
    bench = replace(bench, config=bench.config.model_copy(update={"seed": seed}))
    built, _ = bench.prepare(MethodConfig.model_validate(methods["rlkd"]), student)
    sample = built.teachers.sample(100_000)  # type: ignore[union-attr]
    gold = torch.tensor([gold_of[int(key)] for key in sample.keys])
    hidden = sample.labels < 0
    rest = TrainingSample(
        sample.keys[hidden],
        sample.labels[hidden],
        sample.teachers[hidden],
        None if sample.vectors is None else sample.vectors[hidden],
    )
    for name, method in methods.items():
        built, _ = bench.prepare(MethodConfig.model_validate(method), student)
        vectors = rest
        if "pooling" in name:
            again = built.teachers.sample(100_000).vectors  # type: ignore[union-attr]
            vectors = replace(rest, vectors=again[hidden])
        found[name] = quality(built.teachers, vectors, gold[hidden])
        print(seed, name, found[name], flush=True)
    return {"rows": int(hidden.sum()), "labelled": int((~hidden).sum()), "methods": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    write_result("rlkd_options", {str(seed): measure(seed, given.work) for seed in (100, 101)})


if __name__ == "__main__":
    main()
