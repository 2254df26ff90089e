"""What a run is said to cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilect.errors import ConfigError
from distilect.pipeline import estimate as pilots
from distilect.pipeline import pace, run
from distilect.pipeline.estimate import (
    GPUS,
    Estimate,
    by_operations,
    count_rows,
    estimate,
    tokens_per_row,
    total,
    validation,
)
from tests.pipeline.helpers import Job, write_table
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(tmp_path_factory.mktemp("job"))
    made.train = write_table(made.folder / "more.csv", 400)
    return made


def test_bytes_and_steps_are_those_of_the_run(job: Job) -> None:
    """Times are checked on a quiet machine, by benchmarks/estimate_check.py."""
    config = job.config(name="measured", method={"name": "pkd", "teachers": "uniform"})
    said = estimate(config)[0]
    metrics = run(config)[0].metrics
    stored = sum(p.stat().st_size for p in (job.folder / "runs" / "signals").glob("*/*/shard-*"))
    assert said.rows == count_rows(config) == 400
    assert said.steps == metrics["cost"]["steps"]
    assert said.signal_bytes == pytest.approx(stored, rel=0.25)
    assert said.scoring_seconds > 0 and said.training_seconds > 0


@pytest.mark.slow
def test_stages_are_added_up(job: Job) -> None:
    train = job.raw()["train"] | {"epochs": 3}
    config = job.config(
        name="staged", method={"name": "keep", "stages": {"body": {"train": {"epochs": 1}}}}, train=train
    )
    said = estimate(config)[0]
    metrics = run(config)[0].metrics
    body, outputs = metrics["stages"]
    assert said.steps == body["steps"] + outputs["steps"] == 4 * body["steps"]


def test_costs_grow_with_rows_epochs_and_teachers(job: Job) -> None:
    config = job.config()
    few, many = estimate(config, [10**6, 10**8], gpu="h100")
    assert many.scoring_seconds == pytest.approx(100 * few.scoring_seconds)
    assert many.training_seconds == pytest.approx(100 * few.training_seconds, rel=0.01)
    assert many.signal_bytes == pytest.approx(100 * few.signal_bytes)
    slower = estimate(config, [10**6], gpu="a100")[0]
    assert slower.scoring_seconds / few.scoring_seconds == pytest.approx(GPUS["h100"] / GPUS["a100"])
    one = estimate(job.config(teachers=job.teachers[:1], method="kd"), [10**6], gpu="h100")[0]
    assert one.scoring_seconds < few.scoring_seconds and one.signal_bytes < few.signal_bytes
    alone = estimate(job.config(method="finetune", teachers=[], student=job.teachers[0]), [10**6], gpu="h100")[0]
    assert alone.scoring_seconds == alone.signal_bytes == 0


def test_the_model_is_its_formula(job: Job) -> None:
    config: Any = job.config(
        train={"epochs": 2, "batch_size": 10}, data={"train": str(job.train), "validation_size": 100}
    )
    rates = by_operations({"a": 2e9, "b": 1e9}, 5e8, 10.0, 10, 1e15, 50.0, 200.0)
    assert rates.scoring == pytest.approx({"a": 2e10 / 4e14, "b": 1e10 / 4e14})
    assert rates.step == pytest.approx(3 * 5e9 * 10 / 3.5e14)
    found = total(config, 1100, rates, validation(config, 1100, 0))
    assert found == Estimate(
        rows=1100,
        scoring_seconds=pytest.approx(1100 * 3e10 / 4e14),  # type: ignore[arg-type]
        training_seconds=pytest.approx(200 * rates.step + 3 * 100 * rates.evaluation),  # type: ignore[arg-type]
        signal_bytes=55_000.0,
        table_bytes=220_000.0,
        steps=200,
    )


def test_padding_falls_as_a_table_grows(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """A pilot's few rows fill a batch or two, which are padded to their longest row; those of a large table are cut by length."""
    lengths = [2, 4, 6, 8]
    assert tokens_per_row(lengths, 4, 1000) == 8  # one batch
    assert tokens_per_row(lengths, 4, 8) == pytest.approx((8 + 6 + 2 * 4) / 4)
    assert tokens_per_row(lengths, 10**9, 1000) == pytest.approx(np.mean(lengths), rel=0.02)
    one = job.config(teachers=job.teachers[:1], method="kd", train={"epochs": 1})
    monkeypatch.setattr(pilots.Pilot, "_scoring", lambda self: {t.name: 1.0 for t in self._pool()})
    small, large = estimate(one, [400, 10**6])
    assert large.scoring_seconds / 10**6 < 0.97 * small.scoring_seconds / 400
    assert small.scoring_seconds == pytest.approx(400, rel=0.2)


def test_a_table_of_few_rows_is_estimated_too(tmp_path: Path, job: Job) -> None:
    few = write_table(tmp_path / "few.csv", 6)
    config = job.config(data={"train": str(few), "validation_size": 1}, method="kd", teachers=job.teachers[:1])
    (said,) = estimate(config)
    assert said.rows == 6 and said.scoring_seconds > 0 and said.training_seconds > 0


def test_a_pilot_ends_when_it_has_seen_enough(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    clocks: list[Any] = []
    plain = pace._Clock.__init__

    def kept(self: Any) -> None:
        plain(self)
        clocks.append(self)

    monkeypatch.setattr(pace._Clock, "__init__", kept)
    monkeypatch.setattr(pace, "SECONDS", 0.0)
    estimate(job.config(train={"epochs": 1, "batch_size": 8}), [400])
    (clock,) = clocks
    assert len(clock.spent) == pace.WARM + pace.FEWEST
    clock.spent, clock.tokens = [9.0, 9.0, 9.0, 1.0, 3.0], [5, 10, 15, 25, 35]
    assert clock.per_token() == pytest.approx(0.2)


def test_a_teacher_that_is_still_to_be_made_is_stood_in_for(job: Job) -> None:
    raw = tiny_bert(job.folder / "raw", 2, 8, layers=3)
    teachers = [{"name": "own", "finetune": {"init": raw, "epochs": 50}}]
    assert estimate(job.config(teachers=teachers, student="own[layers=2]"), [1000], gpu="l4")[0].scoring_seconds > 0
    assert not (job.folder / "runs" / "teachers").exists()


@pytest.mark.parametrize("every", [1, 1000, "epoch"])
def test_a_method_that_needs_more_steps_than_a_pilot_has_is_estimated(job: Job, every: Any) -> None:
    method = {"name": "rlkd-published", "teachers": {"update_every": every}}
    train = job.raw()["train"] | {"epochs": 4}
    assert estimate(job.config(method=method, train=train), [10**6], gpu="l4")[0].training_seconds > 0


def test_an_unknown_gpu_is_told_the_known_ones(job: Job) -> None:
    with pytest.raises(ConfigError, match="no data sheet of 'h10' is known: t4, .*Did you mean 'h100'"):
        estimate(job.config(), [10], gpu="h10")
