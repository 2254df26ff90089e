"""Every preset trains on a multi-label task, and every preset's student learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distilect.data import Table
from distilect.training import fit
from tests.presets import LEARNED, each_preset, slow
from tests.tiny import SENTENCES
from tests.training.helpers import EAGER, TOPICS, Bench, weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), multi_label=True)


def half_labelled(bench: Bench) -> Table:
    labels = bench.table.labels.copy()
    labels[20:] = -100
    return Table(bench.table.texts, labels, bench.table.ids)


@pytest.mark.parametrize("name", each_preset(LEARNED))
def test_every_preset_trains(bench: Bench, name: str) -> None:
    trainer = bench.trainer({"name": name, **EAGER.get(name, {})}, name=f"preset-{name}", max_length=32)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert all(np.isfinite(values).all() for values in after.values())
    assert any((before[key] != after[key]).any() for key in before)
    history = [line for line in trainer.state.log_history if "loss" in line]
    assert history and all(np.isfinite(line["loss"]) for line in history)


@pytest.mark.parametrize(
    "rows", ["uncertainty", "uncertainty-skip", "uncertainty-plan", "random", "random-skip", "random-plan"]
)
@pytest.mark.parametrize("score", ["entropy", *slow("spread")])
def test_every_row_selector_trains(bench: Bench, rows: str, score: str) -> None:
    options = {"score": score} if rows.startswith("uncertainty") else {}
    if rows.startswith("random") and score == "spread":
        pytest.skip("has no score")
    trainer = bench.trainer(
        {"name": "uniform", "rows": {"name": rows, **options}}, name=f"rows-{rows}-{score}", dropout=0.1
    )
    trainer.train()
    assert all(np.isfinite(values).all() for values in weights(trainer).values())


@pytest.mark.parametrize("name", ["uniform", "best-single", "rlkd", "dynamic-data"])
def test_rows_without_labels_learn_from_the_teachers(bench: Bench, tmp_path: Path, name: str) -> None:
    whole = bench.table
    try:
        bench.table = half_labelled(bench)
        trainer = bench.trainer({"name": name, **EAGER.get(name, {})}, name=f"half-{name}")
        trainer.train()
    finally:
        bench.table = whole
    assert all(np.isfinite(values).all() for values in weights(trainer).values())


def test_what_is_recorded_names_the_labels_of_a_row(bench: Bench, tmp_path: Path) -> None:
    trainer = bench.trainer("best-single", name="recorded")
    trainer.train()
    trainer.records.sample.write(tmp_path / "rows.parquet", bench.table, TOPICS.labels)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    labels = {row["row"]: row["label"] for row in rows}
    for number, row in enumerate(bench.table.labels):
        names = [name for name, has in zip(TOPICS.labels, row, strict=True) if has]
        assert labels[number] == (", ".join(names) or "none of them")
    assert all(0 <= row["uncertainty"] <= 1 for row in rows)
    assert {row["right/t0"] for row in rows} <= {0.0, 1.0}
    assert {line["group"] for line in trainer.records.recorder.table().to_pylist()} == {"all"}


def test_a_student_learns_the_labels_and_keeps_its_thresholds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rows=240, multi_label=True)
    marks = ("good", "cold", "fine")
    bench.table, bench.validation = (marked(rows, marks, seed) for rows, seed in ((240, 0), (80, 1)))
    student = bench.student()
    trainer = bench.trainer("finetune", student=student, epochs=8, learning_rate=5e-3, batch_size=16)
    _, fitted = fit(
        student, trainer.rows, trainer.method, None, trainer.config, tmp_path / "run", seed=0, description="topics"
    )
    assert fitted.validation["micro_f1"] > 0.7  # 0.57 for a student that predicts every label
    assert fitted.thresholds is not None and student.model.config.thresholds == list(fitted.thresholds)
    logits = trainer.predict_rows(trainer.rows.validation_encoded)
    assert torch.isfinite(torch.from_numpy(logits)).all()


def marked(rows: int, marks: tuple[str, ...], seed: int) -> Table:
    """Each label has a word of its own, at a place of its own."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, len(marks))) < 0.4).astype(np.int8)
    words = [w for w in " ".join(SENTENCES).replace(",", "").split() if w not in marks]
    texts = [
        " ".join([*(mark if has else "the" for mark, has in zip(marks, row, strict=True)), rng.choice(words)])
        for row in labels
    ]
    return Table.from_texts(texts, labels)
