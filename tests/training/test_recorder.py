"""What was selected, summed over an epoch: exact, whatever the batches."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distilect.training.recorder import SelectionRecorder
from distilect.training.state import load_state, save_state
from distilect.training.step import StepResult
from tests.knowledge.making import randn

TEACHERS, KINDS, NAMES = ("a", "b"), ("labels", "response", "feature"), ("no", "yes")
LABELS = torch.tensor([0, 1, 1, -100, 0, 1, -100])


def result_of(rows: int = 7, seed: int = 0) -> StepResult:
    asked = randn(rows, seed=seed + 2) > -0.3
    weights = randn(rows, 2, seed=seed).softmax(1) * asked.unsqueeze(1)
    return StepResult(
        torch.zeros(()),
        torch.zeros(rows, 3),
        weights,
        randn(rows, 3, seed=seed + 1).abs(),
        asked,
        asked | (randn(rows, seed=seed + 3) > 0),
        torch.where(asked.unsqueeze(1), (randn(rows, 2, seed=seed + 4) > 0).float(), torch.nan),
    )


def some(result: StepResult, rows) -> StepResult:
    parts = (result.losses, result.teacher_weights, result.loss_weights, result.asked, result.trained, result.right)
    return StepResult(result.loss, *(value[rows] for value in parts))


def of_nobody(result: StepResult) -> StepResult:
    """The same step where no row asked a teacher."""
    nobody, nothing = torch.zeros(7, dtype=torch.bool), torch.zeros(7, 0)
    return StepResult(result.loss, result.losses, nothing, result.loss_weights, nobody, ~nobody, nothing)


def lines(recorder: SelectionRecorder) -> dict[tuple[int, str], dict]:
    return {(line["epoch"], line["group"]): line for line in recorder.table().to_pylist()}


def test_every_line_is_the_mean_over_its_group():
    recorder, result = SelectionRecorder(TEACHERS, KINDS, NAMES), result_of()
    recorder.add(0, LABELS, result)
    found = lines(recorder)
    groups = {
        "all": torch.arange(7),
        "no": torch.tensor([0, 4]),
        "yes": torch.tensor([1, 2, 5]),
        "(no label)": torch.tensor([3, 6]),
    }
    assert set(found) == {(0, name) for name in groups}
    for name, rows in groups.items():
        line, asked = found[0, name], result.asked[rows]
        assert line["rows"] == len(rows)
        assert line["asked"] == pytest.approx(float(asked.float().mean()))
        assert line["trained"] == pytest.approx(float(result.trained[rows].float().mean()))
        for k, teacher in enumerate(TEACHERS):
            mean = float(result.teacher_weights[rows][asked, k].mean()) if asked.any() else 0.0
            assert line[f"teacher/{teacher}"] == pytest.approx(mean)
        for m, kind in enumerate(KINDS):
            assert line[f"knowledge/{kind}"] == pytest.approx(float(result.loss_weights[rows, m].mean()))


def test_teacher_weights_are_shares_among_rows_that_asked():
    """Over all rows they would sum to the share asked, and look like teachers that nobody believes."""
    recorder = SelectionRecorder(TEACHERS, KINDS, NAMES)
    recorder.add(0, LABELS, result_of())
    line = lines(recorder)[0, "all"]
    assert 0 < line["asked"] < 1
    assert line["teacher/a"] + line["teacher/b"] == pytest.approx(1.0)


def test_weights_are_kept_apart_where_a_teacher_is_right_and_where_it_is_wrong():
    """Issue 3: share of each teacher by its correctness."""
    recorder, result = SelectionRecorder(TEACHERS, KINDS, NAMES), result_of()
    nan = torch.nan
    right = torch.tensor([[1, 0], [1, 1], [0, 1], [nan, nan], [1, 0], [nan, nan], [nan, nan]])
    recorder.add(0, LABELS, replace(result, right=right))
    found, weights = lines(recorder), result.teacher_weights
    for group, rows in {"all": range(7), "no": (0, 4), "yes": (1, 2, 5), "(no label)": (3, 6)}.items():
        for k, teacher in enumerate(TEACHERS):
            for word, value in (("right", 1.0), ("wrong", 0.0)):
                of = [float(weights[i, k]) for i in rows if right[i, k] == value]
                mean = pytest.approx(sum(of) / len(of)) if of else None
                assert found[0, group][f"{word}/{teacher}"] == mean
    assert found[0, "no"]["wrong/a"] is None and found[0, "no"]["right/a"] is not None


def test_a_teacher_that_is_never_believed_where_it_is_wrong_is_told_from_one_that_always_is():
    recorder = SelectionRecorder(TEACHERS, KINDS, NAMES)
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    result = some(result_of(), torch.arange(2))
    recorder.add(0, torch.tensor([0, 1]), replace(result, teacher_weights=right, right=right))
    line = lines(recorder)[0, "all"]
    assert [line[f"{w}/{t}"] for w in ("right", "wrong") for t in TEACHERS] == [1.0, 1.0, 0.0, 0.0]
    assert line["teacher/a"] == line["teacher/b"] == 0.5


def test_where_nobody_asked_or_no_label_is_known_correctness_is_null():
    recorder, result = SelectionRecorder(TEACHERS, KINDS, NAMES), result_of()
    recorder.add(0, LABELS, of_nobody(result))
    line = lines(recorder)[0, "all"]
    assert [line[f"{word}/{t}"] for word in ("right", "wrong") for t in TEACHERS] == [None] * 4
    scores = SelectionRecorder(TEACHERS, KINDS, ())
    scores.add(0, torch.randn(7), replace(result, right=torch.full((7, 2), torch.nan)))
    assert scores.table().to_pylist()[0]["right/a"] is None


def test_columns_have_the_same_types_whatever_was_seen():
    """Files of several runs are read as one table; a column of nulls must not have a type of its own."""
    seen, unseen = SelectionRecorder(TEACHERS, KINDS, NAMES), SelectionRecorder(TEACHERS, KINDS, NAMES)
    seen.add(0, LABELS, result_of())
    unseen.add(0, LABELS, of_nobody(result_of()))
    assert seen.table().schema.equals(unseen.table().schema)
    assert seen.table().schema.field("right/a").type == pa.float64()


def test_the_record_does_not_depend_on_how_batches_are_split():
    whole, parts, result = (
        SelectionRecorder(TEACHERS, KINDS, NAMES),
        SelectionRecorder(TEACHERS, KINDS, NAMES),
        result_of(),
    )
    whole.add(2, LABELS, result)
    for rows in torch.randperm(7, generator=torch.Generator().manual_seed(0)).split(2):
        parts.add(2, LABELS[rows], some(result, rows))
    for key, line in lines(whole).items():
        assert lines(parts)[key] == pytest.approx(line)


def test_epochs_are_kept_apart_and_in_order():
    recorder = SelectionRecorder(TEACHERS, KINDS, NAMES)
    for epoch in (1, 0, 1):
        recorder.add(epoch, LABELS, result_of(seed=epoch))
    table = recorder.table().to_pylist()
    assert [line["epoch"] for line in table] == [0] * 4 + [1] * 4
    assert [line["rows"] for line in table if line["group"] == "all"] == [7, 14]


def test_a_batch_of_which_no_row_asked_counts_with_no_teacher():
    recorder, result = SelectionRecorder(TEACHERS, KINDS, NAMES), result_of()
    recorder.add(0, LABELS, of_nobody(result))
    line = lines(recorder)[0, "all"]
    assert (line["asked"], line["trained"], line["teacher/a"], line["teacher/b"]) == (0.0, 1.0, 0.0, 0.0)
    recorder.add(0, LABELS, result)  # and the next batch still fits
    assert lines(recorder)[0, "all"]["rows"] == 14


def test_rows_that_left_before_the_pass_count_as_neither_asked_nor_trained_on():
    recorder, result = SelectionRecorder(TEACHERS, KINDS, NAMES), result_of()
    recorder.add(0, LABELS, result)
    before = lines(recorder)[0, "all"]
    recorder.leave_out(0, LABELS[:3])
    after = lines(recorder)[0, "all"]
    assert after["rows"] == 10 and after["asked"] == pytest.approx(before["asked"] * 7 / 10)
    means = [name for name in after if "/" in name]
    assert {name: after[name] for name in means} == {name: before[name] for name in means}


def test_without_teachers_there_are_no_teacher_columns():
    recorder, result = SelectionRecorder((), ("labels",), NAMES), result_of()
    recorder.add(0, LABELS, replace(of_nobody(result), loss_weights=torch.ones(7, 1)))
    assert set(lines(recorder)[0, "all"]) == {"epoch", "group", "rows", "asked", "trained", "knowledge/labels"}


def test_regression_has_one_group_and_nan_labels_do_no_harm():
    recorder, result = SelectionRecorder(TEACHERS, KINDS, ()), result_of()
    recorder.add(0, torch.tensor([0.5, torch.nan, 3.0, 1.0, -2.0, 1e30, torch.nan]), result)
    (line,) = recorder.table().to_pylist()
    assert line["group"] == "all" and line["rows"] == 7
    assert all(value == value for value in line.values())  # no NaN


def test_a_million_rows_are_counted_exactly():
    """float32 sums stop counting at 16.7 million and lose digits long before."""
    recorder = SelectionRecorder((), ("labels",), ("only",))
    rows = 2**15
    result = StepResult(
        torch.zeros(()),
        torch.zeros(rows, 1),
        torch.zeros(rows, 0),
        torch.full((rows, 1), 0.1),
        *[torch.ones(rows, dtype=torch.bool)] * 2,
        torch.zeros(rows, 0),
    )
    for _ in range(600):
        recorder.add(0, torch.zeros(rows, dtype=torch.int64), result)
    line = lines(recorder)[0, "all"]
    assert line["rows"] == 600 * rows > 2**24
    assert line["knowledge/labels"] == pytest.approx(0.1, rel=1e-7)


def test_a_resumed_record_goes_on_where_it_stopped(tmp_path):
    whole, first, second = (SelectionRecorder(TEACHERS, KINDS, NAMES) for _ in range(3))
    for recorder in (whole, first):
        recorder.add(0, LABELS, result_of(seed=1))
    save_state(first.state_dict(), tmp_path / "state")
    second.load_state_dict(load_state(tmp_path / "state"))
    for recorder in (whole, second):
        recorder.add(0, LABELS, result_of(seed=2))
        recorder.add(1, LABELS, result_of(seed=3))
    assert lines(second) == lines(whole)


def test_the_file_is_the_table_and_replaces_an_old_one(tmp_path):
    recorder = SelectionRecorder(TEACHERS, KINDS, NAMES)
    for epoch in range(2):
        recorder.add(epoch, LABELS, result_of())
        recorder.write(tmp_path / "selection.parquet")
        assert pq.read_table(tmp_path / "selection.parquet").equals(recorder.table())
    assert [f.name for f in tmp_path.iterdir()] == ["selection.parquet"]
