from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.data.encoding import Encoded, encode
from distilect.data.table import Table
from distilect.evaluation import chance_of, evaluate, predict, share_kept
from distilect.tasks import Task
from tests import tiny

LABELS = [index % 2 for index in range(len(tiny.SENTENCES))]


def loaded(folder: str) -> tuple[Any, Encoded, Table]:
    table = Table.from_texts(list(tiny.SENTENCES), LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, encode(table, AutoTokenizer.from_pretrained(folder), 32), table


def one_by_one(model: Any, encoded: Encoded) -> np.ndarray[Any, Any]:
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(**encoded.collate([row])).logits.numpy() for row in range(len(encoded))])


@pytest.mark.parametrize("make", [tiny.tiny_bert, tiny.tiny_roberta, tiny.tiny_xlnet, tiny.tiny_gpt2])
@pytest.mark.parametrize("max_tokens", [16, 64, 10_000])
def test_logits_come_in_row_order_whatever_the_batches(tmp_path: Path, make: Any, max_tokens: int) -> None:
    model, encoded, _ = loaded(make(tmp_path, 3))
    logits = predict(model, encoded, max_tokens=max_tokens, precision="fp32")
    assert logits.shape == (len(encoded), 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, one_by_one(model, encoded), atol=2e-5)


def test_a_student_in_training_is_put_back_with_frozen_parts_still_frozen(tmp_path: Path) -> None:
    """Pitfall 40: else dropout is off for the rest of training; pitfall 3: frozen parts must not wake."""
    model, encoded, _ = loaded(tiny.tiny_bert(tmp_path))
    model.train()
    model.bert.embeddings.eval()
    before = {name: module.training for name, module in model.named_modules()}
    first, second = (predict(model, encoded, precision="fp32") for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout was off
    assert {name: module.training for name, module in model.named_modules()} == before
    assert any(before.values()) and not all(before.values())


def test_the_mode_is_put_back_after_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded, _ = loaded(tiny.tiny_bert(tmp_path))
    model.train()
    monkeypatch.setattr(model.classifier, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, encoded, precision="fp32")
    assert all(module.training for module in model.modules())


def test_predicting_keeps_no_graph_and_changes_no_weight(tmp_path: Path) -> None:
    model, encoded, _ = loaded(tiny.tiny_bert(tmp_path))
    before = [p.clone() for p in model.parameters()]
    predict(model, encoded, precision="fp32")
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_half_precision_still_gives_float32(tmp_path: Path) -> None:
    model, encoded, _ = loaded(tiny.tiny_bert(tmp_path))
    half, full = (predict(model, encoded, precision=precision) for precision in ("bf16", "fp32"))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.1)


def test_no_rows_give_no_logits(tmp_path: Path) -> None:
    model, _, table = loaded(tiny.tiny_bert(tmp_path, 4))
    empty = encode(table.take([]), AutoTokenizer.from_pretrained(tmp_path), 32)
    assert predict(model, empty).shape == (0, 4)


def test_evaluate_gives_the_tasks_metrics(tmp_path: Path) -> None:
    model, encoded, table = loaded(tiny.tiny_bert(tmp_path))
    task = Task("t", "classification", ("no", "yes"), ("accuracy", "f1"), 1)
    scores = evaluate(model, encoded, table, task, precision="fp32")
    expected = float((one_by_one(model, encoded).argmax(axis=1) == np.asarray(LABELS)).mean())
    assert list(scores) == ["accuracy", "f1(yes)"]
    assert scores["accuracy"] == pytest.approx(expected)


def test_with_dropout_passes_differ_and_the_mode_is_put_back(tmp_path: Path) -> None:
    model, encoded, _ = loaded(tiny.tiny_bert(tmp_path))
    for training in (False, True):
        model.train(training)
        one, two = (predict(model, encoded, precision="fp32", dropout=True) for _ in range(2))
        assert (one != two).any()
        assert all(module.training == training for module in model.modules())
        clean = predict(model, encoded, precision="fp32")
        assert (clean == predict(model, encoded, precision="fp32")).all()


@pytest.mark.parametrize(
    ("metric", "expected"), [("accuracy", 0.7), ("f1", 2 * 0.3 / 1.3), ("macro_f1", 1.4 / 1.7 / 2), ("matthews", 0.0)]
)
def test_chance_is_what_one_class_for_all_rows_scores_at_best(metric: str, expected: float) -> None:
    labels = np.array([0] * 70 + [1] * 30 + [-100] * 5)
    found = chance_of(Task("t", "classification", ("a", "b"), (metric,), 1), labels)
    spread = math.sqrt(max(expected * (1 - expected), float(metric == "matthews")) / 100)
    assert (found.score, found.limit) == pytest.approx((expected, expected + 1.645 * spread))


@pytest.mark.parametrize(("metric", "expected"), [("pearson", 0.0), ("spearman", 0.0), ("neg_mse", -2.0)])
def test_chance_in_a_regression_is_that_of_one_score_for_all_rows(metric: str, expected: float) -> None:
    labels = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan], dtype=np.float32)
    found = chance_of(Task("t", "regression", (), (metric,), 1), labels)
    assert found.score == pytest.approx(expected)
    assert found.limit == pytest.approx(expected + (0 if metric == "neg_mse" else 1.645 / 5**0.5))


def test_chance_in_a_multi_label_task_is_that_of_one_set_of_labels_for_all_rows() -> None:
    """a is on 8 of 10 rows, b on 6, c on 1: always {a, b} has 14 hits of 20, of 15 labels: F1 28 / 35; {a} alone 16 / 25."""
    labels = np.zeros((11, 3), np.int8)
    labels[:8, 0] = labels[2:8, 1] = labels[9:10, 2] = 1
    labels[10] = -100
    found = chance_of(Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1), labels)
    assert found.score == pytest.approx(28 / 35)


def test_a_share_above_chance() -> None:
    assert share_kept(0.6, 0.9) == pytest.approx(2 / 3) and share_kept(0.6, 0.9, 0.5) == pytest.approx(0.25)
    assert share_kept(0.4, 0.9, 0.5) == pytest.approx(-0.25)
    assert share_kept(0.6, 0.5, 0.5) is None and share_kept(0.6, None) is None
