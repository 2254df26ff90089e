"""A run in stages: one student, one history, one folder; killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from distilect import progress
from distilect.errors import RunError
from distilect.pipeline import run
from distilect.pipeline import stages as pipeline_stages
from distilect.selection import actor_critic
from distilect.training.trainer import DistillationTrainer
from tests.launch import run_ranks
from tests.pipeline.helpers import Job
from tests.presets import slow

TWO = {"stages": {"first": {"method": "kd"}, "second": {"method": {"name": "uniform", "alpha": 0.9}}}}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


class Display:
    """A progress display that remembers what it was told."""

    seen: ClassVar[list[tuple[int, list[int]]]] = []

    def add_task(self, description: str, total: int, completed: int) -> int:
        self.seen.append((total, [completed]))
        return len(self.seen) - 1

    def update(self, task: int, completed: int | None = None, **_: Any) -> None:
        if completed is not None:
            self.seen[task][1].append(completed)

    def start(self) -> None: ...
    def stop(self) -> None: ...


@pytest.fixture(scope="module")
def finished(job: Job) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "bar", Display)
        return run(job.config(name="two", method=TWO, train=job.raw()["train"] | {"evaluations": 5}))[0]


def test_the_progress_bar_is_of_the_whole_run(finished: Any) -> None:
    assert Display.seen == [(10, [0, 1, 2, 3, 4, 5]), (10, [5, 6, 7, 8, 9, 10])]


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(folder: Path) -> Any:
    return load_file(folder / "student" / "model.safetensors")


def test_one_history_one_selection_and_costs_of_all_stages(finished: Any) -> None:
    folder, metrics = finished.folder, finished.metrics
    first, second = metrics["stages"]
    assert (first["name"], first["method"], second["name"], second["method"]) == ("first", "kd", "second", "uniform")
    assert first["epochs"] == second["epochs"] == 1 and first["steps"] == second["steps"] == 5
    for cost in ("steps", "tokens", "student_tokens"):
        assert metrics["cost"][cost] == first[cost] + second[cost]
    assert metrics["student"]["validation"] == second["validation"]
    lines = history(folder)
    assert [line["stage"] for line in lines if "train/loss" in line] == ["first"] * 5 + ["second"] * 5
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 11))
    assert lines[-1]["epoch"] == 2
    selection = pq.read_table(folder / "selection.parquet").to_pylist()
    of_all = [row for row in selection if row["group"] == "all"]
    assert [(row["epoch"], row["stage"]) for row in of_all] == [(0, "first"), (1, "second")]
    assert of_all[1]["teacher/b"] == pytest.approx(0.5)
    assert {row["stage"] for row in pq.read_table(folder / "rows.parquet").to_pylist()} == {"first", "second"}
    assert not (folder / "stages").exists()
    assert "uniform, 1 epochs, 5 steps" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_stage_begins_with_the_weights_of_the_one_before(job: Job) -> None:
    still = {"method": "finetune", "train": {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}}
    given = {"learn": {"method": "kd", "train": {"epochs": 1}}}
    runs = [
        run(job.config(name=f"still-{len(more)}", method={"stages": given | more}))[0]
        for more in ({}, {"still": still})
    ]
    one, two = (weights(each.folder) for each in runs)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6


def test_a_single_stage_trains_as_the_method_alone(job: Job) -> None:
    staged = run(job.config(name="single", method={"stages": {"only": {"method": "kd"}}}))[0]
    plain = run(job.config(name="plain", method="kd"))[0]
    assert staged.metrics["student"]["scores"] == plain.metrics["student"]["scores"]
    one, two = weights(staged.folder), weights(plain.folder)
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize("where", [6, *slow(4, 5)])
def test_a_killed_run_goes_on_in_its_stage_and_ends_as_the_uninterrupted_one(
    job: Job, finished: Any, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in a step of the first stage (4), between the stages (5), in a step of the second (6)."""
    config = job.config(name=f"killed-{where}", method=TWO, train=job.raw()["train"] | {"evaluations": 5})
    step, seen = DistillationTrainer._after_step, []

    def kill(self: Any, state: Any, control: Any) -> None:
        step(self, state, control)
        seen.append(state.global_step)
        if len(seen) == where:
            raise KeyboardInterrupt

    def kill_between(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == 5:
            patch.setattr(pipeline_stages, "_join_records", kill_between)
        else:
            patch.setattr(DistillationTrainer, "_after_step", kill)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    with pytest.raises(RunError, match="unfinished run with other settings"):
        run(config.model_copy(update={"seed": 5}))
    trained = []
    train = DistillationTrainer.train

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        trained.append(1)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "train", counted)
    result = run(config)[0]
    assert len(trained) == (2 if where == 4 else 1)
    assert history(result.folder) == history(finished.folder)
    one, two = weights(result.folder), weights(finished.folder)
    assert all(one[name].equal(two[name]) for name in one)


def test_a_finished_run_in_stages_is_not_lengthened(job: Job, finished: Any) -> None:
    with pytest.raises(RunError, match="holds a finished run: use overwrite"):
        run(job.config(name="two", method=TWO, train=job.raw()["train"] | {"evaluations": 5, "epochs": 3}))


@pytest.fixture
def small() -> Iterator[None]:
    """A selection module of a few numbers, and few updates."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HIDDEN": 16, "WIDTH": 8, "UPDATES": 2}.items():
            patch.setattr(actor_critic, name, value)
        yield


LEARNED: dict[str, Any] = {
    "rlkd": {"name": "rlkd", "teachers": {"policy_updates": 2}},
    "akskd": {"name": "akskd", "loss_weights": {"episodes": 2, "share": 0.5, "phases": 2}},
    "dynamic-objective": {"name": "dynamic-objective"},
    "dynamic-data": {"name": "dynamic-data"},
    "dynamic-teacher": {"name": "dynamic-teacher"},
}


@pytest.mark.parametrize("name", ["akskd", *slow(*(name for name in LEARNED if name != "akskd"))])
def test_learned_methods_run_inside_a_stage(job: Job, name: str, small: None) -> None:
    given = {"body": {"method": {"name": "kd", "knowledge": {"feature": {}}}}, "learned": {"method": LEARNED[name]}}
    result = run(job.config(name=f"learned-{name}", method={"stages": given}))[0]
    assert [stage["method"] for stage in result.metrics["stages"]] == ["kd", name]
    if name == "akskd":
        assert (result.folder / "selector-learned" / "selector.safetensors").exists()
        assert result.metrics["selection"]["episodes"] == 2


def test_a_stage_may_leave_out_the_extra_rows(job: Job) -> None:
    data = job.raw()["data"] | {"extra": str(job.dev)}
    given = {"text": {"method": "kd"}, "train": {"method": "kd", "data": "train"}}
    result = run(job.config(name="extra", data=data, method={"stages": given}))[0]
    with_extra, without = (stage["tokens"] for stage in result.metrics["stages"])
    assert with_extra > 1.2 * without


def test_keep_runs_and_is_told_in_stages(job: Job) -> None:
    result = run(job.config(name="keep", method="keep"))[0]
    assert [stage["name"] for stage in result.metrics["stages"]] == ["body", "outputs"]
    assert {"train/loss_feature", "train/loss_attention"} <= set(history(result.folder)[0])


@pytest.mark.slow
def test_two_ranks_train_the_stages_of_one(job: Job, tmp_path: Path) -> None:
    train = job.raw()["train"] | {"dropout": 0.0}
    alone = run(job.config(name="alone", method=TWO, train=train))[0]
    run_ranks(2, lambda: run(job.config(name="both", method=TWO, train=train)) and None, tmp_path)
    folder = alone.folder.with_name("both")
    assert {p.name for p in folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for one, other in zip(alone.metrics["stages"], metrics["stages"], strict=True):
        assert (one["steps"], one["tokens"]) == (other["steps"], other["tokens"])
    one, two = weights(alone.folder), weights(folder)
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
