"""The adviser sees a choice that pays where one was planted, and none where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilect.pipeline import advise, run
from distilect.pipeline.advise import advice_on, words
from distilect.pipeline.judge import FIXED, judge, mixture
from distilect.pipeline.work import Workbench
from distilect.selection import TrainingSample
from distilect.signals import FieldStore
from distilect.tasks import Task
from tests.pipeline.helpers import Job, write_table

CLASSES = Task("t", "classification", tuple("abcdef"), ("accuracy",), 1)
LABELS = Task("t", "multi-label", ("a", "b", "c"), ("micro_f1",), 1)
SCORES = Task("t", "regression", (), ("pearson",), 1)
ROWS = 400


def pool_of(labels: Any, *teachers: np.ndarray) -> TrainingSample:
    logits = torch.from_numpy(np.stack(teachers, axis=1)).float()
    return TrainingSample(torch.arange(len(labels)), torch.tensor(labels), logits, None)


def names(pool: TrainingSample) -> list[str]:
    return ["first", "second", "third"][: pool.teachers.shape[1]]


def teacher(labels: np.ndarray, random: np.random.Generator, knows: np.ndarray | float) -> np.ndarray:
    """Logits [N, 6] of a teacher that is right on `knows` of the rows, less sure where it guesses."""
    right = random.uniform(size=len(labels)) < knows
    said = np.where(right, labels, random.integers(0, 6, len(labels)))
    return np.where(right, 4.0, 1.5)[:, None] * np.eye(6)[said] + random.normal(size=(len(labels), 6)) / 2


def specialists(rows: int = ROWS) -> TrainingSample:
    """Two teachers, each of which knows every second class only; on the others it is surest, and always names the same class."""
    random = np.random.default_rng(rows)
    labels = random.integers(0, 6, rows)
    found = []
    for part in range(2):
        own = labels % 2 == part
        logits = np.where(own[:, None], 4.0 * np.eye(6)[labels], 5.0 * np.eye(6)[part])
        found.append(logits + random.normal(size=(rows, 6)) / 2)
    return pool_of(labels, *found)


def alike(rows: int = ROWS) -> TrainingSample:
    """Three teachers that are right on the same rows."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 6, rows)
    base = teacher(labels, random, 0.8)
    return pool_of(labels, *(base + random.normal(size=base.shape) / 10 for _ in range(3)))


def independent(rows: int = ROWS) -> TrainingSample:
    """Three teachers that err on rows of their own."""
    random = np.random.default_rng(2)
    labels = random.integers(0, 6, rows)
    return pool_of(labels, *(teacher(labels, random, 0.7) for _ in range(3)))


def test_specialists_are_worth_choosing_among() -> None:
    pool = specialists()
    found = judge(CLASSES, names(pool), pool)
    assert found.choosing.low > 0.03 and found.by_row.name == "gate"
    assert found.choosing.value <= found.oracle.value + 0.01
    advice = words(CLASSES, found, "first", 0.8)[-1]
    assert advice.startswith("advice: take `method: {name: gate, temperature: ")


def test_among_teachers_that_are_alike_there_is_nothing_to_choose() -> None:
    pool = alike()
    found = judge(CLASSES, names(pool), pool)
    assert found.agreement > 0.9 and found.choosing.low <= 0 and found.oracle.value < 0.06
    first, second, advice = words(CLASSES, found, "first", 0.8)
    assert first.startswith(
        f"teachers agree on {100 * found.agreement:.0f} % of 400 validation rows; the best one, first"
    )
    assert "can gain at most" in second
    assert advice == "advice: take `keep` from first alone: neither the others nor a choice among them adds to it"


def test_teachers_that_err_apart_are_better_together_and_that_is_no_choice() -> None:
    pool = independent()
    found = judge(CLASSES, names(pool), pool)
    assert found.pooling.low > 0 and found.fixed.name in FIXED[1:] and found.choosing.low <= 0
    assert f"{{name: {found.fixed.name}, " in words(CLASSES, found, "first", 0.8)[-1]


def test_labels_that_nobody_can_know_promise_nothing() -> None:
    """The oracle gains a lot there; a gain that is learned on the rows it is measured on would too."""
    random = np.random.default_rng(0)
    pool = pool_of(random.integers(0, 6, ROWS), *(3 * random.normal(size=(ROWS, 6)) for _ in range(3)))
    found = judge(CLASSES, names(pool), pool)
    assert found.oracle.value > 0.15
    assert found.choosing.low <= 0 and abs(found.choosing.value) < 0.06


def test_a_promise_is_kept_on_rows_that_were_not_seen() -> None:
    promised, measured = (judge(CLASSES, names(one), one).choosing for one in (specialists(), specialists(900)))
    assert promised.low < measured.value < promised.high + 0.1  # which is fitted on more of them


def test_a_regression_and_a_multi_label_task_are_judged_too() -> None:
    random = np.random.default_rng(0)
    gold = random.uniform(0, 5, ROWS).astype(np.float32)
    scores = [(gold + random.normal(size=ROWS) * spread)[:, None] for spread in (0.5, 0.5, 3.0)]
    found = judge(SCORES, ["a", "b", "bad"], pool_of(gold, *scores))
    assert {rule.name for rule in found.rules} == {*FIXED, "gate"} and found.pooling.low > 0
    assert {rule.temperature for rule in found.rules} == {1.0}
    advice = words(SCORES, found, "a", 0.9)
    assert advice[0].startswith("teachers correlate by 0.") and advice[-1].startswith(
        f"advice: take `method: {found.fixed.name}`"
    )

    labels = random.integers(0, 2, (ROWS, 3)).astype(np.int8)
    parts = [np.where(np.arange(3) == k, 4.0 * labels - 2, -1.0) + random.normal(size=(ROWS, 3)) for k in range(3)]
    found = judge(LABELS, ["a", "b", "c"], pool_of(labels, *parts))
    assert 0 <= found.agreement <= 1 and found.pooling.low > 0


def test_what_a_rule_teaches_is_the_mean_of_softened_outputs() -> None:
    logits, weights = np.array([[[2.0, 0.0], [0.0, 4.0]]]), np.array([[0.25, 0.75]])
    p = 0.25 * _softmax([1.0, 0.0]) + 0.75 * _softmax([0.0, 2.0])
    assert _softmax(mixture(CLASSES, logits, weights, 2.0)[0] / 2) == pytest.approx(p)
    assert mixture(SCORES, logits[:, :, :1], weights, 1.0).tolist() == [[0.5]]
    only_first = mixture(CLASSES, logits, np.array([[1.0, 0.0]]), 1.0)[0]
    assert _softmax(only_first) == pytest.approx(_softmax([2.0, 0.0]))
    single = mixture(LABELS, logits, np.array([[0.0, 1.0]]), 4.0)[0]
    assert single == pytest.approx([0.0, 4.0])


def _softmax(values: Any) -> np.ndarray:
    exponentials = np.exp(values)
    return np.asarray(exponentials / exponentials.sum())


# ---- on a config -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(tmp_path_factory.mktemp("job"))
    made.train = write_table(made.folder / "more.csv", 160)
    return made


def config(job: Job, **changes: Any) -> Any:
    data = {"train": str(job.train), "dev": str(job.dev), "validation_size": changes.pop("validation_size", 60)}
    return job.config(data=data, **changes)


def test_only_validation_rows_are_scored_and_no_student_is_trained(job: Job) -> None:
    output = str(job.folder / "advised")
    advice = advise(config(job, output=output))
    assert advice.judgement is not None and advice.judgement.rows == 60
    assert advice.table[0].split() == ["teacher", "accuracy", "calibrated"]
    assert [line.split()[0] for line in advice.table[1:3]] == ["a", "b"]
    assert len(advice.words) == 3 and advice.words[-1].startswith("advice: take `")
    stores = list((job.folder / "advised" / "signals").glob("*/logits"))
    assert [len(_opened(store)) for store in stores] == [60, 60]
    assert {path.name for path in (job.folder / "advised").iterdir()} == {"signals"}


def _opened(folder: Any) -> FieldStore:
    store = FieldStore(folder, [])
    store.refresh()
    return store


def test_few_labels_and_a_single_teacher_are_no_ground_for_advice(job: Job) -> None:
    few = advice_on(Workbench.open(config(job, validation_size=12)))
    assert few.judgement is None and few.table == []
    assert few.words[0].startswith("12 validation rows have a label, at least 50 are needed to judge the teachers")
    single = advice_on(Workbench.open(config(job, teachers=job.teachers[:1], method="kd")))
    assert single.words == ["1 teacher: there is nothing to choose among"]


def test_a_run_says_so_before_it_trains(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(job, name="told", baselines=["kd"]))
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("advice: take `") == 1
    assert said.index("advice: take `") < said.index("done told")
    run(config(job, name="untold", method="finetune"))
    assert "advice:" not in capsys.readouterr().err
