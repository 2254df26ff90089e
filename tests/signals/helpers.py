"""Tiny teachers and tables for the store and its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import TeacherConfig
from distilect.data import Table
from distilect.models import CheckpointTeacher, load_teacher
from distilect.tasks import Task
from tests.tiny import SENTENCES, tiny_bert, tiny_gpt2, tiny_roberta, tiny_xlnet

TASK = Task("toy", "classification", ("neg", "mid", "pos"), ("accuracy",), 1)


def table(rows: int = 30, seed: int = 0) -> Table:
    """Sentences of different lengths, without repetition."""
    rng = np.random.default_rng(seed)
    words = " ".join(SENTENCES).split()
    return Table.from_texts(
        [f"{i} " + " ".join(rng.choice(words, size=1 + int(rng.integers(12)))) for i in range(rows)]
    )


def load(path: str, name: str = "t", precision: str = "fp32", max_length: int = 24) -> CheckpointTeacher:
    teacher = load_teacher(TeacherConfig(name=name, path=path), TASK, precision=precision, max_length=max_length)
    assert isinstance(teacher, CheckpointTeacher)
    return teacher


def pool(folder: Path) -> list[CheckpointTeacher]:
    """Four families, each with labels in an order of its own."""
    makers: dict[str, Any] = {"bert": tiny_bert, "roberta": tiny_roberta, "xlnet": tiny_xlnet, "gpt2": tiny_gpt2}
    orders = (["pos", "neg", "mid"], ["mid", "pos", "neg"], ["neg", "mid", "pos"], ["pos", "mid", "neg"])
    return [
        load(make(folder / name, labels, seed), name)
        for seed, ((name, make), labels) in enumerate(zip(makers.items(), orders, strict=True))
    ]


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def files(root: Path) -> dict[str, bytes]:
    """All shards with their bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in shards(root)}
