"""A multi-label run from a table to its folder: sigmoids, thresholds, metrics, page, card, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import parse_config
from distilect.errors import DistilectError
from distilect.pipeline import distill, evaluate, finetune, run
from distilect.pipeline.predictions import read_predictions
from distilect.report import build_report
from tests.tiny import SENTENCES, tiny_bert

LABELS = ("cold", "fine", "good")
MULTI = "multi_label_classification"


def rows(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Each label's name stands in the texts that have it, at a place of its own."""
    rng = np.random.default_rng(seed)
    words = [w for w in " ".join(SENTENCES).replace(",", "").split() if w not in LABELS]
    found = []
    for number in range(count):
        labels = [label for label in LABELS if rng.random() < 0.4]
        marks = [label if label in labels else "the" for label in LABELS]
        found.append((" ".join([*marks, rng.choice(words), str(number % 10)]), labels))
    return found


def write(path: Path, found: list[tuple[str, list[str]]]) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "labels": labels}) for text, labels in found]
    else:
        lines = [",".join(["text", *LABELS])]
        lines += [",".join([text, *(str(int(label in labels)) for label in LABELS)]) for text, labels in found]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Topics:
    """Tables, two teachers whose labels stand in different orders, and a table of a third teacher's probabilities."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        train, dev = rows(160, 0), rows(60, 1)
        self.train, self.dev = write(folder / "train.jsonl", train), write(folder / "dev.jsonl", dev)
        self.columns = write(folder / "dev.csv", dev)
        self.teachers = [
            tiny_bert(folder / "a", LABELS, 1, layers=4, problem_type=MULTI),
            tiny_bert(folder / "b", tuple(reversed(LABELS)), 2, problem_type=MULTI),
        ]
        outputs = {text: {label: 0.99 if label in labels else 0.0 for label in LABELS} for text, labels in train + dev}
        lines = [json.dumps({"text": text, **values}) for text, values in outputs.items()]
        (folder / "oracle.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def config(self, **changes: Any) -> Any:
        raw = {
            "name": "topics",
            "output": str(self.folder / "runs"),
            "data": {"train": str(self.train), "dev": str(self.dev)},
            "teachers": [*self.teachers, {"name": "oracle", "table": str(self.folder / "oracle.jsonl")}],
            "student": "a[layers=1,3]",
            "method": "best-single",
            "train": {"epochs": 10, "batch_size": 16, "learning_rate": 5e-3, "max_length": 32, "precision": "fp32"},
            "signals": {"precision": "fp32"},
        }
        return parse_config(raw | changes)


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Topics:
    return Topics(tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="module")
def finished(topics: Topics) -> Any:
    return run(topics.config())[0]


def test_the_student_learns_and_is_scored_label_by_label(finished: Any) -> None:
    metrics = finished.metrics
    assert metrics["task"]["kind"] == "multi-label" and metrics["primary"] == "micro_f1"
    assert set(metrics["student"]["scores"]) == {"micro_f1", "macro_f1", "map", "subset_accuracy"}
    assert metrics["student"]["scores"]["micro_f1"] > 0.7  # 0.57 for a student that predicts every label
    scores = {teacher["name"]: teacher["scores"]["micro_f1"] for teacher in metrics["teachers"]}
    assert scores["oracle"] == 1.0 and scores["a"] < 0.8


def test_thresholds_are_chosen_on_the_validation_split_and_kept_with_the_student(finished: Any) -> None:
    student = finished.metrics["student"]
    assert list(student["thresholds"]) == list(LABELS)
    assert all(0 < value < 1 for value in student["thresholds"].values())
    config = json.loads((finished.folder / "student" / "config.json").read_text())
    assert config["thresholds"] == list(student["thresholds"].values())
    assert config["problem_type"] == MULTI and list(config["id2label"].values()) == list(LABELS)
    card = (finished.folder / "student" / "README.md").read_text()
    assert "with any of 3 labels: cold, fine, good" in card and "top_k=None" in card
    for label, value in student["thresholds"].items():
        assert f"| {label} | {value:.3f} |" in card


@pytest.mark.parametrize("form", ["dev", "columns"])
def test_evaluate_uses_the_kept_thresholds(topics: Topics, finished: Any, form: str) -> None:
    folder = finished.folder / "student"
    found = evaluate(str(folder), str(getattr(topics, form)), max_length=32, precision="fp32")
    assert found["scores"] == pytest.approx(finished.metrics["student"]["scores"])
    config = AutoConfig.from_pretrained(folder)
    kept, path = list(config.thresholds), folder / "config.json"
    raw = json.loads(path.read_text())
    try:
        path.write_text(json.dumps(raw | {"thresholds": [0.999999] * 3}))
        low = evaluate(str(folder), str(getattr(topics, form)), max_length=32, precision="fp32")["scores"]
        path.write_text(json.dumps(raw | {"thresholds": [0.5, 0.5]}))
        with pytest.raises(DistilectError, match=r"thresholds in its config.json are .* expected 3 probabilities"):
            evaluate(str(folder), str(getattr(topics, form)), max_length=32, precision="fp32")
    finally:
        path.write_text(json.dumps(raw | {"thresholds": kept}))
    assert low["micro_f1"] == 0.0 and low["map"] == pytest.approx(found["scores"]["map"])


def test_a_pipeline_gives_a_sigmoid_for_each_label(finished: Any) -> None:
    folder, text = str(finished.folder / "student"), "cold the good view 3"
    found = {one["label"]: one["score"] for one in pipeline("text-classification", model=folder, top_k=None)([text])[0]}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits[0]
    assert found == pytest.approx(dict(zip(LABELS, torch.sigmoid(logits).tolist(), strict=True)), abs=1e-4)


def test_predictions_hold_the_labels_of_each_row(topics: Topics, finished: Any) -> None:
    table = pq.read_table(finished.folder / "predictions.parquet")
    assert table.schema.metadata[b"kind"] == b"multi-label"
    assert table["label"].to_pylist() == [[int(label in labels) for label in LABELS] for _, labels in rows(60, 1)]
    _, labels, logits = read_predictions(finished.folder / "predictions.parquet")
    assert labels.dtype == np.int8 and labels.shape == logits.shape == (60, 3)


def test_the_page_shows_each_label(finished: Any) -> None:
    page = build_report(finished.folder).read_text(encoding="utf-8")
    assert "Label by label" in page and "Confusion" not in page
    for label in LABELS:
        assert f">{label}</td>" in page
    assert "both are right on" in page and "pairs of row and label" in page


def test_teachers_are_aligned_by_name(topics: Topics) -> None:
    found = run(topics.config(name="by-name", method="finetune", train={"epochs": 1, "max_length": 32}))[0]
    scores = {teacher["name"]: teacher["scores"]["map"] for teacher in found.metrics["teachers"]}
    own = evaluate(topics.teachers[1], str(topics.dev), max_length=32, precision="fp32")
    assert list(own["task"]["labels"]) == list(reversed(LABELS))
    assert scores["b"] == pytest.approx(own["scores"]["map"], abs=1e-3)


def test_a_fine_tuned_teacher_and_its_student(topics: Topics) -> None:
    teachers = [{"name": "made", "finetune": {"init": topics.teachers[0], "epochs": 1}}]
    found = run(topics.config(name="made", teachers=teachers, student="made[layers=1,3]", method="kd"))[0]
    folder = Path(found.metrics["teachers"][0]["path"])
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == MULTI and len(config["thresholds"]) == 3
    assert set(found.metrics["teachers"][0]["thresholds"]) == set(LABELS)


def test_without_a_validation_split_the_threshold_is_a_half(topics: Topics) -> None:
    data = {"train": str(topics.train), "dev": str(topics.dev), "validation_size": 0}
    train = {"epochs": 1, "max_length": 32}
    found = run(topics.config(name="no-validation", data=data, method="uniform", train=train))[0]
    assert "thresholds" not in found.metrics["student"]
    config = json.loads((found.folder / "student" / "config.json").read_text())
    assert config.get("thresholds") is None
    assert "above 0.5" in (found.folder / "student" / "README.md").read_text()


# ---- one kind of outputs is not read as the other ------------------------------------------------------------------


def test_a_multi_label_teacher_is_refused_in_a_run_of_one_label(topics: Topics, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": LABELS[n % 3]}) for n, (text, _) in enumerate(rows(60, 2))]
    (tmp_path / "one.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DistilectError, match="'a' is a multi-label model .* set task.kind: multi-label, or take a model"
    ):
        distill(str(tmp_path / "one.jsonl"), teachers=[topics.teachers[0]], student="a[layers=1]", output=str(tmp_path))
    with pytest.raises(DistilectError, match="'a' is a multi-label model"):
        distill(
            str(tmp_path / "one.jsonl"),
            teachers=[topics.teachers[0]],
            student="a[layers=1]",
            output=str(tmp_path),
            task={"kind": "classification"},
        )


@pytest.mark.parametrize("problem", ["single_label_classification", None])
def test_a_softmax_is_refused_in_a_multi_label_run(topics: Topics, tmp_path: Path, problem: str | None) -> None:
    teacher = tiny_bert(tmp_path / "softmax", LABELS, 1, problem_type=problem)
    with pytest.raises(DistilectError, match="'softmax' chooses one label per text .* write that into its config.json"):
        run(topics.config(name="softmax", teachers=[teacher], student="softmax[layers=1]"))
    config = json.loads((tmp_path / "softmax" / "config.json").read_text())
    (tmp_path / "softmax" / "config.json").write_text(json.dumps(config | {"problem_type": MULTI}))
    changes = {"name": f"mended-{problem}", "teachers": [teacher], "student": "softmax[layers=1]", "method": "kd"}
    assert run(topics.config(**changes, train={"epochs": 1, "max_length": 32}))[0].metrics["student"]["scores"]


def test_a_student_cut_from_a_softmax_gets_a_new_head(topics: Topics, tmp_path: Path) -> None:
    backbone = tiny_bert(tmp_path / "softmax", LABELS, 1)
    metrics = finetune(
        str(topics.train),
        init=backbone,
        output=str(tmp_path / "out"),
        overrides=["train.epochs=1", "train.max_length=32"],
    )
    assert metrics["task"]["kind"] == "multi-label"


def test_other_outputs_of_a_table_of_a_teacher(topics: Topics, tmp_path: Path) -> None:
    from distilect.config import TeacherConfig
    from distilect.models import load_teacher
    from distilect.tasks import Task

    task = Task("t", "multi-label", LABELS, ("micro_f1",), 1)
    p = np.array([0.2, 0.0, 1.0])
    for outputs, values in (("probabilities", p), ("log_probabilities", np.log(np.maximum(p, 1e-30)))):
        line = {"text": "a", **dict(zip(LABELS, values.tolist(), strict=True))}
        (tmp_path / f"{outputs}.jsonl").write_text(json.dumps(line) + "\n")
        teacher: Any = load_teacher(TeacherConfig(table=f"{outputs}.jsonl", outputs=outputs), task, data_dir=tmp_path)
        assert teacher.logits[0] == pytest.approx([np.log(0.25), np.log(1e-7), np.log(1e7)], rel=1e-3)


# ---- command line --------------------------------------------------------------------------------------------------


def test_a_label_column_per_label_on_the_command_line(topics: Topics, tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", rows(80, 3))
    arguments = ["finetune", str(train), "--init", topics.teachers[1], "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--label", "good", "--label", "cold", "train.epochs=1"])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["task"]["labels"] == ["good", "cold"]
    student = str(tmp_path / "out" / "student")
    columns = ["--label", "cold", "--label", "good"]
    result = CliRunner().invoke(app, ["evaluate", student, str(topics.columns), *columns])
    assert result.exit_code == 0, result.output
    assert "micro_f1" in result.output and "subset_accuracy" in result.output
    result = CliRunner().invoke(app, ["evaluate", student, str(topics.columns), "--label", "cold", "--label", "fine"])
    assert result.exit_code == 1 and "expected one column for each of them" in result.output
