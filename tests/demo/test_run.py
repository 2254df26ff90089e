"""The demo's rows, and the sentence under its table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from distilect.demo.run import CLASSES, LABELLED, SPECIALISTS, DemoData, demo_data, verdict
from distilect.export import INT8

ROWS = 600


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return demo_data(tmp_path_factory.mktemp("demo"), ROWS)


def rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def test_students_have_few_labels_and_teachers_two_classes_each(data: DemoData) -> None:
    labelled, others = rows(data.labelled), rows(data.texts)
    assert (len(labelled), len(labelled) + len(others)) == (round(LABELLED * ROWS), ROWS)
    parts = [rows(part) for part in data.parts]
    seen = [{label for _, label in part} for part in parts]
    assert len(parts) == SPECIALISTS and set.union(*seen) == set(data.classes) and sum(map(len, seen)) == CLASSES
    assert sorted(row for part in parts for row in part) == sorted(others)  # no teacher has learned a labelled row
    assert not {text for text, _ in rows(data.dev)} & {text for text, _ in labelled + others}


def test_another_seed_labels_other_rows(data: DemoData, tmp_path: Path) -> None:
    other = demo_data(tmp_path, ROWS, seed=1)
    first, second = set(rows(data.labelled)), set(rows(other.labelled))
    assert len(first) == len(second) and not first & second
    assert first | set(rows(data.texts)) == second | set(rows(other.texts))


def test_the_verdict_compares_with_fine_tuning_and_the_best_teacher(tmp_path: Path) -> None:
    def metrics(method: str, score: float) -> dict[str, Any]:
        teachers = [
            {"name": name, "scores": {"accuracy": s}, "bytes": 91_600_000} for name, s in (("a", 0.2), ("b", 0.4))
        ]
        return {
            "method": method,
            "primary": "accuracy",
            "student": {"scores": {"accuracy": score}},
            "teachers": teachers,
        }

    runs = [metrics("rlkd", 0.7), metrics("gate", 0.8), metrics("finetune", 0.5)]
    said = verdict(runs, tmp_path)
    assert (
        said
        == "rlkd: +20.0 points over fine-tuning the same student on the same labels, +30.0 over b, the best teacher"
    )
    file = tmp_path / "student" / INT8
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(8_000_000))
    assert verdict(runs, tmp_path) == f"{said}; its 8-bit file has 8.0 MB, the teacher 91.6 MB"
