"""A comparison of language models: specialists that are made of the parts of a mixture, and an oracle that knows the parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distilect.config import parse_part
from distilect.experiments import Plan, compare
from distilect.experiments.config import CompareConfig
from distilect.experiments.results import Results
from distilect.experiments.runner import Runner
from tests.tiny import tiny_llama

pytestmark = pytest.mark.timeout(900)


def write_mixture(folder: Path) -> dict[str, str]:
    """Two domains in turn."""
    found = {}
    for role, first, last in (("train", 0, 40), ("dev", 40, 52)):
        cats = [
            {"prompt": f"how many legs have {n} cats?", "completion": f" {n} * 4 = {4 * n}"} for n in range(first, last)
        ]
        prose = [{"prompt": f"chapter {n} begins: ", "completion": "the weather was fine"} for n in range(first, last)]
        rows = [row for pair in zip(cats, prose, strict=True) for row in pair]
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[role] = str(folder / f"{role}.jsonl")
    return found


@pytest.mark.slow
def test_specialists_of_parts_teach_a_language_model_and_the_oracle_follows_the_part(tmp_path: Path) -> None:
    backbone = tiny_llama(tmp_path / "backbone")
    config = parse_part(
        CompareConfig,
        {
            "name": "parts",
            "output": str(tmp_path / "runs"),
            "backbone": backbone,
            "tasks": [{"name": "mixed", "task": {"kind": "causal-lm"}, "data": write_mixture(tmp_path)}],
            "teachers": [
                {"name": f"part-{k}", "finetune": {"init": "backbone", "epochs": 1}, "learns": {"part": k}}
                for k in range(2)
            ],
            "scenarios": [{"name": "specialists", "parts": {"by": "cluster", "count": 2}}],
            "students": ["backbone[layers=1]"],
            "methods": [
                {"name": "uniform", "temperature": 1},
                {"label": "oracle", "name": "uniform", "temperature": 1, "teachers": {"name": "oracle", "by": "part"}},
            ],
            "seeds": [0],
            "train": {"epochs": 1, "batch_size": 16, "max_length": 64, "precision": "fp32", "logging_steps": 5},
            "signals": {"precision": "fp32"},
            "resamples": 100,
        },
    )
    found = compare(config)
    assert found.done == 2 and not found.failed
    results = Results(config.folder / "results.jsonl").read()
    assert all(np.isfinite(line["student"]["scores"]["perplexity"]) for line in results)
    plan = Plan(config)
    runner = Runner.open(plan, next(iter(plan.setups.values())))
    by_row: dict[str, set[str]] = {}
    for table in (runner.clean.train, runner.clean.validation):
        assert table.units is not None
        owners, keys = table.units.owners, table.unit_keys().tolist()
        for row, key in zip(owners.tolist(), keys, strict=True):
            by_row.setdefault(table.text([row])[0][0], set()).add(runner.experts[key])
    assert all(len(experts) == 1 for experts in by_row.values())  # a token has its row's
    assert set.union(*by_row.values()) == {"part-0", "part-1"}
