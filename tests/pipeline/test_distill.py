"""The main job in one call, and a start for it: what is decided where nothing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from distilect import distill
from distilect.config import load_config
from distilect.errors import ConfigError, DataError, RunError
from distilect.pipeline import pretrain
from distilect.training.trainer import DistillationTrainer
from tests.pipeline.helpers import Job, write_table
from tests.tiny import tiny_bert

QUICK = {"train__batch_size": 32, "train__max_length": 32, "train__precision": "fp32", "signals__precision": "fp32"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = Job(tmp_path_factory.mktemp("job"))
    for name in ("one", "two"):
        tiny_bert(made.folder / name / "student", ["no", "yes"], 3, layers=4)
    return made


def told(job: Job, name: str, teachers: list[Any], **more: Any) -> Any:
    return distill(
        str(job.train), str(job.dev), teachers=teachers, name=name, output=job.folder / "runs", **QUICK, **more
    )


def test_by_default_half_of_the_first_teacher_learns_by_keep(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    result = told(job, "plain", job.teachers[:1])
    config = load_config(result.folder / "config.yaml")
    assert (config.method.name, config.train.epochs, config.train.dropout) == ("keep", 10, 0)
    assert result.metrics["student"]["layers"] == 2
    plan = " ".join(capsys.readouterr().err.split())
    assert "stage body (1 of 2): feature, attention from a (single); all-ones weights, 5 epochs, 72 rows" in plan
    assert "stage outputs (2 of 2): labels, response from a (uniform); fixed weights, 5 epochs" in plan


def test_a_keep_with_changes_is_as_long(job: Job) -> None:
    method = {"name": "keep", "stages": {"body": False}}
    result = told(job, "changed", job.teachers[:1], method=method)
    assert load_config(result.folder / "config.yaml").train.epochs == 10


def test_layers_and_settings_are_as_they_are_given(job: Job) -> None:
    result = told(job, "three", job.teachers[:1], layers=3, method="kd", overrides=["train.epochs=1"])
    assert result.metrics["student"]["layers"] == 3 and result.metrics["cost"]["steps"] == 3


def test_students_of_runs_are_called_like_their_run(job: Job) -> None:
    paths = [str(job.folder / name / "student") for name in ("one", "two")]
    result = told(job, "names", paths, method="uniform", train__epochs=1)
    assert [teacher["name"] for teacher in result.metrics["teachers"]] == ["one", "two"]
    assert result.metrics["student"]["layers"] == 2


def test_a_student_that_cannot_be_guessed_or_is_given_twice_is_an_error(job: Job) -> None:
    with pytest.raises(ConfigError, match="no teacher is a checkpoint whose layers it could take"):
        told(job, "none", [lambda texts: None])
    with pytest.raises(ConfigError, match=r"both student='a' and layers=2: write a\[layers=2\]"):
        told(job, "both", job.teachers, student="a", layers=2)


# ---- a start for every task ----------------------------------------------------------------------------------------


def body_losses(folder: Path) -> tuple[float, float]:
    """Of hidden states, in the first and in the last line of the history."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    found = [line["train/loss_feature"] for line in lines if "train/loss_feature" in line]
    return found[0], found[-1]


def general(job: Job, name: str, **more: Any) -> dict[str, Any]:
    settings = {"layers": 2, "train__epochs": 8, "train__learning_rate": 3e-3, "train__logging_steps": 1}
    texts = more.pop("texts", [str(job.train), str(job.dev)])
    return pretrain(texts, init=job.teachers[0], output=job.folder / "runs" / name, **QUICK | settings | more)


def test_a_cut_model_is_healed_and_keeps_no_head(job: Job) -> None:
    found = general(job, "general")
    folder = job.folder / "runs" / "general"
    first, last = body_losses(folder)
    assert last < 0.5 * first and found["losses"]["feature"] == last
    assert found["texts"] == 110 and found["kinds"] == ["feature", "attention"] and found["student"]["layers"] == 2
    model, tokenizer = AutoModel.from_pretrained(folder / "student"), AutoTokenizer.from_pretrained(folder / "student")
    assert not any("classifier" in name for name, _ in model.named_parameters())
    teacher = AutoModel.from_pretrained(job.teachers[0])
    inputs = tokenizer(["good story", "a dull film about the sea"], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, theirs = model.eval()(**inputs), teacher.eval()(**inputs)
    mask = inputs["attention_mask"].unsqueeze(-1)
    distance = (((ours.last_hidden_state - theirs.last_hidden_state) ** 2) * mask).mean()
    assert float(distance) < 0.5 * float(((theirs.last_hidden_state**2) * mask).mean())
    assert not (folder / "plan.json").exists()


def test_a_task_starts_from_it(job: Job) -> None:
    general(job, "start", train__epochs=1)
    student = str(job.folder / "runs" / "start" / "student")
    result = told(job, "task", job.teachers[:1], student=student, train__epochs=1)
    assert result.metrics["student"]["source"]["path"] == student
    assert AutoModelForSequenceClassification.from_pretrained(result.folder / "student").config.num_labels == 2


def test_equal_texts_count_once_and_both_texts_of_a_pair(job: Job, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("sentence1,sentence2\ngood food,bad food\ngood food,the sea\n", encoding="utf-8")
    assert general(job, "pairs", texts=[str(pairs), str(pairs)], train__epochs=1)["texts"] == 3


def test_a_stopped_one_goes_on_and_a_finished_one_is_left_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = general(job, "whole", train__epochs=2)
    save, seen = DistillationTrainer._save_checkpoint, []

    def stop(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)
        seen.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            general(job, "stopped", train__epochs=2)
    found = general(job, "stopped", train__epochs=2)
    assert found["losses"] == whole["losses"] and found["cost"]["resumed_at_step"] > 0
    with pytest.raises(RunError, match="holds a finished run"):
        general(job, "whole", train__epochs=2)


def test_what_cannot_be_pretrained_is_an_error(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no text: give one table of texts or more"):
        general(job, "nothing", texts=[])
    with pytest.raises(DataError, match="nowhere"):
        general(job, "nowhere", texts=["nowhere.csv"])
    write_table(tmp_path / "t.csv", 20)
    with pytest.raises(ConfigError, match="expected a time such as 30min"):
        general(job, "no-time", texts=[str(tmp_path / "t.csv")], budget="soon")
