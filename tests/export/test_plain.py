"""The exported folder answers texts with onnxruntime and tokenizers alone, as `distilect predict` does."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilect.data import Table
from distilect.export import ship
from distilect.export.onnx import OnnxModel
from distilect.export.plain import model_inputs, write_plain
from distilect.models import CheckpointTeacher
from distilect.pipeline.prediction import predict_file
from distilect.tasks import Task
from tests.export.runs import WITHOUT_US
from tests.site.blocks import blocks
from tests.tiny import FAMILIES, tiny_bert

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

pytestmark = pytest.mark.timeout(900)

SCRIPT = next(block.text for block in blocks("tutorial/ship.md") if block.title == "answer.py")
TEXTS = [
    "good food and a view of the sea",
    "bad and cold",
    "good",
    "bad " + "the train was late again this morning " * 40,  # more than 32 tokens
    "Füße, 日本語 and 😀",
]
ALONE = (
    WITHOUT_US
    + """
import json
import answer
texts = json.loads(sys.stdin.read())
print(json.dumps([answer.answer(texts), answer.outputs(texts).tolist()]))
assert not {"torch", "transformers", "distilect"} & set(sys.modules)
"""
)


def served(folder: Path, script: str, texts: list[Any]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Labels and outputs of the page's script, in a process of its own."""
    (folder / "answer.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ALONE], input=json.dumps(texts), capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    labels, outputs = json.loads(done.stdout)
    return labels, np.array(outputs)


def test_the_script_on_the_page_answers_as_predict_does_without_torch_transformers_and_distilect(
    run: Path, tmp_path: Path
) -> None:
    here = tmp_path / "serving"
    shutil.copytree(run / "student" / "onnx", here / "runs/reviews/student/onnx")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    predict_file(run / "student", tmp_path / "texts.jsonl", tmp_path / "out.jsonl", precision="fp32")
    wanted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    labels, outputs = served(here, SCRIPT.replace("model_int8.onnx", "model.onnx"), TEXTS)
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    assert labels == [row["prediction"] for row in wanted]
    assert np.abs(shares[:, 1] - [row["probability_yes"] for row in wanted]).max() < 1e-5

    labels, outputs = served(here, SCRIPT, TEXTS)
    assert labels[:4] == ["yes", "no", "yes", "no"]  # what it has learned, from the first word
    assert 0 < np.abs(outputs - OnnxModel(run / "student/onnx/model.onnx")(_padded(run, TEXTS))).max() < 0.2


def _padded(run: Path, texts: list[str]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    return tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")


def test_the_checkpoint_s_own_tokenizer_stays_as_it_is(exported: Path) -> None:
    own = json.loads((exported / "student/tokenizer.json").read_text())
    plain = json.loads((exported / "student/onnx/tokenizer.json").read_text())
    assert own["truncation"] is None and own["padding"] is None
    assert plain["truncation"]["max_length"] == 32 and plain["padding"]["pad_token"] == "[PAD]"


def student_of(folder: Path, family: Any, task: Task) -> CheckpointTeacher:
    return CheckpointTeacher("student", family(folder, list(task.labels) or 1, 0), task, max_length=12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairs", [False, True])
def test_every_tokenizer_is_written_with_its_side_pad_token_and_types(family: str, pairs: bool, tmp_path: Path) -> None:
    task = Task("toy", "classification", ("no", "yes"), ("accuracy",), 2 if pairs else 1)
    student = student_of(tmp_path / "student", FAMILIES[family], task)
    texts: Any = list(itertools.pairwise(TEXTS)) if pairs else TEXTS
    table = Table.from_texts(texts)
    encoded = student.encode(table)
    assert write_plain(student, task, table, encoded, tmp_path) is None
    found = model_inputs(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), table.text(range(len(table))))
    for name, values in encoded.collate(range(len(table))).items():
        assert np.array_equal(found[name], values.numpy()), name
    assert found["input_ids"].shape[1] == 12  # one of the texts is longer


def test_a_tokenizer_that_would_make_other_tokens_is_not_written_and_the_user_is_told(tmp_path: Path) -> None:
    task = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
    student, table = student_of(tmp_path / "student", tiny_bert, task), Table.from_texts(TEXTS[:3])
    other = student.encode(Table.from_texts([*TEXTS[:2], "another text"]))
    (tmp_path / "tokenizer.json").write_text("of an earlier export")
    said = write_plain(student, task, table, other, tmp_path)
    assert said is not None and "makes other tokens" in said
    assert not (tmp_path / "tokenizer.json").exists() and (tmp_path / "config.json").is_file()


def test_labels_are_in_the_order_of_the_outputs_and_thresholds_beside_them(tmp_path: Path) -> None:
    """The task has its labels in another order than the student."""
    model = tiny_bert(
        tmp_path / "student", ["view", "food"], problem_type="multi_label_classification", thresholds=[0.2, 0.7]
    )
    task = Task("toy", "multi-label", ("food", "view"), ("micro_f1",), 1)
    student = CheckpointTeacher("student", model, task, max_length=12)
    table = Table.from_texts(TEXTS[:2])
    write_plain(student, task, table, student.encode(table), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "view", "1": "food"} and config["thresholds"] == [0.2, 0.7]
    assert student.thresholds == [0.7, 0.2]


@pytest.mark.usefixtures("quick_exporter")
def test_pairs_need_their_token_types(exported: Path, tmp_path: Path) -> None:
    """The same tokens without them have other outputs: a script that leaves them out would be wrong without a word."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert(tmp_path / "untaught", ["no", "yes"], 5))
    file = OnnxModel(ship.export_onnx(model, {}, tmp_path / "model.onnx"))
    tokenizer = Tokenizer.from_file(str(exported / "student/onnx/tokenizer.json"))
    pairs = [("good food", "a view of the sea"), ("bad", "the train was late again")]
    inputs = {name: torch.from_numpy(values) for name, values in model_inputs(tokenizer, pairs).items()}
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        wanted = model(**inputs).logits.numpy()
    assert np.abs(file(inputs) - wanted).max() < 1e-5
    without = file({**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])})
    assert np.abs(without - wanted).max() > 1e-3


def test_a_later_export_replaces_only_its_own_files(run: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    request.getfixturevalue("quick_exporter")
    note = run / "student/onnx/NOTES.txt"
    note.write_text("mine")
    ship.export_run(run, onnx=True)
    assert note.read_text() == "mine" and not (run / "student/onnx/model_int8.onnx").exists()
    assert "model_int8" not in (run / "student/README.md").read_text()
