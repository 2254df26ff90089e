"""AKSKD from a table to a run's folder: stage A, its artefact, stage B, reuse, and kills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilect.errors import DistilectError, MethodError, RunError
from distilect.pipeline import run
from distilect.selection import actor_critic
from distilect.training.trainer import DistillationTrainer
from tests.pipeline.helpers import Job, write_scores, write_table
from tests.presets import slow
from tests.tiny import tiny_bert

SMALL = {"episodes": 2, "share": 0.5, "phases": 2}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A selection module of a few numbers, and few updates."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HIDDEN": 16, "WIDTH": 8, "UPDATES": 2}.items():
            patch.setattr(actor_critic, name, value)
        yield


def method(preset: str = "akskd", **options: Any) -> dict[str, Any]:
    return {"name": preset, "loss_weights": {"name": "actor-critic", **SMALL, **options}}


def frozen(path: Path, **more: Any) -> dict[str, Any]:
    return {"name": "akskd", "loss_weights": {"name": "actor-critic", "selector": str(path)}, **more}


@pytest.fixture(scope="module")
def learned(job: Job) -> Any:
    """A run with stage A in it."""
    return run(job.config(name="learned", method=method()))[0]


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_run_learns_to_select_first_and_says_what_that_cost(learned: Any) -> None:
    metrics, folder = learned.metrics, learned.folder
    assert {p.name for p in (folder / "selector").iterdir()} == {"selector.safetensors", "selector.json"}
    assert (folder / "selector" / "selector.safetensors").stat().st_size < 100_000
    assert not (folder / "stage-a").exists() and len((folder / "stage-a.jsonl").read_text().splitlines()) == 4
    selection = metrics["selection"]
    assert selection["learned"] == "in this run" and selection["selector"] == str(folder / "selector")
    assert selection["episodes"] == 2 and selection["seed"] == 0 and selection["task"] == metrics["task"]
    cost = metrics["cost"]
    assert cost["selection_seconds"] > 0 and cost["selection_rows"] == 2 * 2 * 36 and cost["selection_steps"] == 12
    assert metrics["cost"]["probed_rows"] == 2 * 32  # stage B: a look per phase, no reward
    lines = [line for line in history(folder) if "train/loss" in line]
    assert {"actor/a_labels", "actor/a_relation", "balance/feature", "knowledge/v_response"} <= set(lines[0])
    assert not any("reward/mean" in line for line in lines)
    assert "selection module" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_artefact_serves_another_seed_and_stage_b_is_the_same_each_time(job: Job, learned: Any) -> None:
    results = [run(job.config(name=f"again-{i}", seed=7, method=frozen(learned.folder)))[0] for i in range(2)]
    assert history(results[0].folder) == history(results[1].folder)
    for result in results:
        selection = result.metrics["selection"]
        assert (
            selection["learned"] == "before" and selection["fingerprint"] == learned.metrics["selection"]["fingerprint"]
        )
        assert "selection_seconds" not in result.metrics["cost"] and not (result.folder / "selector").exists()


def test_the_artefact_serves_another_depth_and_another_task(job: Job, learned: Any, tmp_path: Path) -> None:
    other = run(job.config(name="deeper", student="a[layers=0,1,3]", method=frozen(learned.folder / "selector")))[0]
    assert other.metrics["student"]["layers"] == 3
    train = write_table(tmp_path / "train.csv", 60, labels=("cold", "fine", "warm"))
    teacher = tiny_bert(tmp_path / "t", ["cold", "fine", "warm"], 3, layers=3)
    task = run(
        job.config(
            name="other-task",
            data={"train": str(train)},
            teachers=[teacher],
            student="t[layers=0,2]",
            method=frozen(learned.folder),
        )
    )[0]
    assert task.metrics["selection"]["fingerprint"] == learned.metrics["selection"]["fingerprint"]


@pytest.mark.parametrize("where", ["stage A", *slow("stage B")])
def test_a_killed_run_goes_on_and_ends_as_the_uninterrupted_one(
    job: Job, learned: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job.config(name=f"killed-{where[-1]}", method=method())
    train, save, calls = DistillationTrainer.train, DistillationTrainer._save_checkpoint, []

    def kill_episode(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, *args, **kwargs)

    def kill_training(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "stage A":
            patch.setattr(DistillationTrainer, "train", kill_episode)
        else:
            patch.setattr(DistillationTrainer, "_save_checkpoint", kill_training)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    with pytest.raises(RunError, match="unfinished run with other settings"):
        run(config.model_copy(update={"seed": 5}))
    result = run(config)[0]
    selection, expected = result.metrics["selection"], learned.metrics["selection"]
    assert selection["fingerprint"] == expected["fingerprint"] and selection["steps"] == expected["steps"]
    assert selection["resumed"] == (1 if where == "stage A" else 0)
    assert result.metrics["cost"]["resumed_at_step"] == (0 if where == "stage A" else 5)
    assert history(result.folder) == history(learned.folder)
    assert result.metrics["student"]["scores"] == learned.metrics["student"]["scores"]


def test_regression_runs_through_both_stages(job: Job, tmp_path: Path) -> None:
    train, dev = write_scores(tmp_path / "train.csv", 60), write_scores(tmp_path / "dev.csv", 20, 1)
    teacher = tiny_bert(tmp_path / "score", 1, 1, layers=4)
    result = run(
        job.config(
            name="scores",
            method=method("akskd-hard"),
            teachers=[teacher],
            student="score[layers=1,3]",
            data={"train": str(train), "dev": str(dev)},
        )
    )[0]
    assert set(result.metrics["student"]["scores"]) == {"pearson", "spearman"}
    chosen = pq.read_table(result.folder / "selection.parquet").to_pylist()
    assert all(np.isfinite(line["knowledge/feature"]) for line in chosen)
    actions = [line["action"] for line in map(json.loads, (result.folder / "stage-a.jsonl").read_text().splitlines())]
    assert {value for action in actions for value in action.values()} <= {0.0, 1.0}


@pytest.mark.slow
def test_rows_by_uncertainty_teachers_by_rlkd_and_knowledge_by_akskd(job: Job) -> None:
    """No published system can do this; on rows without labels too, and with kinds that a registry line added."""
    extra = write_table(job.folder / "extra.csv", 24, seed=9)
    mixed = {
        "name": "akskd",
        "rows": {"name": "uncertainty", "ratio": 0.5},
        "teachers": {"name": "reinforced", "warmup_epochs": 0},
        "loss_weights": {
            "name": "actor-critic",
            "episodes": 2,
            "phases": 4,
            "state": ["student", "progress", "losses"],
        },
        "knowledge": {"labels": {}, "response": {}, "feature": {}, "pooled": {}, "attention": {"heads": 2}},
    }
    data = {"train": str(job.train), "dev": str(job.dev), "extra": str(extra)}
    teachers = [job.teachers[0], tiny_bert(job.folder / "c", ["no", "yes"], 3, layers=4)]
    result = run(job.config(name="mixed", method=mixed, data=data, teachers=teachers))[0]
    assert result.metrics["selection"]["learned"] == "in this run" and result.metrics["selection"]["episodes"] == 2
    lines = [line for line in history(result.folder) if "train/loss" in line]
    assert "actor/a_attention" in lines[0] and "actor/a_pooled" in lines[0] and "policy/entropy" in lines[-1]
    assert any("reward/mean" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": frozen(Path("/nowhere"))}, r"selector: /nowhere holds no selector.json"),
        ({"method": method(episode=3)}, "Did you mean 'episodes'"),
        (
            {"method": {**method(), "knowledge": dict.fromkeys(("response", "feature", "relation"), False)}},
            "copies labels only",
        ),
        ({"method": {**method(), "alpha": 0.3}}, "alpha is set"),
    ],
)
def test_bad_settings_are_told_in_a_line(job: Job, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DistilectError) as caught:
        run(job.config(name="bad", **changes), overwrite=True)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_without_rows_validation_it_says_what_to_set(job: Job) -> None:
    data = {"train": str(job.train), "validation_size": 0}
    with pytest.raises(MethodError, match=r"learns from a validation split: set data\.validation_size"):
        named = {**method(), "teachers": {"name": "single", "teacher": "a"}}
        run(job.config(name="none-held-out", data=data, method=named))
