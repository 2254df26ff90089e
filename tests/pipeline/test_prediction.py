"""`distilect predict`: labels and probabilities beside the texts, the teachers' agreement for a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilect.errors import DistilectError
from distilect.pipeline import distill, evaluate, prediction
from distilect.pipeline.prediction import predict_file
from tests.pipeline.helpers import Job, write_scores
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("predict"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_predictions_are_those_of_the_model_in_the_order_of_the_file(job: Job, suffix: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(prediction, "BLOCK", 7)  # several blocks, the last one not full
    out = job.folder / f"out{suffix}"
    predict_file(job.teachers[1], job.dev, out, max_length=32, precision="fp32")
    found, gold = rows_of(out), rows_of(job.dev)
    assert [row["text"] for row in found] == [row["text"] for row in gold] and len(found) == 30
    right = np.mean([row["prediction"] == line["label"] for row, line in zip(found, gold, strict=True)])
    scores = evaluate(job.teachers[1], job.dev, max_length=32, precision="fp32")["scores"]
    assert right == pytest.approx(scores["accuracy"])
    for row in found:
        shares = {label: float(row[f"probability_{label}"]) for label in ("no", "yes")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert (
            float(row["probability"]) == pytest.approx(shares[row["prediction"]]) == pytest.approx(max(shares.values()))
        )


def test_a_run_s_student_is_shown_with_its_teachers(job: Job) -> None:
    settings = {"train__epochs": 1, "train__max_length": 32, "method": "uniform", "student": "a[layers=1]"}
    result = distill(
        job.train, job.dev, teachers=[*job.teachers, one_sided], output=job.folder / "runs", name="r", **settings
    )
    unlabelled = job.folder / "new.csv"
    unlabelled.write_text("\n".join(line.rpartition(",")[0] for line in job.dev.read_text().splitlines()) + "\n")
    lines = predict_file(result.folder, unlabelled, job.folder / "new.jsonl")
    assert "not asked, as they are no checkpoints: one_sided" in lines
    found = rows_of(job.folder / "new.jsonl")
    alone = {}
    for name in (*job.teachers, result.folder / "student"):
        predict_file(name, unlabelled, job.folder / "one.jsonl", max_length=32)
        alone[str(name)] = [row["prediction"] for row in rows_of(job.folder / "one.jsonl")]
    student = alone.pop(str(result.folder / "student"))
    assert [row["prediction"] for row in found] == student
    agree = [np.mean([theirs[i] == own for theirs in alone.values()]) for i, own in enumerate(student)]
    assert [row["teachers_agree"] for row in found] == pytest.approx(agree)


def test_a_length_that_is_given_goes_before_that_of_the_run(job: Job) -> None:
    settings = {"train__epochs": 1, "train__max_length": 32, "method": "finetune", "student": job.teachers[0]}
    result = distill(job.train, output=job.folder / "runs", name="short", **settings)
    table = job.folder / "wide.csv"
    table.write_text("text\n" + "good " * 60 + "\nbad\n")
    kept = predict_file(result.folder, table, job.folder / "w.jsonl")
    assert any("1 of them were cut to 32 tokens" in line for line in kept)
    given = predict_file(result.folder, table, job.folder / "w.jsonl", max_length=8)
    assert any("1 of them were cut to 8 tokens" in line for line in given)


def one_sided(texts: list[str]) -> np.ndarray:
    return np.tile([1.0, 0.0], (len(texts), 1))


def test_scores_are_predicted_in_regression(job: Job) -> None:
    table = write_scores(job.folder / "scores.csv", 20)
    model = tiny_bert(job.folder / "scorer", 1, 4)
    predict_file(model, table, job.folder / "scores.parquet", precision="fp32")
    found = rows_of(job.folder / "scores.parquet")
    assert set(found[0]) == {"text", "score", "prediction"} and isinstance(found[0]["prediction"], float)
    assert np.std([row["prediction"] for row in found]) > 0


def test_cut_rows_are_counted_and_other_columns_are_kept(job: Job) -> None:
    table = pa.table({"id": [7, 8], "text": ["good " * 50, "bad"], "note": pa.array([None, None], pa.null())})
    pq.write_table(table, job.folder / "long.parquet")
    lines = predict_file(job.teachers[0], job.folder / "long.parquet", job.folder / "o.parquet", max_length=16)
    assert any("1 of them were cut to 16 tokens" in line for line in lines)
    assert [row["id"] for row in rows_of(job.folder / "o.parquet")] == [7, 8]


@pytest.mark.parametrize(
    "table, message",
    [
        ({"text": ["a"], "prediction": ["x"]}, "has a column 'prediction' already"),
        ({"words": ["a"], "more": ["b"]}, "no column has a usual name for texts"),
        ({"text": ["a", " "]}, "row 2: no text in column text"),
    ],
)
def test_a_table_that_cannot_be_predicted_leaves_no_file(job: Job, table: Any, message: str) -> None:
    pq.write_table(pa.table(table), job.folder / "bad.parquet")
    out = job.folder / "never.csv"
    with pytest.raises(DistilectError, match=message):
        predict_file(job.teachers[0], job.folder / "bad.parquet", out)
    assert not out.exists() and not list(job.folder.glob("*.tmp"))
