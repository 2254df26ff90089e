"""Runs without any label: the student learns from the teachers alone, checkpoints are chosen by agreement with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.config import parse_config
from distilect.errors import DistilectError
from distilect.pipeline import run
from tests.pipeline.helpers import Job
from tests.presets import slow
from tests.tiny import tiny_bert

ONE_TEACHER = ("pkd", "dynamic-data", "dynamic-objective")  # of several they would have to find the best one


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(tmp_path_factory.mktemp("unlabelled"))
    rows = [line.rpartition(",")[0] for line in made.train.read_text().splitlines()[1:]]
    made.train.write_text("\n".join(["id,text", *(f"{i},{text}" for i, text in enumerate(rows))]) + "\n")
    return made


def alone(job: Job, name: str, method: Any = "uniform", **changes: Any) -> dict[str, Any]:
    (result,) = run(parse_config(job.raw(name=name, method=method, **changes)))
    return result.metrics


def test_the_student_comes_to_agree_with_its_teachers(job: Job) -> None:
    train = job.raw()["train"] | {"epochs": 8, "learning_rate": 3e-3}
    only = {"teachers": job.teachers[1:], "student": "b[fresh]"}
    metrics = alone(job, "agrees", {"name": "kd", "alpha": 1.0}, train=train, **only)
    assert metrics["validation_labels"] == "teachers" and metrics["task"]["labels"] == [
        "yes",
        "no",
    ]  # as its teacher has them
    assert metrics["student"]["validation"]["accuracy"] > 0.9  # of the validation rows as the teachers label them
    assert set(metrics["student"]["scores"]) == {"accuracy", "f1(no)"}  # dev has labels: a score as always
    page = (job.folder / "runs" / "agrees" / "report.html").read_text(encoding="utf-8")
    assert "on the validation split, agreement with the teachers" in page


def test_the_labels_of_the_task_go_before_those_of_a_teacher(job: Job) -> None:
    metrics = alone(job, "ordered", task={"labels": ["yes", "no"]})
    assert metrics["task"]["labels"] == ["yes", "no"]


@pytest.mark.parametrize(
    "method", ["pkd", "dynamic-teacher", "dynamic-data", *slow("entropy", "confidence", "dynamic-objective")]
)
def test_methods_that_need_no_label_train(job: Job, method: str) -> None:
    single = {"teachers": job.teachers[:1]} if method in ONE_TEACHER else {}
    metrics = alone(job, f"by-{method}", method, **single)
    assert np.isfinite(metrics["student"]["validation"]["accuracy"]) and metrics["cost"]["steps"] == 10


@pytest.mark.parametrize("method", ["finetune", "rlkd", "rlkd-published", "gate", "logistic", "best-single"])
def test_methods_that_learn_from_labels_are_refused(job: Job, method: str) -> None:
    with pytest.raises(DistilectError) as caught:
        alone(job, f"no-{method}", method)
    text = str(caught.value)
    assert "label" in text and len(text.splitlines()) <= 2
    assert not (job.folder / "runs" / f"no-{method}" / "metrics.json").exists()


def test_scores_without_labels(job: Job, tmp_path: Path) -> None:
    scorer = tiny_bert(tmp_path / "scorer", 1, 4)
    metrics = alone(
        job,
        "scores",
        task={"kind": "regression"},
        teachers=[scorer],
        student="scorer[layers=1]",
        data={"train": str(job.train)},
    )
    assert metrics["task"]["kind"] == "regression" and metrics["student"]["validation"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teachers": [{"finetune": {"init": "a"}}], "task": {"labels": ["no", "yes"]}}, "finetune needs labels"),
        ({"teachers": [], "task": {"labels": ["no", "yes"]}}, "names no teacher"),
        ({"teachers": [], "method": "finetune"}, "name the label column with data.label"),
    ],
)
def test_nothing_to_learn_from_is_said_in_a_line(job: Job, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DistilectError, match=message):
        run(parse_config(job.raw(**{"name": "nothing", **changes})))


def test_a_table_with_further_columns_is_not_taken_as_unlabelled(job: Job, tmp_path: Path) -> None:
    """The label column may have a name of its own: learning without it must be asked for."""
    table = tmp_path / "train.csv"
    table.write_text("text,verdict\ngood film,yes\nbad film,no\n")
    with pytest.raises(DistilectError, match=r"no column has a usual name for labels; its columns: text, verdict"):
        run(parse_config(job.raw(name="other", data={"train": str(table)}, task={"labels": ["no", "yes"]})))
