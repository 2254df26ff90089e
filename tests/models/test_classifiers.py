"""Heads as they are found: named by numbers or not at all, wider than the config says, of one logit; and folders without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from distilect.config import StudentConfig, TeacherConfig
from distilect.data import Table
from distilect.errors import StudentError, TeacherError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher, build_student, load_teacher
from distilect.signals import LiveSignals
from distilect.tasks import Task
from tests.tiny import SENTENCES, tiny_bert, tiny_gpt2, tiny_roberta

NUMBERS = Task("toy", "classification", ("0", "1"), ("accuracy",), 1)
WORDS = Task("toy", "classification", ("no", "yes"), ("accuracy",), 1)
STARS = Task("stars", "classification", ("1", "2", "3", "4", "5"), ("accuracy",), 1)
SCORES = Task("scores", "regression", (), ("pearson",), 1)
TABLE = Table.from_texts(list(SENTENCES))


def teacher(path: str, task: Task, **options: Any) -> CheckpointTeacher:
    found = load_teacher(TeacherConfig(name="t", path=path, **options), task, precision="fp32", max_length=64)
    assert isinstance(found, CheckpointTeacher)
    return found


def configure(path: str, **values: Any) -> str:
    """Change entries of config.json; None removes one."""
    file = Path(path) / "config.json"
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def raw_logits(path: str) -> np.ndarray:
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(path).eval(),
        AutoTokenizer.from_pretrained(path),
    )
    with torch.no_grad():
        rows = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=64)).logits for text in SENTENCES
        ]
    return torch.cat(rows).numpy()


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [{"0": 1, "1": 0}, {"0": "1", "1": "0"}, {"0": True, "1": False}])
def test_names_may_be_numbers(names: dict[str, Any], tmp_path: Path) -> None:
    task = NUMBERS if str(names["1"]) == "0" else Task("toy", "classification", ("False", "True"), ("accuracy",), 1)
    path = configure(tiny_bert(tmp_path, 2), id2label=names, label2id={str(v): int(k) for k, v in names.items()})
    assert teacher(path, task).order == [1, 0]
    student = build_student(StudentConfig(init=path), task, {}, 0)
    whole = AutoModelForSequenceClassification.from_pretrained(path)
    assert torch.equal(student.model.classifier.weight, whole.classifier.weight[[1, 0]])
    assert not student.report


def test_generic_names_on_both_sides_are_equal(tmp_path: Path) -> None:
    task = Task("toy", "classification", ("LABEL_0", "LABEL_1"), ("accuracy",), 1)
    for path in (
        tiny_bert(tmp_path / "a", 2),
        tiny_bert(tmp_path / "b", ["0", "1"]),
        tiny_bert(tmp_path / "c", ["LABEL_1", "LABEL_0"]),
    ):
        assert teacher(path, task).order == ([1, 0] if path.endswith("c") else [0, 1])
    assert teacher(tiny_bert(tmp_path / "d", 2), task, labels=["LABEL_0", "LABEL_1"]).order == [0, 1]


def test_names_against_numbers_name_the_remedies_and_they_work(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, ["NEGATIVE", "POSITIVE"])
    with pytest.raises(TeacherError) as refused:
        teacher(path, NUMBERS)
    assert "set task.labels=[NEGATIVE,POSITIVE]" in str(refused.value)
    assert 'labels: ["0", "1"]' in str(refused.value) and "on 't'" in str(refused.value)
    assert teacher(path, NUMBERS, labels=["0", "1"]).order == [0, 1]
    assert teacher(path, Task("toy", "classification", ("NEGATIVE", "POSITIVE"), ("accuracy",), 1)).order == [0, 1]


def test_a_head_that_is_replaced_is_told_and_a_backbones_new_one_is_not(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "a", ["bad", "good"])
    (line,) = build_student(StudentConfig(init=path), WORDS, {}, 0).report
    assert line == f"the head of {path} (2 output(s): bad, good) is replaced by a new one for no, yes"
    (line,) = build_student(StudentConfig(init=path), SCORES, {}, 0).report
    assert line.endswith("is replaced by a new one for scores")
    AutoModel.from_pretrained(path).save_pretrained(tmp_path / "backbone")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "backbone")
    assert not build_student(StudentConfig(init=str(tmp_path / "backbone")), WORDS, {}, 0).report


# ---- width ---------------------------------------------------------------------------------------------------------


def test_a_head_wider_than_its_names_is_told_with_both_counts(tmp_path: Path) -> None:
    path = configure(
        tiny_bert(tmp_path, ["no", "maybe", "yes"]), id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}
    )
    with pytest.raises(TeacherError, match=r"its head has 3 outputs, its config\.json names 2 \(no, yes\)") as refused:
        teacher(path, WORDS)
    assert "\n" not in str(refused.value)
    (line,) = build_student(StudentConfig(init=path), WORDS, {}, 0).report
    assert "(3 output(s)" in line and "replaced" in line
    task = Task("toy", "classification", ("maybe", "no", "yes"), ("accuracy",), 1)
    assert teacher(path, task, labels=["no", "maybe", "yes"]).order == [1, 0, 2]


@pytest.mark.parametrize("make", [tiny_bert, tiny_roberta, tiny_gpt2])
def test_a_head_whose_outputs_are_not_named_at_all_is_taken_as_wide_as_it_is(make: Any, tmp_path: Path) -> None:
    task = Task("toy", "classification", ("0", "1", "2"), ("accuracy",), 1)
    path = make(tmp_path, 3)
    expected = raw_logits(path)
    configure(path, id2label=None, label2id=None)
    found = teacher(path, task)
    logits = predict(found.model, found.encode(TABLE), precision="fp32")
    np.testing.assert_allclose(logits[:, found.order], expected, atol=1e-5)
    student = build_student(StudentConfig(init=path, max_length=64), task, {}, 0)
    assert not student.report
    np.testing.assert_allclose(predict(student.model, student.encode(TABLE), precision="fp32"), expected, atol=1e-5)


def test_a_config_of_other_sizes_than_the_weights_is_one_line(tmp_path: Path) -> None:
    path = configure(tiny_bert(tmp_path, 2), intermediate_size=48)
    with pytest.raises(TeacherError, match=r"has shape \[32.*\], its config\.json says \[48.*\]: the two do not"):
        teacher(path, NUMBERS)
    with pytest.raises(StudentError, match="do not belong together"):
        build_student(StudentConfig(init=path), NUMBERS, {}, 0)


# ---- one output ----------------------------------------------------------------------------------------------------


def cross_encoder(folder: Path, make: Any = tiny_bert) -> str:
    """One logit, not declared as a score."""
    return configure(make(folder, 1), problem_type=None)


@pytest.mark.parametrize("make", [tiny_bert, tiny_roberta, tiny_gpt2])
def test_a_single_logit_is_the_second_of_two_classes(make: Any, tmp_path: Path) -> None:
    path = cross_encoder(tmp_path, make)
    expected = np.concatenate([np.zeros((len(SENTENCES), 1)), raw_logits(path)], axis=1)
    found = teacher(path, NUMBERS)
    logits = predict(found.model, found.encode(TABLE), precision="fp32")
    np.testing.assert_allclose(logits[:, found.order], expected, atol=1e-5)
    live = LiveSignals([found]).fetch(TABLE, np.arange(len(SENTENCES)), [[]]).logits[:, 0]
    np.testing.assert_allclose(live.numpy(), expected, atol=1e-5)
    student = build_student(StudentConfig(init="t", max_length=64), NUMBERS, {"t": path}, 0)
    np.testing.assert_allclose(predict(student.model, student.encode(TABLE), precision="fp32"), expected, atol=1e-5)
    assert student.model.config.num_labels == 2 and not student.report


def test_which_class_the_logit_stands_for_is_not_guessed(tmp_path: Path) -> None:
    path = cross_encoder(tmp_path)
    with pytest.raises(
        TeacherError, match=r"has one output, the logit of one of two labels: .* labels: on 't'; the task's are no, yes"
    ):
        teacher(path, WORDS)
    assert teacher(path, WORDS, labels=["no", "yes"]).order == [0, 1]
    assert teacher(path, WORDS, labels=["yes", "no"]).order == [1, 0]
    configure(path, id2label={"0": "no"}, label2id={"no": 0})
    assert teacher(path, WORDS).order == [1, 0]  # it names the class itself


def test_one_output_serves_both_tasks_under_different_fingerprints(tmp_path: Path) -> None:
    path = cross_encoder(tmp_path)
    assert teacher(path, SCORES).order == [0]
    assert teacher(path, SCORES).fingerprint != teacher(path, NUMBERS).fingerprint


@pytest.mark.parametrize(("declared", "task"), [("regression", STARS), (None, STARS), ("regression", NUMBERS)])
def test_a_score_against_classes_names_the_kind_of_task(declared: str | None, task: Task, tmp_path: Path) -> None:
    path = configure(tiny_bert(tmp_path, 1), problem_type=declared)
    with pytest.raises(
        TeacherError, match=r"has one output, a score; the task has \d classes .* set task\.kind=regression"
    ):
        teacher(path, task)


# ---- no head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config_setfit.json", "modules.json", "config_sentence_transformers.json"])
def test_encoders_whose_head_is_elsewhere_name_a_function_as_remedy(file: str, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "whole", 2)
    AutoModel.from_pretrained(path).save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / file).write_text("{}")
    for labels in (None, ["no", "yes"]):
        with pytest.raises(TeacherError, match=r"head.*give a function from texts to logits as teacher, distill\("):
            teacher(str(tmp_path / "encoder"), WORDS, labels=labels)
    assert build_student(StudentConfig(init=str(tmp_path / "encoder")), WORDS, {}, 0).num_layers == 2


def test_an_adapter_names_how_it_is_merged(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for build in (
        lambda: teacher(str(tmp_path), WORDS),
        lambda: build_student(StudentConfig(init=str(tmp_path)), WORDS, {}, 0),
    ):
        with pytest.raises(
            (TeacherError, StudentError),
            match=r"PEFT adapter without its model: .*merge_and_unload\(\)\.save_pretrained",
        ):
            build()


# ---- own architecture ----------------------------------------------------------------------------------------------


def test_fresh_needs_a_config_and_a_tokenizer_and_no_weights(tmp_path: Path) -> None:
    path = configure(tiny_bert(tmp_path / "small", WORDS.labels, layers=3), hidden_size=8, intermediate_size=24)
    (Path(path) / "model.safetensors").unlink()
    student = build_student(StudentConfig(init=f"{path}[fresh]"), WORDS, {}, 0)
    assert (student.num_layers, student.hidden_size) == (3, 8)
    assert not student.report
    with pytest.raises(StudentError, match=r"no model\.safetensors"):
        build_student(StudentConfig(init=path), WORDS, {}, 0)
    whole = shutil.copytree(path, tmp_path / "tokenizer")
    for file in Path(path).glob("tok*"):
        file.unlink()
    with pytest.raises(StudentError, match="no tokenizer in"):
        build_student(StudentConfig(init=f"{path}[fresh]"), WORDS, {}, 0)
    assert build_student(StudentConfig(init=f"{path}[fresh]", tokenizer=str(whole)), WORDS, {}, 0).hidden_size == 8
