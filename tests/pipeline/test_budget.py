"""A run that is given a time: it plans for it, keeps to it, and says what it did."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from distilect.config import TrainConfig, load_config, parse_config, seconds_of
from distilect.errors import ConfigError, RunError
from distilect.pipeline import budget, pace, run, stages
from distilect.pipeline.budget import Deadline, epoch_seconds, epochs_for
from distilect.pipeline.pace import Pace
from distilect.training.trainer import DistillationTrainer
from tests.pipeline.helpers import Job

PACE = Pace(token=0.001, row=10.0, evaluation=0.01, epoch_tokens=1000.0, checkpoint=0.1)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have seconds, not minutes."""
    monkeypatch.setattr(budget, "_END", 3.0)
    monkeypatch.setattr(pace, "SECONDS", 0.3)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("1h 30min", 5400), ("1.5h", 5400), ("2D", 172_800)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "30", "0min", "min", "1h and a bit", "-5min"])
def test_what_is_no_time_is_an_error(job: Job, text: str) -> None:
    with pytest.raises(ConfigError, match="'budget': expected a time such as 30min"):
        job.config(budget=text)


def test_epochs_are_what_fits() -> None:
    train = TrainConfig(evaluations=2)
    assert epoch_seconds(PACE, train, 50) == pytest.approx(1.0 + 2 * (0.5 + 0.1))
    assert epochs_for(23.0, PACE, train, 50) == 10 and epochs_for(5.0, PACE, train, 50) == 2.2
    assert epochs_for(1e6, PACE, train, 50) == 100
    with pytest.raises(RunError, match="1 s are left for a stage whose epochs take 20 s: give it more time"):
        epochs_for(1.0, Pace(0.02, 10, 0.0, 1000.0, 0.0), train, 50)


def test_students_share_the_time_that_is_left() -> None:
    now = time.perf_counter()
    assert Deadline.of("1min", now).left() == pytest.approx(60, abs=1)
    assert Deadline(now + 60, students=3).left() == pytest.approx(20, abs=1)


@pytest.mark.slow
def test_a_run_keeps_to_its_budget_and_its_config_repeats_it(job: Job, quick: None, capsys: Any) -> None:
    started = time.perf_counter()
    config = job.config(name="timed", method="keep", budget="30s", train=job.raw()["train"] | {"dropout": 0.0})
    result = run(config)[0]
    assert time.perf_counter() - started < 30
    body, outputs = result.metrics["stages"]
    assert body["epochs"] >= 3 and outputs["epochs"] >= 3
    assert capsys.readouterr().err.count("planned: ") == 2
    repeated = load_config(result.folder / "config.yaml")
    assert repeated.budget is None
    again = run(parse_config(repeated.model_dump(mode="json") | {"name": "repeated"}))[0]
    assert again.metrics["student"]["scores"] == result.metrics["student"]["scores"]
    assert [stage["steps"] for stage in again.metrics["stages"]] == [body["steps"], outputs["steps"]]


def test_a_stopped_run_goes_on_with_the_plan_that_it_made(
    job: Job, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MOST_EPOCHS", 4)
    config = job.config(name="stopped", method="kd", budget="1min")
    save, saved = DistillationTrainer._save_checkpoint, []

    def stop(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        saved.append(self.args.output_dir)
        if len(saved) == 2:  # the first one is timed for the plan
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    plan = json.loads((job.folder / "runs" / "stopped" / "plan.json").read_text())
    monkeypatch.setattr(stages, "measure_pace", lambda *_: pytest.fail("planned again"))
    result = run(config)[0]
    assert result.metrics["cost"]["resumed_at_step"] == 5
    assert result.metrics["cost"]["steps"] == 5 * plan["epochs"]
    assert not (result.folder / "plan.json").exists()


def test_the_config_of_a_timed_run_holds_its_epochs(job: Job, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_EPOCHS", 3)
    result = run(job.config(name="settled", method="keep", budget="2min"))[0]
    repeated = load_config(result.folder / "config.yaml")
    assert repeated.budget is None and repeated.method.stages == {
        name: {"train": {"epochs": 3.0}} for name in ("body", "outputs")
    }


def test_a_budget_that_the_teachers_have_used_up_is_an_error(job: Job) -> None:
    with pytest.raises(RunError, match="give it more time, or fewer rows"):
        run(job.config(name="none", method="kd", budget="2s"))
