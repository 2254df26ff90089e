"""Teachers are frozen, off every module tree, and refused with a reason where they cannot teach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from distilect.config import TeacherConfig
from distilect.data import Table
from distilect.errors import TeacherError
from distilect.models import CallableTeacher, CheckpointTeacher, Teacher, load_teacher, resolve_path
from distilect.models.checkpoints import checkpoint_fingerprint
from distilect.models.teachers import classification_positions
from distilect.signals import LiveSignals, SignalStore, prepare_signals
from distilect.tasks import Task
from tests.tiny import tiny_bert, tiny_gpt2, tiny_roberta

TASK = Task("toy", "classification", ("neg", "pos"), ("accuracy",), 1)
SCORES = Task("scores", "regression", (), ("pearson",), 1)
TEXTS = ["a dull story", "good food", "the film was a joy"]


def checkpoint(path: str, **options: Any) -> CheckpointTeacher:
    teacher = load_teacher(TeacherConfig(name="a", path=path, **options), TASK, precision="fp32")
    assert isinstance(teacher, CheckpointTeacher)
    return teacher


# ---- frozen --------------------------------------------------------------------------------------------------------


def test_a_teacher_stays_in_eval_mode_when_the_model_that_holds_it_is_trained(tmp_path: Path) -> None:
    teacher = checkpoint(tiny_bert(tmp_path, TASK.labels))
    student = torch.nn.Module()
    student.teacher = teacher  # type: ignore[assignment]
    student.train()
    assert not any(module.training for module in teacher.model.modules())
    assert not list(student.parameters()) and not student.state_dict()


def test_a_teachers_forward_builds_no_graph_and_its_weights_are_frozen(tmp_path: Path) -> None:
    teacher = checkpoint(tiny_bert(tmp_path, TASK.labels))
    inputs = dict(teacher.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    assert all(not value.requires_grad for value in teacher.forward(inputs, ["cls.1", "hidden.2"]).values())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_teachers_are_not_wrapped_in_data_parallel(tmp_path: Path) -> None:
    teacher = checkpoint(tiny_bert(tmp_path, TASK.labels))
    assert not isinstance(teacher.model, torch.nn.DataParallel)


def test_weights_are_fp32_whatever_the_checkpoint_holds(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, TASK.labels)
    AutoModelForSequenceClassification.from_pretrained(path).half().save_pretrained(path)
    assert {parameter.dtype for parameter in checkpoint(path).model.parameters()} == {torch.float32}


# ---- what is read --------------------------------------------------------------------------------------------------


def test_the_classification_token_is_found_in_front_at_the_end_and_behind_padding() -> None:
    ids = torch.tensor([[2, 5, 6, 3, 0], [0, 0, 5, 3, 2], [5, 6, 7, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert classification_positions(ids, mask, 2).tolist() == [0, 4, 2]
    assert classification_positions(ids, mask, None).tolist() == [3, 4, 2]


def test_a_decoder_without_padding_token_reads_each_rows_own_last_token(tmp_path: Path) -> None:
    path = tiny_gpt2(tmp_path, TASK.labels)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pad_token_id"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    live = LiveSignals([checkpoint(path)])
    table = Table.from_texts(TEXTS)
    together = live.fetch(table, np.arange(3), [[]]).logits
    alone = torch.cat([live.fetch(table, np.array([i]), [[]]).logits for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_rows_are_never_longer_than_the_teachers_positions(tmp_path: Path) -> None:
    long = Table.from_texts(["the film was a joy " * 40])
    for make in (tiny_bert, tiny_roberta, tiny_gpt2):
        path = Path(make(tmp_path / make.__name__, TASK.labels))
        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings["model_max_length"] = 10**30
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        teacher = checkpoint(str(path), max_length=500)
        assert teacher.max_length == 64
        assert torch.isfinite(LiveSignals([teacher]).fetch(long, np.arange(1), [[]]).logits).all()


# ---- refused -------------------------------------------------------------------------------------------------------


def test_labels_that_the_teacher_does_not_know_print_both_maps(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"the model: \{0=bad, 1=good\}; the task: \{0=neg, 1=pos\}"):
        checkpoint(tiny_bert(tmp_path, ["bad", "good"]))


def test_names_can_be_given_to_a_teacher_with_generic_ones(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path, 2)
    assert checkpoint(path, labels=["pos", "neg"]).order == [1, 0]
    with pytest.raises(TeacherError, match="has 2 outputs, but labels: names 3"):
        checkpoint(path, labels=["pos", "neg", "mid"])


@pytest.mark.parametrize(
    "make", [lambda f: f / "none", lambda f: f, lambda f: (f / "x.txt").write_text("x") and f / "x.txt"]
)
def test_a_path_that_is_no_checkpoint_says_so(tmp_path: Path, make: Any) -> None:
    with pytest.raises(TeacherError, match="no checkpoint"):
        checkpoint(str(make(tmp_path)))


def test_pickle_weights_are_refused_with_the_remedy_and_never_loaded(tmp_path: Path) -> None:
    path = Path(tiny_bert(tmp_path, TASK.labels))
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(TeacherError, match=r"pickle only.*save_pretrained"):
        checkpoint(str(path))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    path = Path(tiny_bert(tmp_path, TASK.labels))
    (path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(TeacherError) as refused:
        checkpoint(str(path))
    assert "\n" not in str(refused.value) and "cannot load" in str(refused.value)


def test_a_backbone_without_a_trained_head_is_no_teacher(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "whole", 2)
    AutoModel.from_pretrained(path).save_pretrained(tmp_path / "backbone")
    for file in Path(path).glob("token*"):
        shutil.copy(file, tmp_path / "backbone")
    with pytest.raises(TeacherError, match=r"lacks classifier.bias, classifier.weight: it was never fine-tuned"):
        checkpoint(str(tmp_path / "backbone"), labels=["neg", "pos"])


def test_a_classifier_is_no_regression_teacher(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="has 2 outputs, a regression task needs exactly 1"):
        load_teacher(TeacherConfig(path=tiny_bert(tmp_path, TASK.labels)), SCORES)


# ---- tables of outputs ---------------------------------------------------------------------------------------------


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".csv":
        import csv

        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def table_teacher(file: Path, task: Task = TASK, outputs: Any = "probabilities") -> Teacher:
    return load_teacher(TeacherConfig(name="llm", table=file.name, outputs=outputs), task, data_dir=file.parent)


ROWS = [{"text": text, "pos": 0.25 * i, "neg": 1 - 0.25 * i} for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_probabilities_made_elsewhere_become_logits_joined_by_text(tmp_path: Path, suffix: str) -> None:
    teacher = table_teacher(write(tmp_path / f"llm{suffix}", ROWS))
    table = Table.from_texts([TEXTS[2], TEXTS[0], TEXTS[2]])
    prepared = prepare_signals([teacher], table, SignalStore(tmp_path / "store"), [[]])
    assert prepared.source is not None
    logits = prepared.source.fetch(table, np.array([0, 1, 2]), [[]]).logits[:, 0]
    torch.testing.assert_close(
        logits.softmax(-1), torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]), atol=1e-6, rtol=0
    )
    assert torch.isfinite(logits).all()
    assert (prepared.forwards, prepared.source.forwards) == (0, 0)


@pytest.mark.parametrize("outputs", ["logits", "log_probabilities"])
def test_logits_and_log_probabilities_are_taken_as_they_are(tmp_path: Path, outputs: str) -> None:
    file = write(tmp_path / "llm.jsonl", [{"text": "x", "neg": -3.5, "pos": -0.03}])
    table = Table.from_texts(["x"])
    logits = LiveSignals([table_teacher(file, outputs=outputs)]).fetch(table, np.arange(1), [[]]).logits
    torch.testing.assert_close(logits[0, 0], torch.tensor([-3.5, -0.03]))


def test_scores_made_elsewhere_teach_regression(tmp_path: Path) -> None:
    file = write(tmp_path / "scores.csv", [{"text": text, "score": i / 2} for i, text in enumerate(TEXTS)])
    source = LiveSignals([table_teacher(file, SCORES, "scores")])
    assert source.fetch(Table.from_texts(TEXTS), np.arange(3), [[]]).logits.flatten().tolist() == [0.0, 0.5, 1.0]


def test_rows_that_the_table_lacks_are_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    teacher = table_teacher(write(tmp_path / "llm.csv", ROWS))
    table = Table.from_texts([*TEXTS, "unknown text", "another"])
    with pytest.raises(TeacherError, match=r"no outputs for 2 of 5 rows, the first is '(unknown text|another)'"):
        prepare_signals([teacher], table, SignalStore(tmp_path / "store"), [[]])


def test_bad_tables_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="teacher 'llm'.*no column 'neg'"):
        table_teacher(write(tmp_path / "a.csv", [{"text": "x", "pos": 0.5}]))
    with pytest.raises(TeacherError, match=r"values outside \[0, 1\].*set outputs: logits"):
        table_teacher(write(tmp_path / "b.csv", [{"text": "x", "neg": -1.5, "pos": 3.0}]))
    with pytest.raises(TeacherError, match="row 2 holds a value that is no finite number"):
        table_teacher(write(tmp_path / "c.csv", [*ROWS[:1], {"text": "x", "neg": "nan", "pos": 0.5}]))
    with pytest.raises(TeacherError, match="teacher 'llm'"):
        table_teacher(tmp_path / "none.csv")


# ---- functions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda texts: np.zeros((len(texts), 3)), r"returned shape \(3, 3\), expected \(3, 2\)"),
        (lambda texts: 1 / 0, "its function failed: ZeroDivisionError"),
        (lambda texts: np.full((len(texts), 2), np.nan), "gives NaN or infinity for 3 of 3 rows"),
    ],
)
def test_a_function_that_fails_is_told_with_its_name(function: Any, told: str) -> None:
    with pytest.raises(TeacherError, match=f"teacher 'llm'.*{told}"):
        LiveSignals([CallableTeacher("llm", function, TASK)]).fetch(Table.from_texts(TEXTS), np.arange(3), [[]])


def test_a_function_gets_texts_and_its_outputs_are_logits() -> None:
    teacher = CallableTeacher("length", lambda texts: [[len(text), 0] for text in texts], TASK)
    assert LiveSignals([teacher]).fetch(Table.from_texts(TEXTS), np.array([1]), [[]]).logits.tolist() == [[[9.0, 0.0]]]
    assert not teacher.can("cls.1")


# ---- paths and fingerprints ----------------------------------------------------------------------------------------


def test_a_folder_inside_an_installed_package_is_a_path() -> None:
    assert Path(resolve_path("package:transformers/models/bert")).is_dir()
    assert resolve_path("some/folder") == "some/folder"


@pytest.mark.parametrize(
    "path", ["package:no_such_package/model", "package:transformers/none", "package:transformers/../torch", "package:"]
)
def test_package_paths_that_lead_nowhere_or_outside_are_refused(path: str) -> None:
    with pytest.raises(TeacherError, match="package"):
        resolve_path(path)


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "a", TASK.labels)
    shutil.copytree(path, tmp_path / "b")
    assert checkpoint_fingerprint(path) == checkpoint_fingerprint(str(tmp_path / "b"))
    weights = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(weights)
    assert checkpoint_fingerprint(path) != checkpoint_fingerprint(str(tmp_path / "b"))
