"""Sentences with entities that can be learned by heart, and a finished run over them without its pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from distilect.config import dump_config, parse_config
from distilect.data import Table, encode
from distilect.evaluation import predict
from distilect.models.words import per_unit, split_words
from distilect.pipeline.predictions import PREDICTIONS, write_predictions
from distilect.tasks import Task
from tests.report.run_files import metrics, model
from tests.tiny import SENTENCES, tiny_bert

ENTITIES = {"place": (["north"], ["sea", "view"]), "thing": (["piano"], ["long", "letter"])}
TASK = Task(
    "names",
    "tokens",
    ("O", "B-place", "I-place", "B-thing", "I-thing"),
    ("entity_f1", "entity_precision", "entity_recall", "accuracy"),
    1,
)
Sentence = tuple[list[str], list[str]]


def sentences(rows: int, seed: int = 0) -> list[Sentence]:
    """Words and tags of each; some have no entity."""
    rng = np.random.default_rng(seed)
    known = {word for names in ENTITIES.values() for name in names for word in name}
    fillers = [word for word in " ".join(SENTENCES).replace(",", "").split() if word not in known]
    found: list[Sentence] = []
    for _ in range(rows):
        words, tags = [], []
        for _ in range(int(rng.integers(3, 10))):
            kind = ("place", "thing", "", "")[int(rng.integers(4))]
            name = ENTITIES[kind][int(rng.integers(2))] if kind else [str(rng.choice(fillers))]
            words += name
            tags += [f"{'I' if place else 'B'}-{kind}" if kind else "O" for place in range(len(name))]
        found.append((words, tags))
    return found


def write_conll(path: Path, rows: list[Sentence]) -> Path:
    lines = ("".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def table_of(rows: list[Sentence]) -> Table:
    return Table.from_words(
        [words for words, _ in rows], [[TASK.labels.index(tag) for tag in tags] for _, tags in rows]
    )


def taught(
    folder: Path, family: Any = tiny_bert, *, labels: Any = TASK.labels, seed: int = 3, steps: int = 80, **more: Any
) -> str:
    """A checkpoint that has learned the sentences of `sentences(60)`; its outputs are in the order of `labels`."""
    path = family(folder, list(labels), seed, words=True, **more)
    student, tokenizer = AutoModelForTokenClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = 32
    table = table_of(sentences(60))
    inputs, words = split_words(encode(table, tokenizer, 32).collate(range(60)))
    order = torch.tensor([list(labels).index(label) for label in TASK.labels])
    gold = order[torch.from_numpy(table.labels)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(steps):
        torch.nn.functional.cross_entropy(per_unit(student(**inputs).logits, words), gold).backward()
        optimizer.step()
        optimizer.zero_grad()
    student.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def finished_tagger(folder: Path) -> Path:
    """A run's folder: a student that knows its sentences, a teacher that knows some of them, predictions on dev."""
    run = folder / "runs" / "names"
    run.mkdir(parents=True)
    data = {
        "train": str(write_conll(folder / "train.conll", sentences(60))),
        "dev": str(write_conll(folder / "dev.conll", sentences(24, seed=1))),
        "validation_size": 20,
    }
    student = taught(run / "student")
    teacher = taught(folder / "a", labels=tuple(reversed(TASK.labels)), seed=1, steps=12, layers=4)
    config = parse_config(
        {
            "name": "names",
            "output": str(folder / "runs"),
            "data": data,
            "teachers": [teacher],
            "student": "a[layers=1,3]",
            "method": "uniform",
            "train": {"epochs": 1, "max_length": 32, "precision": "fp32"},
        }
    )
    (run / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    dev = table_of(sentences(24, seed=1))
    outputs = {"student": _outputs(student, dev), "teacher/a": _outputs(teacher, dev)[:, ::-1]}
    write_predictions(run / PREDICTIONS, "dev", dev, TASK, outputs)
    scores = {name: TASK.score(logits, dev.labels, offsets=dev.offsets) for name, logits in outputs.items()}
    sizes = model(0.8, 100, 10.0)
    values = metrics(
        name="names",
        task=TASK.to_dict(),
        primary="entity_f1",
        method="uniform",
        rows={"train": 40, "validation": 20, "dev": 24},
        student={**sizes, "scores": scores["student"], "validation": {}, "max_length": 32},
        teachers=[{"name": "a", "path": teacher, **sizes, "scores": scores["teacher/a"]}],
    )
    (run / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return run


def _outputs(path: str, table: Table) -> Any:
    found = AutoModelForTokenClassification.from_pretrained(path)
    return predict(found, encode(table, AutoTokenizer.from_pretrained(path), 32), precision="fp32")
