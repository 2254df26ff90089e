"""Methods that learn teacher weights, from a table to a run's folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilect.errors import DistilectError, MethodError
from distilect.pipeline import run
from distilect.training.trainer import DistillationTrainer
from tests.pipeline.helpers import Job, write_scores, write_table
from tests.presets import slow
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


def with_extra(job: Job) -> dict[str, str]:
    """Train of 80 rows and 24 rows without labels."""
    extra = write_table(job.folder / "extra.csv", 24, seed=9)
    return {"train": str(job.train), "dev": str(job.dev), "extra": str(extra)}


def reinforced(**options: Any) -> dict[str, Any]:
    return {"name": "uniform", "teachers": {"name": "reinforced", "batch_size": 8, **options}}


METHODS = {
    "rlkd": {"name": "rlkd", "teachers": {"policy_updates": 200}},
    "virtual": {"name": "rlkd", "teachers": {"state": "joint", "policy_updates": 20, "batch_size": 8}},
    "published": reinforced(),
    "third": reinforced(reward=3, warmup_epochs=0, update_every=1),
    "student": reinforced(encoder="student", warmup_epochs=0, update_every=2),
    "gate": "gate",
    "entropy": "entropy",
}


@pytest.mark.parametrize("name", ["rlkd", *slow("third", "gate", "published", "student", "entropy")])
def test_rows_without_labels_are_taught_by_teachers_that_were_chosen_for_them(job: Job, name: str) -> None:
    result = run(job.config(name=f"extra-{name}", data=with_extra(job), method=METHODS[name]))[0]
    table = pq.read_table(result.folder / "selection.parquet").to_pylist()
    last = {line["group"]: line for line in table if line["epoch"] == 1}
    assert last["all"]["rows"] == 96 and last["(no label)"]["rows"] == 24
    for line in last.values():
        assert line["teacher/a"] + line["teacher/b"] == pytest.approx(1.0)
    assert last["(no label)"]["right/a"] is None and last["all"]["wrong/a"] is not None
    # really chosen: uniform would be one half for everybody
    assert any(abs(line["teacher/a"] - 0.5) > 1e-4 for line in table if line["group"] == "(no label)")
    assert np.isfinite(list(result.metrics["student"]["scores"].values())).all()


@pytest.mark.parametrize("name", ["virtual", *slow("gate", "third")])
def test_regression_runs(job: Job, name: str) -> None:
    train, dev = write_scores(job.folder / "s-train.csv", 80), write_scores(job.folder / "s-dev.csv", 30, 1)
    teachers = [tiny_bert(job.folder / f"score-{i}", 1, i) for i in (1, 2)]
    result = run(
        job.config(
            name=f"scores-{name}",
            method=METHODS[name],
            teachers=teachers,
            student="score-1[layers=1]",
            data={"train": str(train), "dev": str(dev)},
        )
    )[0]
    assert set(result.metrics["student"]["scores"]) == {"pearson", "spearman"}
    lines = pq.read_table(result.folder / "selection.parquet").to_pylist()
    assert all(np.isfinite(line["teacher/score-1"]) for line in lines)


def test_entropy_refuses_a_regression_in_a_line(job: Job) -> None:
    train = write_scores(job.folder / "e-train.csv", 40)
    teachers = [tiny_bert(job.folder / f"e-score-{i}", 1, i) for i in (1, 2)]
    with pytest.raises(MethodError, match="selector 'entropy': .*regression"):
        run(
            job.config(
                name="scores-entropy",
                method="entropy",
                teachers=teachers,
                student="e-score-1[layers=1]",
                data={"train": str(train)},
            )
        )


def test_the_encoders_vectors_are_stored_and_counted_once(job: Job) -> None:
    """The backbone is what the student was cut from; its rows are scored like a teacher's."""
    config: dict[str, Any] = {"output": str(job.folder / "vectors"), "data": with_extra(job)}
    first = run(job.config(name="first", method="gate", **config))[0]
    second = run(job.config(name="second", method=METHODS["virtual"], **config))[0]
    assert first.metrics["cost"]["teacher_forwards"] == 2 * (96 + 8) + 96  # two teachers and the encoder
    assert second.metrics["cost"]["teacher_forwards"] == 0


def test_live_teachers_and_a_live_encoder_choose_the_same(job: Job) -> None:
    """Invariance 2."""
    tables = []
    for live in (False, True):
        result = run(
            job.config(
                name=f"live-{live}",
                method=METHODS["virtual"],
                data=with_extra(job),
                signals={"precision": "fp32", "live": live},
            )
        )[0]
        tables.append(pq.read_table(result.folder / "selection.parquet").to_pylist())
    for one, two in zip(*tables, strict=True):
        assert one == pytest.approx(two, abs=1e-4)


@pytest.mark.parametrize("name", ["virtual", *slow("published")])
def test_a_killed_run_goes_on_and_ends_as_the_uninterrupted_one(
    job: Job, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PITFALLS 33: policy, optimiser, history and moments are in the checkpoint; killed within an epoch."""

    def settings(which: str) -> Any:
        train = job.raw()["train"] | {"epochs": 3, "evaluations": 2}
        return job.config(name=f"{which}-{name}", data=with_extra(job), method=METHODS[name], train=train)

    whole = run(settings("whole"))[0]
    save = DistillationTrainer._save_checkpoint

    def kill(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        if self.state.global_step == 9:  # of 6 steps per epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_save_checkpoint", kill)
        with pytest.raises(KeyboardInterrupt):
            run(settings("killed"))
    result = run(settings("killed"))[0]
    assert result.metrics["cost"]["resumed_at_step"] == 9
    assert result.metrics["student"]["scores"] == whole.metrics["student"]["scores"]
    assert result.metrics["cost"]["probed_rows"] == whole.metrics["cost"]["probed_rows"]
    assert (result.folder / "history.jsonl").read_text() == (whole.folder / "history.jsonl").read_text()
    tables = [pq.read_table(r.folder / "selection.parquet") for r in (whole, result)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"name": "reinforced", "reward": 4}, "reward is 4, expected one of 1, 2, 3"),
        ({"name": "reinforced", "learningrate": 1}, "Did you mean 'learning_rate'"),
        ({"name": "reinforced", "encoder": "/nowhere/model"}, "no checkpoint at /nowhere/model"),
        ({"name": "gate", "encoder": "student"}, "expected a frozen encoder"),
    ],
)
def test_bad_settings_are_told_in_a_line(job: Job, teachers: dict[str, Any], message: str) -> None:
    with pytest.raises(DistilectError) as caught:
        run(job.config(name="bad", method={"name": "uniform", "teachers": teachers}), overwrite=True)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 4


def test_reward_3_without_validation_rows_says_what_to_set(job: Job) -> None:
    data = {"train": str(job.train), "validation_size": 0}
    with pytest.raises(MethodError, match=r"reward: 3 needs validation rows: set data\.validation_size"):
        run(job.config(name="none-held-out", data=data, method=reinforced(reward=3)))
