"""Teachers in folds: selectors judge a teacher by a copy that has not seen the row, and the student learns from the teacher itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distilect.config import TeacherConfig, parse_config
from distilect.data import Table, fold_of, row_keys
from distilect.errors import ConfigError
from distilect.models import CheckpointTeacher, load_teacher
from distilect.pipeline import run
from distilect.pipeline.estimate import estimate
from distilect.pipeline.teachers import RECORD
from distilect.pipeline.work import Workbench
from distilect.selection import TrainingSample
from tests.pipeline.helpers import Job
from tests.presets import slow

FOLDS = 3


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


def config(job: Job, folds: int | None = FOLDS, **changes: Any) -> Any:
    own = {"init": job.teachers[0], "epochs": 3, "learning_rate": 5e-2, "seed": 4}
    teachers = [{"name": "own", "finetune": own | ({"folds": folds} if folds else {})}, job.teachers[1]]
    raw = job.raw(teachers=teachers, student="own[layers=0,2]", method="confidence", **changes)
    return parse_config(raw | {"signals": raw["signals"] | {"calibrate": False}})


def copies(bench: Workbench) -> list[CheckpointTeacher]:
    found = []
    for path in bench.teachers[0].copies:
        spec = TeacherConfig(name=path.name, path=str(path), max_length=32)
        copy = load_teacher(spec, bench.data.task, precision="fp32")
        assert isinstance(copy, CheckpointTeacher)
        found.append(copy)
    return found


def test_a_fold_is_that_of_the_text_and_none_is_empty() -> None:
    texts = [f"text {number % 200}" for number in range(400)]
    folds = fold_of(Table.from_texts(texts).ids, 4)
    assert (folds[:200] == folds[200:]).all()
    assert min(np.bincount(folds, minlength=4)) > 50


@pytest.mark.parametrize("live", [False, *slow(True)])
def test_selectors_see_the_copy_that_does_not_know_the_row(job: Job, live: bool) -> None:
    bench = Workbench.open(config(job, signals={"precision": "fp32", "live": live}))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    table, rows = bench.data.distillation, np.random.default_rng(0).permutation(40)
    assert prepared.source is not None
    found = prepared.source.fetch(table, rows, [[], []])
    own = np.stack([bench.outputs(teacher, table)[rows] for teacher in bench.teachers], axis=1)
    assert found.logits.numpy() == pytest.approx(own, abs=1e-5)
    of_copies = np.stack([bench.outputs(copy, table)[rows] for copy in copies(bench)])  # [folds, b, C]
    expected = of_copies[fold_of(table.ids[rows], FOLDS), np.arange(len(rows))]
    assert found.judged[:, 0].numpy() == pytest.approx(expected, abs=1e-5)
    assert (found.judged[:, 1] == found.logits[:, 1]).all()  # a ready-made teacher is judged by its own
    assert not torch.allclose(found.judged[:, 0], found.logits[:, 0], atol=1e-3)
    empty = prepared.source.fetch(table, rows[:0], [[], []])
    assert empty.judged.shape == empty.logits.shape == (0, 2, 2)


def test_a_copy_has_not_learned_from_its_fold_and_the_teacher_is_that_without_folds(job: Job) -> None:
    bench = Workbench.open(config(job))
    train = bench.data.train
    folds = fold_of(train.ids, FOLDS)
    for fold, path in enumerate(bench.teachers[0].copies):
        rows = json.loads((path / RECORD).read_text(encoding="utf-8"))["identity"]["rows"]
        assert rows[0] == train.take(np.flatnonzero(folds != fold)).fingerprint()
    plain = Workbench.open(config(job, folds=None))
    assert bench.teachers[0].fingerprint == plain.teachers[0].fingerprint and not plain.teachers[0].copies


def test_weights_follow_the_copies(job: Job) -> None:
    """`confidence` weighs teachers by their losses: by those of the copies, not of the teacher that has learned the labels."""
    bench = Workbench.open(config(job))
    method, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert prepared.source is not None and method.teachers is not None
    table = bench.data.distillation
    found = prepared.source.fetch(table, np.arange(len(table)), [[], []])
    keys, labels = torch.from_numpy(row_keys(table.ids)), torch.tensor(table.labels)
    of_copies, own = (
        method.teachers.decide(TrainingSample(keys, labels, logits, None).view(logits[:, 0], 0, 0))[:, 0].mean()
        for logits in (found.judged, found.logits)
    )
    assert abs(of_copies - own) > 1e-4
    record = pq.read_table(run(config(job, name="folded"))[0].folder / "selection.parquet").to_pylist()
    shares = [row["teacher/own"] for row in record if row["group"] == "all"]
    assert shares == pytest.approx([float(of_copies)] * len(shares), abs=1e-5)


def with_signals(job: Job, method: str = "confidence", folds: int | None = FOLDS, **signals: Any) -> Workbench:
    raw = config(job, folds).model_dump(mode="json")
    return Workbench.open(parse_config(raw | {"method": method, "signals": raw["signals"] | signals}))


@pytest.mark.parametrize("live", [False, *slow(True)])
def test_the_student_may_learn_from_the_copies_too(job: Job, live: bool) -> None:
    bench = with_signals(job, learn_from="out-of-fold", live=live)
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    plain = with_signals(job)
    _, other = plain.prepare(plain.config.method, plain.new_student())
    assert prepared.source is not None and other.source is not None
    rows = np.arange(len(bench.data.distillation))
    found, expected = (
        s.fetch(b.data.distillation, rows, [[], []]) for b, s in ((bench, prepared.source), (plain, other.source))
    )
    torch.testing.assert_close(found.logits, expected.judged, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.judged, expected.judged, atol=1e-5, rtol=0)
    assert not torch.allclose(found.logits[:, 0], expected.logits[:, 0], atol=1e-3)
    name = job.teachers[1].rsplit("/", 1)[-1]
    assert f"the student learns from copies in folds of own; from {name} itself" in prepared.report


def test_also_from_those_of_a_single_teacher(job: Job) -> None:
    bench = with_signals(job, learn_from="out-of-fold")
    method = bench.config.method.model_copy(update={"name": "kd", "teachers": {"name": "single", "teacher": "own"}})
    _, prepared = bench.prepare(method, bench.new_student())
    assert prepared.source is not None
    found = prepared.source.fetch(bench.data.train, np.arange(12), [[]])
    own = bench.outputs(bench.teachers[0], bench.data.train)[:12]
    of_copies = np.stack([bench.outputs(copy, bench.data.train)[:12] for copy in copies(bench)])
    expected = of_copies[fold_of(bench.data.train.ids[:12], FOLDS), np.arange(12)]
    assert found.logits[:, 0].numpy() == pytest.approx(expected, abs=1e-5)
    assert found.logits[:, 0].numpy() != pytest.approx(own, abs=1e-3)


def test_learning_from_copies_that_nobody_has_is_refused(job: Job) -> None:
    bench = with_signals(job, folds=None, learn_from="out-of-fold")
    with pytest.raises(
        ConfigError, match="no teacher has copies: set folds: 3 in the finetune: of a teacher, or leave it out"
    ):
        bench.prepare(bench.config.method, bench.new_student())


def test_a_method_that_follows_one_teacher_asks_no_copies(job: Job) -> None:
    raw = config(job).model_dump(mode="json") | {"method": "kd"}
    bench = Workbench.open(parse_config(raw))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert prepared.source is not None
    assert prepared.source.fetch(bench.data.train, np.arange(3), [[]]).out_of_fold is None


def test_the_estimate_counts_the_copies(job: Job) -> None:
    plain, folded = (estimate(config(job, folds=folds), [10**6], gpu="h100")[0] for folds in (None, FOLDS))
    assert folded.teacher_seconds == pytest.approx(FOLDS * plain.teacher_seconds) and plain.teacher_seconds > 0
    assert plain.scoring_seconds < folded.scoring_seconds < 2 * plain.scoring_seconds
    assert folded.training_seconds == plain.training_seconds
