"""Results survive kills, predictions keep what the metrics look at."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from distilect.errors import RunError
from distilect.experiments.results import (
    Results,
    compact_predictions,
    expand_predictions,
    read_predictions,
    write_predictions,
)
from distilect.tasks import Task


def test_results_are_read_as_they_were_added(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    assert results.read() == []
    results.add({"trial": "a", "settings": "1", "text": "ü <b>"})
    results.add({"trial": "b", "settings": "1"})
    results.add({"trial": "a", "settings": "2"})
    assert [result["trial"] for result in results.read()] == ["a", "b", "a"]
    assert set(results.done()) == {("a", "1"), ("b", "1"), ("a", "2")}


def test_a_line_that_a_kill_cut_short_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add({"trial": "a", "settings": "1"})
    with results.path.open("a") as file:
        file.write('{"trial": "b", "sett')
    assert [result["trial"] for result in results.read()] == ["a"]
    results.add({"trial": "c", "settings": "1"})
    assert [result["trial"] for result in results.read()] == ["a", "c"]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")

    def write(number: int) -> None:
        for index in range(20):
            results.add({"trial": f"{number}-{index}", "settings": "1", "filler": "x" * 3000})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results.done()) == 80
    assert all(json.loads(line) for line in results.path.read_text().splitlines())


@pytest.mark.parametrize("metric", ["auc(b)", "average_precision(c)", "f1(a)", "recall(b)"])
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("b", "c", "a", "d")])
def test_what_is_kept_of_a_metric_of_one_class_has_the_same_score(metric: str, labels: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    task = Task("t", "classification", labels, (metric,), 1)
    gold = rng.integers(0, len(labels), 50)
    logits = rng.normal(size=(50, len(labels))).astype(np.float32)
    logits[7] = np.nan
    again = expand_predictions(task, compact_predictions(task, logits))
    assert task.score(again, gold) == pytest.approx(task.score(logits, gold))


def test_what_is_kept_of_a_multi_label_task_has_the_same_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    task = Task("t", "multi-label", ("a", "b", "c"), ("micro_f1", "macro_f1", "map", "subset_accuracy"), 1)
    labels = rng.integers(0, 2, (50, 3)).astype(np.int8)
    logits = rng.normal(size=(50, 3)).astype(np.float32)
    logits[7] = np.nan
    thresholds = (0.2, 0.5, 0.7)
    kept = {"trial 1": compact_predictions(task, logits, thresholds), "labels": labels.reshape(-1)}
    write_predictions(tmp_path / "p.parquet", kept)
    found = read_predictions([tmp_path / "p.parquet"])
    again = expand_predictions(task, found["trial 1"].astype(np.float32))
    assert found["labels"].reshape(-1, 3).tolist() == labels.tolist()
    assert task.score(again, labels) == pytest.approx(task.score(logits, labels, thresholds))
    assert task.score(again, labels) != task.score(logits, labels)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_what_is_kept_of_predictions_has_the_same_scores(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "classification":
        task = Task("t", "classification", ("a", "b", "c"), ("accuracy", "macro_f1", "matthews"), 1)
        labels = rng.integers(0, 3, 50)
        logits = rng.normal(size=(50, 3)).astype(np.float32)
        logits[7] = np.nan
    else:
        task = Task("t", "regression", (), ("pearson", "spearman", "neg_mse"), 1)
        labels = rng.normal(size=50)
        logits = rng.normal(size=(50, 1)).astype(np.float32)
    write_predictions(tmp_path / "p.parquet", {"trial 1": compact_predictions(task, logits), "labels": labels})
    found = read_predictions([tmp_path / "p.parquet"])
    assert found["labels"].tolist() == labels.tolist()
    again = expand_predictions(task, found["trial 1"].astype(np.float32))
    assert task.score(again, labels) == task.score(logits, labels)
    assert (tmp_path / "p.parquet").stat().st_size < 3000


def test_damaged_predictions_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match=r"p\.parquet.*remove it"):
        read_predictions([tmp_path / "p.parquet"])
