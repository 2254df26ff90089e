"""Calibrated teachers in a run: selectors, losses and files have the same outputs, and `calibrate` says when."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.config import parse_config
from distilect.pipeline import run, work
from distilect.pipeline.judge import calibration_helps
from distilect.pipeline.work import Workbench
from distilect.report import build_report
from distilect.signals import Calibration, fit_calibration
from tests.pipeline.helpers import Job, write_scores
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


def config(job: Job, **changes: Any) -> Any:
    data = {"train": str(job.train), "dev": str(job.dev), "validation_size": changes.pop("validation_size", 24)}
    return job.config(data=data, **changes)


def calibrated_of(bench: Workbench, table: Any) -> np.ndarray:
    """[N, K, C]: what the pool should say, from each teacher's own outputs."""
    labels, found = bench.data.validation.labels, []
    for teacher in bench.teachers:
        fitted = fit_calibration(bench.data.task, bench.outputs(teacher, bench.data.validation), labels)
        assert fitted.rows == len(labels) and fitted.scale != 1
        found.append(fitted(bench.outputs(teacher, table)))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("live", [False, True])
def test_the_step_and_the_selectors_have_the_calibrated_outputs(job: Job, live: bool) -> None:
    bench = Workbench.open(config(job, signals={"precision": "fp32", "live": live}))
    planned = bench.plan(bench.config.method, bench.new_student())
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert prepared.source is not None
    train, rows = bench.data.distillation, np.arange(10)
    expected = calibrated_of(bench, train)
    assert prepared.source.fetch(train, rows, [[], []]).logits.numpy() == pytest.approx(expected[rows], abs=1e-5)
    held = planned.context.validation_logits
    assert held == pytest.approx(calibrated_of(bench, bench.data.validation), abs=1e-5)
    line = next(line for line in prepared.report if line.startswith("calibrated on 24 validation rows: a T "))
    assert "; b T " in line and "→" in line


@pytest.mark.parametrize(
    ("changes", "fitted"),
    [
        ({"signals": {"calibrate": False}}, False),
        ({"teachers": 1, "method": "kd"}, False),
        ({"teachers": 1, "method": "kd", "signals": {"calibrate": True}}, True),
        ({"method": "kd"}, True),  # of two teachers it follows one
    ],
)
def test_two_teachers_are_calibrated_unless_told_otherwise(job: Job, changes: dict[str, Any], fitted: bool) -> None:
    if "teachers" in changes:
        changes = changes | {"teachers": job.teachers[: changes["teachers"]]}
    bench = Workbench.open(config(job, **changes))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert prepared.source is not None
    assert bool(prepared.calibrations) == bool(prepared.source.calibrations) == fitted


def test_too_few_validation_rows_calibrate_nothing_and_that_is_said(job: Job) -> None:
    bench = Workbench.open(config(job, validation_size=8))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert "teacher outputs are not calibrated: fewer than 20 validation rows have a label" in prepared.report
    assert prepared.source is not None
    outputs = np.stack([bench.outputs(teacher, bench.data.train) for teacher in bench.teachers], axis=1)
    held = prepared.source.fetch(bench.data.train, np.arange(len(bench.data.train)), [[], []]).logits
    assert (held.numpy() == outputs).all()


def test_a_run_writes_and_shows_its_calibration_and_teachers_keep_their_own_scores(job: Job) -> None:
    raw = run(config(job, name="raw", signals={"calibrate": False, "precision": "fp32"}))[0]
    ours = run(config(job, name="calibrated"))[0]
    for one, plain in zip(ours.metrics["teachers"], raw.metrics["teachers"], strict=True):
        found = one["calibration"]
        assert found["rows"] == 24 and found["temperature"] > 0 and found["ece"]["after"] >= 0
        assert one["scores"] == plain["scores"] and "calibration" not in plain
    kept = json.loads((ours.folder / "metrics.json").read_text())
    assert kept["teachers"] == ours.metrics["teachers"]
    page = build_report(ours.folder).read_text(encoding="utf-8")
    assert f"T {ours.metrics['teachers'][0]['calibration']['temperature']:.2f}, ECE" in page
    assert "“calibrated”" in page
    assert "“calibrated”" not in build_report(raw.folder).read_text(encoding="utf-8")


def test_scores_of_a_regression_have_a_line(tmp_path: Path) -> None:
    teachers = [tiny_bert(tmp_path / name, 1, seed) for seed, name in enumerate("ab")]
    raw = {
        "data": {"train": str(write_scores(tmp_path / "train.csv", 70)), "validation_size": 30},
        "teachers": teachers,
        "student": "a[layers=1]",
        "method": "uniform",
        "output": str(tmp_path / "runs"),
    }
    bench = Workbench.open(parse_config(raw))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert set(prepared.calibrations) == {"a", "b"}
    for found in prepared.calibrations.values():
        assert found["rmse"]["after"] < found["rmse"]["before"] and found["slope"] >= 0


def test_a_calibration_that_harms_the_mean_is_left_out_unless_it_is_asked_for(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    upside_down = Calibration(scale=-1.0, rows=24)  # the mean of the outputs then says the opposite
    monkeypatch.setattr(work, "fit_calibration", lambda *_: upside_down)
    bench = Workbench.open(config(job))
    outputs = np.stack([bench.outputs(teacher, bench.data.validation) for teacher in bench.teachers], axis=1)
    right = outputs.mean(1).argmax(-1)
    labels = bench.data.task, outputs
    assert calibration_helps(*labels, right, [Calibration(rows=24)] * 2)
    assert not calibration_helps(*labels, right, [upside_down] * 2)
    bench.data = replace(bench.data, validation=replace(bench.data.validation, labels=right))
    _, prepared = bench.prepare(bench.config.method, bench.new_student())
    assert prepared.calibrations == {} and any("not calibrated" in line for line in prepared.report)
    bench.config = config(job, signals={"calibrate": True})
    assert set(bench.calibrations(outputs)) == {"a", "b"}
