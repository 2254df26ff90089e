"""A run whose rows are enlarged by its config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distilect.data import load_data
from distilect.errors import DataError
from distilect.pipeline import run
from distilect.pipeline.work import enlarged
from tests.pipeline.helpers import Job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("augmented"))


def test_copies_of_train_are_taught_and_nothing_validation_is_among_them(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": str(job.train), "dev": str(job.dev), "augment": {"times": 3, "method": "neighbours"}}
    results = run(job.config(name="more", data=data, baselines=["finetune"]))
    assert "augmented: " in capsys.readouterr().err
    taught, fine = (result.metrics for result in results)
    extra = taught["rows"]["extra"]
    assert taught["rows"]["train"] == 72 and 150 < extra <= 216
    assert taught["cost"]["steps"] == 2 * -(-(72 + extra) // 16)
    assert taught["cost"]["teacher_rows"] == 2 * 2 * (72 + extra)  # two teachers, two epochs, from the store
    assert fine["cost"]["steps"] == 2 * 5 and fine["cost"]["teacher_rows"] == 0  # no teacher says what a copy is


def test_no_copy_is_a_row_of_dev_or_validation(job: Job) -> None:
    config = job.config(data={"train": str(job.train), "dev": str(job.dev), "augment": {"times": 2}})
    data = load_data(config.data, config.task, config.seed)
    made = enlarged(data, config).extra
    assert made is not None
    again = enlarged(replace(data, dev=made.take(np.arange(20))), config)  # as if dev had some of them
    assert again.extra is not None and len(again.extra) == len(made) - 20
    assert not made.has_label.any()


def test_labels_of_copies_are_known_where_they_are_kept(job: Job) -> None:
    augment = {"times": 1, "labels": True}
    config = job.config(data={"train": str(job.train), "augment": augment})
    data = enlarged(load_data(config.data, config.task, config.seed), config)
    assert data.extra is not None and data.extra.has_label.all()
    assert data.train.fingerprint() == load_data(config.data, config.task, config.seed).train.fingerprint()


def test_an_unlabelled_file_and_copies_stand_side_by_side(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "extra.csv"
    file.write_text("text\nsomething else entirely\n", encoding="utf-8")
    data = {"train": str(job.train), "extra": str(file), "augment": {"times": 1}}
    config = job.config(data=data)
    loaded = load_data(config.data, config.task, config.seed)
    extra = enlarged(loaded, config).extra
    assert extra is not None and extra.text([0]) == [("something else entirely",)] and len(extra) > 60


def test_a_model_that_cannot_fill_words_in_is_refused_before_anything_is_trained(job: Job) -> None:
    data = {"train": str(job.train), "augment": {"times": 1, "method": "mlm"}}
    with pytest.raises(DataError, match="has no masked-LM head"):
        run(job.config(name="never", data=data))
