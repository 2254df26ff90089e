"""All methods trained in turn, by one rank or by several; each rank writes what it got to FOLDER/out-WORLD-RANK.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from distilect import ranks
from distilect.selection import actor_critic, akskd, presets
from distilect.training.state import to_bytes
from tests.tiny import tiny_bert
from tests.training.helpers import Bench

ROWS = 33  # of batches of 8: the last one has a single row, so one of two ranks has none
SETTINGS: dict[str, Any] = {"dropout": 0.0, "epochs": 1, "batch_size": 8}
TWICE = (
    "rlkd",
    "rlkd-published",
    "dynamic-teacher",
    "dynamic-teacher, soft",
    "rows planned",
)  # one epoch decides the next


def reinforced(**options: Any) -> dict[str, Any]:
    return {"name": "uniform", "teachers": {"name": "reinforced", **options}}


def methods() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Name → method and settings: every preset, and what presets do not reach."""
    found: dict[str, tuple[Any, dict[str, Any]]] = {name: (name, {}) for name in presets()}
    found["rlkd"] = ({"name": "rlkd", "teachers": {"policy_updates": 20}}, {})
    acting = {"warmup_epochs": 0, "policy_rows": 0, "share": 0.7, "update_every": 2}
    found |= {
        "rlkd, real steps": (reinforced(**acting, reward=3), {}),
        "rlkd, student's vectors": (reinforced(**acting, encoder="student"), {}),
        "dynamic-teacher, soft": ({"name": "dynamic-teacher", "teachers": {"mode": "soft"}}, {}),
        "rows skipped": ({"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.1}}, {}),
        "rows planned": ({"name": "dynamic-data", "rows": {"name": "uncertainty-plan", "refresh": 2}}, {}),
        "random rows skipped": ({"name": "uniform", "rows": {"name": "random-skip"}}, {}),
        "akskd, tokens": (
            {"name": "akskd", "loss_weights": {"name": "actor-critic", "phases": 4}},
            {"token_budget": 700},
        ),
        "rows skipped, tokens": (
            {"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.5}},
            {"token_budget": 500, "gradient_accumulation_steps": 2},
        ),
        "credit": ({"name": "alignment", "loss_weights": "alignment", "rows": {"name": "alignment", "ratio": 0.4}}, {}),
        "exact credit": (
            {
                "name": "alignment",
                "teachers": {"encoder": "student", "smoothing": 0.5, "every": 2, "rows": "validation"},
            },
            {},
        ),
        "adaptive, priced": ({"name": "adaptive", "rows": {"name": "adaptive", "price": 0.3}}, {"epochs": 2}),
        "kinds by credit": ({"name": "akskd", "loss_weights": {"name": "alignment-kinds", "phases": 3}}, {}),
        "rlkd, credit": ({"name": "rlkd", "teachers": {"reward": "alignment", "policy_updates": 20}}, {}),
        "parts": ("uniform", {"max_tokens": 24, "gradient_accumulation_steps": 2}),
        # of word tables: what is decided per word, and rows of which no word stays
        "words, rlkd": ({"name": "rlkd", "teachers": {"policy_updates": 20}}, {}),
        "words, whole rows": ({"name": "dynamic-data", "rows": {"ratio": 0.3, "whole_rows": "max"}}, {}),
        "words, skipped": ({"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.1}}, {}),
        "words, parts": (
            {"name": "uniform", "knowledge": {"labels": {}, "response": {}, "feature": {}, "attention": {}}},
            {"max_tokens": 24},
        ),
        # of language models, whose output layer is used beside the wrapped pass (with a ratio of 0.1 two entropies are the same but for rounding)
        "language, rlkd": ({"name": "rlkd", "teachers": {"policy_updates": 20}}, {}),
        "language, uncertain": ({"name": "dynamic-data", "rows": {"ratio": 0.2}}, {}),
        "language, skipped": ({"name": "dynamic-data", "rows": {"name": "uncertainty-skip", "ratio": 0.25}}, {}),
        "projections": ({"name": "pkd", "teachers": "uniform"}, {}),
    }
    return found


def train(bench: Bench, name: str, spec: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Train by one method; what has to be the same, however many processes there are."""
    wide = bench.student_path
    if name == "projections":  # the student is narrower than its teachers
        bench.student_path = str(bench.folder / "narrow")
    folder = f"{name}-{ranks.world()}".replace(" ", "-")
    settings = SETTINGS | settings | ({"epochs": 2} if name in TWICE else {})
    torch.manual_seed(ranks.rank())  # rank 0's projections count
    trainer = bench.trainer(spec, name=folder, **settings)
    bench.student_path = wide
    with mock.patch.multiple(akskd, RANDOM=0.0), mock.patch.multiple(actor_critic, UPDATES=4):  # the actor acts at once
        trainer.train()
    trainer.collect()
    states = [
        hashlib.sha256(to_bytes({k: v for k, v in s.state_dict().items() if k != "averages"})).hexdigest()
        for s in trainer.method.selectors.values()
    ]
    return {
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "scores": [line["eval_accuracy"] for line in trainer.state.log_history if "eval_accuracy" in line],
        "health": [{k: v for k, v in line.items() if "/" in k} for line in trainer.state.log_history if "loss" in line],
        "selection": trainer.records.recorder.table().to_pylist() if ranks.is_main() else [],
        "rows": rows_decided(trainer) if ranks.is_main() else [],
        "spent": trainer.spent_tokens,
        "states": states,
        "weights": [float(p.detach().double().sum()) for p in trainer.model.parameters()],
        "beside": [float(p.detach().double().sum()) for p in trainer.projections.parameters],
        "probed": trainer.counts.extra.get("probed_rows", 0.0),
        "asked": trainer.counts.extra.get("teacher_rows", 0.0),
        "trained": trainer.counts.rows,
    }


def rows_decided(trainer: Any) -> list[dict[str, Any]]:
    """Row by row, what `rows.parquet` would hold; numbers only."""
    lines = trainer.records.sample.table(trainer.rows.table, trainer.rows.task.labels).to_pylist()
    return [{k: v for k, v in line.items() if not isinstance(v, str) and v is not None} for line in lines]


def narrow_student(bench: Bench) -> None:
    tiny_bert(bench.folder / "narrow", ["no", "yes"], seed=4, layers=2, hidden=8)


def main(folder: Path, names: list[str]) -> None:
    """Train by the methods of these names; all, without names."""
    ranks.start()
    benches = {
        "words": Bench(folder / "words", rows=ROWS, words=True),
        "language": Bench(folder / "language", rows=ROWS, tokens=True),
    }
    texts = Bench(folder, rows=ROWS)
    chosen = {name: each for name, each in methods().items() if not names or name in names}
    found = {name: train(benches.get(name.partition(",")[0], texts), name, *each) for name, each in chosen.items()}
    out = folder / f"out-{ranks.world()}-{ranks.rank()}.json"
    out.write_text(json.dumps(found), encoding="utf-8")
