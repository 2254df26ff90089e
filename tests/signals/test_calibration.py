"""A teacher's temperature is that of the rows it was fitted on, few rows change little, and readers apply it to outputs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from distilect.evaluation import negative_log_likelihood, softmax
from distilect.signals import Calibration, SignalStore, fit_calibration, prepare_signals
from distilect.signals.calibration import LEAST_ROWS
from distilect.tasks import Task
from tests.signals.helpers import TASK, load, table
from tests.tiny import tiny_bert

CLASSES = Task("t", "classification", ("a", "b", "c", "d"), ("accuracy",), 1)
LABELS = Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1)
SCORES = Task("t", "regression", (), ("pearson",), 1)


def draws(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 4] of a calibrated teacher, and labels drawn from its probabilities."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(rows, 4))
    return logits, np.array([random.choice(4, p=p) for p in softmax(logits)])


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_a_teacher_is_found(true: float) -> None:
    logits, labels = draws(3000)
    found = fit_calibration(CLASSES, true * logits, labels)
    assert found.temperature == pytest.approx(true, rel=0.08)
    assert (found.shift, found.shifted, found.rows) == (0.0, (), 3000)
    assert found(true * logits) == pytest.approx(logits * true / found.temperature, rel=1e-3)


def test_few_rows_leave_the_temperature_near_one_and_fewer_change_nothing() -> None:
    logits, labels = draws(3000)
    temperatures = [
        fit_calibration(CLASSES, 4 * logits[:n], labels[:n]).temperature for n in (LEAST_ROWS - 1, 24, 3000)
    ]
    assert temperatures[0] == 1.0 < temperatures[1] < temperatures[2]
    assert fit_calibration(CLASSES, 4 * logits[:19], labels[:19]) == Calibration()
    unlabelled = np.where(np.arange(3000) < 19, labels, -100)
    assert fit_calibration(CLASSES, logits, unlabelled).rows == 0


def test_a_teacher_that_is_always_right_is_sharpened_within_bounds() -> None:
    labels = np.arange(200) % 4
    found = fit_calibration(CLASSES, 3 * np.eye(4)[labels], labels)
    assert 0.2 < found.temperature < 1


def test_a_specialist_is_taught_to_say_none_of_mine() -> None:
    """It knows classes 0 and 1; on the others it is torn between these two, as sure as ever that it is one of them."""
    random = np.random.default_rng(0)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 4, count)
        logits = np.where(labels[:, None] < 2, 6 * np.eye(4)[labels], 0.0) + random.normal(size=(count, 4))
        logits[:, 2:] -= 8
        return logits, labels

    logits, labels = rows(300)
    found = fit_calibration(CLASSES, logits, labels)
    assert found.shifted == (2, 3) and found.shift > 2
    fresh, gold = rows(2000)
    temperature_alone = fit_calibration(CLASSES, logits[:, :2], np.minimum(labels, 1)).temperature
    loss = negative_log_likelihood(softmax(found(fresh)), gold)
    assert loss < 0.6 * negative_log_likelihood(softmax(fresh / max(temperature_alone, 3.0)), gold)
    others = softmax(found(fresh))[gold >= 2]
    assert others[:, 2:].sum(1).mean() > 0.7
    own = softmax(found(fresh))[gold < 2]
    assert own[:, :2].sum(1).mean() > 0.7


def test_a_rare_class_that_is_never_predicted_makes_no_specialist() -> None:
    logits, labels = draws(300)
    logits[:, 3] -= 50
    labels = np.where(labels == 3, 0, labels)
    labels[:5] = 3
    assert fit_calibration(CLASSES, logits, labels).shifted == ()


def test_multi_label_outputs_have_a_temperature_and_a_shift() -> None:
    random = np.random.default_rng(0)
    true = 2 * random.normal(size=(3000, 3)) - 1
    labels = (random.uniform(size=true.shape) < expit(true)).astype(np.int8)
    found = fit_calibration(LABELS, 3 * (true + 1), labels)  # too sure, and labels too often
    assert found.temperature == pytest.approx(3, rel=0.08)
    assert found.shift == pytest.approx(-1, abs=0.1)


def test_a_score_has_a_line_which_never_turns_a_teacher_round() -> None:
    random = np.random.default_rng(0)
    gold = random.uniform(0, 5, 500)
    found = fit_calibration(SCORES, (gold[:, None] + 1 + random.normal(size=(500, 1)) / 10) / 5, gold)
    assert (found.scale, found.shift) == pytest.approx((5, -1), abs=0.1)
    against = fit_calibration(SCORES, -gold[:, None], gold)
    assert 0 <= against.scale < 0.05 and against(-gold[:, None]) == pytest.approx(gold.mean(), abs=0.1)
    constant = fit_calibration(SCORES, np.ones((500, 1)), gold)
    assert constant(np.ones(1)) == pytest.approx(gold.mean(), abs=1e-3)


@pytest.mark.parametrize("shifted", [(), (0, 2)])
def test_tensors_and_arrays_are_calibrated_alike_and_the_originals_kept(shifted: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    calibration = Calibration(0.5, 1.5, shifted, 100)
    tensor = torch.from_numpy(values.copy())
    expected = 0.5 * values + 1.5 * (np.isin(np.arange(4), shifted) if shifted else 1.0)
    assert calibration(values) == pytest.approx(expected)
    assert calibration(tensor).numpy() == pytest.approx(expected)
    assert (tensor.numpy() == values).all() and calibration(tensor).dtype == torch.float32


def test_a_source_calibrates_logits_alone_and_the_store_keeps_them_as_they_were(tmp_path: Path) -> None:
    teachers = [load(tiny_bert(tmp_path / name, TASK.labels, seed), name) for seed, name in enumerate("ab")]
    store, fields = SignalStore(tmp_path / "store"), [["cls.1"], ["cls.1"]]
    rows = np.arange(12)
    plain, ours = (prepare_signals(teachers, table(), store, fields).source for _ in range(2))
    assert plain is not None and ours is not None
    ours.calibrations = {"b": Calibration(0.5, 1.0, (1,), 50)}
    before, after = plain.fetch(table(), rows, fields), ours.fetch(table(), rows, fields)
    assert (after.logits[:, 0] == before.logits[:, 0]).all()
    expected = 0.5 * before.logits[:, 1] + torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(after.logits[:, 1], expected)
    for one, other in zip(before.fields, after.fields, strict=True):
        assert (one["cls.1"] == other["cls.1"]).all()
    again = prepare_signals(teachers, table(), SignalStore(tmp_path / "store"), fields).source
    assert again is not None and (again.fetch(table(), rows, fields).logits == before.logits).all()
