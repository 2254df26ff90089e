"""Decisions row by row: of the right rows, as they were taken, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distilect.data import Table, row_keys
from distilect.training.row_sample import RowSample
from distilect.training.state import load_state, save_state
from tests.training.helpers import Bench
from tests.training.test_recorder import KINDS, TEACHERS, of_nobody, result_of, some

TABLE = Table.from_texts([f"text number {i}" for i in range(7)], [0, 1, 1, -100, 0, 1, -100])
STUDENT = torch.linspace(-3, 3, 14).reshape(7, 2)


def sample(rows: int = 4) -> RowSample:
    return RowSample(row_keys(TABLE.ids), TEACHERS, KINDS, rows)


def lines(found: RowSample) -> list[dict]:
    return found.table(TABLE, ("no", "yes")).to_pylist()


def test_a_line_holds_what_was_decided_for_its_row() -> None:
    found, result = sample(), result_of()
    found.add(0, torch.arange(7), STUDENT, result)
    assert len(lines(found)) == 4
    for line in lines(found):
        i = line["row"]
        assert line["text"] == f"text number {i}"
        assert line["label"] == {0: "no", 1: "yes", -100: None}[int(TABLE.labels[i])]
        assert (line["asked"], line["trained"]) == (bool(result.asked[i]), bool(result.trained[i]))
        assert line["teacher/b"] == pytest.approx(float(result.teacher_weights[i, 1]))
        right = float(result.right[i, 0])
        assert line["right/a"] == (None if np.isnan(right) else right)
        assert line["knowledge/feature"] == pytest.approx(float(result.loss_weights[i, 2]))
        p = STUDENT[i].double().softmax(0)
        assert line["uncertainty"] == pytest.approx(float(-(p * p.log()).sum() / np.log(2)), abs=1e-5)


def test_batches_and_their_order_change_nothing_and_a_later_visit_counts() -> None:
    whole, split, result = sample(), sample(), result_of()
    whole.add(0, torch.arange(7), STUDENT, result)
    for rows in (torch.tensor([5, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([6, 0, 2, 4, 3])):
        split.add(0, rows, STUDENT[rows], some(result, rows))
    assert lines(whole) == lines(split)
    split.add(1, torch.arange(7), STUDENT, result)
    assert [line["epoch"] for line in lines(split)] == [0] * 4 + [1] * 4


def test_the_same_texts_are_sampled_whatever_their_order() -> None:
    order = np.array([3, 6, 0, 5, 2, 1, 4])
    shuffled = RowSample(row_keys(TABLE.take(order).ids), TEACHERS, KINDS, 4)
    assert set(order[shuffled.positions]) == set(sample().positions)
    assert len(sample(100).positions) == 7 and len(sample(0).positions) == 0


def test_rows_that_nobody_ran_neither_asked_nor_trained() -> None:
    found = sample(7)
    found.leave_out(0, torch.tensor([1, 2]))
    found.add(0, torch.tensor([0]), STUDENT[:1], some(result_of(), torch.tensor([0])))
    out = [line for line in lines(found) if line["row"] in (1, 2)]
    assert [(line["asked"], line["trained"], line["uncertainty"]) for line in out] == [(False, False, None)] * 2
    assert {line["row"] for line in lines(found)} == {0, 1, 2}


def test_a_batch_in_which_nobody_asked_has_no_teacher_weights() -> None:
    found = sample()
    found.add(0, torch.arange(7), STUDENT, of_nobody(result_of()))
    assert all(line["teacher/a"] == 0 and line["right/a"] is None for line in lines(found))


def test_nothing_to_sample_is_an_empty_table(tmp_path: Path) -> None:
    empty = RowSample(np.empty(0, np.int64), TEACHERS, KINDS)
    empty.add(0, torch.arange(3), STUDENT[:3], some(result_of(), torch.arange(3)))
    empty.write(tmp_path / "rows.parquet", TABLE.take([]), ("no", "yes"))
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_saving_and_loading_changes_nothing(tmp_path: Path) -> None:
    found, again = sample(), sample()
    found.add(2, torch.arange(7), STUDENT, result_of())
    save_state(found.state_dict(), tmp_path / "state.safetensors")
    again.load_state_dict(load_state(tmp_path / "state.safetensors"))
    assert lines(again) == lines(found)


def test_regression_has_scores_for_labels_and_no_uncertainty() -> None:
    table = Table.from_texts(["a", "b"], [0.5, float("nan")])
    found = RowSample(row_keys(table.ids), TEACHERS, KINDS)
    found.add(0, torch.arange(2), torch.ones(2, 1), some(result_of(), torch.arange(2)))
    told = {line["text"]: line for line in found.table(table, ()).to_pylist()}
    assert (told["a"]["label"], told["b"]["label"], told["a"]["uncertainty"]) == ("0.5", None, None)


def test_a_training_fills_it_and_skipped_rows_are_in_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rows=24)
    rows = {"name": "random-skip", "ratio": 0.5}
    trainer = bench.trainer({"name": "uniform", "rows": rows}, epochs=2)
    trainer.train()
    told = trainer.records.sample.table(bench.table, ("no", "yes")).to_pylist()
    assert len(told) == 2 * 24
    assert 0 < sum(line["asked"] for line in told) < len(told)
    assert all(line["trained"] == line["asked"] == (line["uncertainty"] is not None) for line in told)
    assert {line["teacher/t0"] for line in told if line["asked"]} == {0.5}
