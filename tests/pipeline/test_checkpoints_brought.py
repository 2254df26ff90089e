"""Checkpoints that people bring, through the verbs: their length is kept, what is cut is said, and their heads are read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from distilect.cli import app
from distilect.pipeline import evaluate, finetune, run
from tests.pipeline.helpers import Job, write_table
from tests.tiny import SENTENCES, tiny_bert

FEW = ["train.epochs=1", "train.precision=fp32"]


def long_table(path: Path, rows: int, seed: int = 0) -> Path:
    """The word that gives the label away stands at token 40."""
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for _ in range(rows):
        label = int(rng.integers(2))
        lines.append(
            f"{' '.join(rng.choice(SENTENCES[0].split(), size=36))} {('bad', 'good')[label]},{('no', 'yes')[label]}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def relabel(table: Path, names: dict[str, str]) -> Path:
    head, *lines = table.read_text().splitlines()
    pairs = [line.rpartition(",") for line in lines]
    table.write_text("\n".join([head, *(f"{text},{names[label]}" for text, _, label in pairs)]) + "\n")
    return table


def configure(path: str, **values: Any) -> str:
    file = Path(path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return path


def test_a_checkpoint_is_evaluated_at_the_length_that_it_was_trained_at(tmp_path: Path) -> None:
    train, dev = long_table(tmp_path / "train.csv", 60), long_table(tmp_path / "dev.csv", 20, 1)
    backbone = tiny_bert(tmp_path / "backbone", ["no", "yes"])
    metrics = finetune(
        str(train), dev=str(dev), init=backbone, output=str(tmp_path / "o"), overrides=["train.max_length=48", *FEW]
    )
    student = str(tmp_path / "o" / "student")
    assert AutoTokenizer.from_pretrained(student).model_max_length == 48
    assert metrics["student"]["max_length"] == 48
    assert "Longest text: 48 tokens" in (tmp_path / "o" / "student" / "README.md").read_text()
    found = evaluate(student, str(dev), precision="fp32")
    assert found["scores"] == pytest.approx(metrics["student"]["scores"])
    assert found["report"] == []
    shorter = evaluate(student, str(dev), max_length=16, precision="fp32")
    assert shorter["report"] == ["student: 20 of 20 evaluated rows are cut at 16 tokens"]


def test_a_length_that_is_set_counts_more_than_that_of_the_checkpoint(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for teacher in job.teachers:
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        tokenizer.model_max_length = 6
        tokenizer.save_pretrained(teacher)
    result = run(job.config(method="kd", train={"epochs": 1, "max_length": 32, "precision": "fp32"}))[0]
    assert result.metrics["student"]["max_length"] == 32 and result.metrics["rows"]["truncated"] == 0


def test_every_table_whose_rows_are_cut_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path)
    run(job.config(method="kd", train={"epochs": 1, "max_length": 6, "precision": "fp32"}))
    told = " ".join(capsys.readouterr().err.split())
    for rows in ("training", "validation", "dev"):
        assert f"{rows} rows are cut at 6 tokens" in told
    assert told.count("of them cut at 6 tokens") == 5  # both on validation and dev, the better one on train


def test_finetune_says_that_a_head_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_table(tmp_path / "train.csv", 40)
    init = tiny_bert(tmp_path / "init", ["bad", "so-so", "good"])
    finetune(str(train), init=init, output=str(tmp_path / "o"), overrides=FEW)
    assert "(3 output(s): bad, so-so, good) is replaced by a new one for no, yes" in " ".join(
        capsys.readouterr().err.split()
    )


def test_labels_called_label_0_go_all_the_way(tmp_path: Path) -> None:
    names = {"no": "LABEL_0", "yes": "LABEL_1"}
    job = Job(tmp_path)
    for table in (job.train, job.dev):
        relabel(table, names)
    teacher = tiny_bert(tmp_path / "t", 2, 1, layers=4)
    result = run(job.config(teachers=[teacher], student="t[layers=1]", method="kd"))[0]
    scores = evaluate(str(result.folder / "student"), str(job.dev), precision="fp32")["scores"]
    assert scores == pytest.approx(result.metrics["student"]["scores"])
    run(job.config(teachers=[str(result.folder / "student")], student="toy", method="kd", name="again"))
    relabel(job.dev, {"LABEL_0": "0", "LABEL_1": "1"})
    numbered = evaluate(str(result.folder / "student"), str(job.dev), precision="fp32")["scores"]
    assert list(numbered.values()) == pytest.approx(list(scores.values()))


def test_a_cross_encoder_is_evaluated_and_teaches_as_a_classifier(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for table in (job.train, job.dev):
        relabel(table, {"no": "0", "yes": "1"})
    teacher = configure(tiny_bert(tmp_path / "t", 1, 1, layers=4), problem_type=None)
    found = evaluate(teacher, str(job.dev), precision="fp32")
    assert set(found["scores"]) == {"accuracy", "f1(1)"}
    result = run(job.config(teachers=[teacher], student="t[layers=1,3]", method="kd"))[0]
    assert result.metrics["teachers"][0]["scores"] == pytest.approx(found["scores"])


def test_a_teacher_without_tokenizer_stops_evaluate_and_run_in_one_line(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for file in Path(job.teachers[0]).glob("tok*"):
        file.unlink()
    done = CliRunner().invoke(app, ["evaluate", job.teachers[0], str(job.dev)])
    assert done.exit_code == 1 and "no tokenizer in" in done.output and done.output.count("\n") == 1
    teachers = [{"path": job.teachers[0], "tokenizer": job.teachers[1]}]
    result = run(job.config(teachers=teachers, student="a[layers=1]", method="kd"))[0]
    assert (result.folder / "student" / "tokenizer.json").is_file()


def test_a_finetuned_teacher_may_take_its_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for file in Path(job.teachers[0]).glob("tok*"):
        file.unlink()
    teachers = [{"name": "x", "finetune": {"init": job.teachers[0], "epochs": 1}, "tokenizer": job.teachers[1]}]
    result = run(job.config(teachers=teachers, student="x[layers=1]", method="kd"))[0]
    assert result.metrics["student"]["scores"]
