"""A student that tags words: its files, the gate over entities, the script that needs no torch, and its card."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, metadata_load
from tokenizers import Tokenizer

from distilect.config import load_config
from distilect.evaluation import predict
from distilect.export import export_run, write_model_card
from distilect.export.gate import Gate
from distilect.export.onnx import OnnxModel, outputs
from distilect.export.openvino import OpenVinoModel, convert
from distilect.export.plain import SCRIPT, model_inputs, write_plain
from distilect.export.rows import Rows
from distilect.models import CheckpointTeacher
from distilect.models.words import split_words
from distilect.pipeline.prediction import predict_file
from distilect.report import build_report
from distilect.tasks import NO_LABEL, Task
from tests.export.runs import WITHOUT_US
from tests.pipeline.test_prediction import rows_of
from tests.report.run_files import metrics
from tests.tagging import TASK, finished_tagger, sentences, table_of
from tests.tiny import tiny_bert, tiny_roberta

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

pytestmark = pytest.mark.timeout(900)

TEXTS = [
    "the piano, (long letter) in the north!",
    "",
    "sea view",
    "the train was late and she plays the piano again " * 8,  # more than 32 tokens
    "Füße, 日本語 and 😀 in the north",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, exported to fp32 and int8; not to be changed."""
    folder = finished_tagger(tmp_path_factory.mktemp("words"))
    export_run(folder, int8=True)
    return folder


@pytest.fixture(scope="module")
def student(run: Path) -> CheckpointTeacher:
    return CheckpointTeacher("student", str(run / "student"), TASK, max_length=32, precision="fp32")


def long_table() -> Any:
    """Rows of one word and rows that are read in windows."""
    rows = sentences(12, seed=4)
    joined = ([w for words, _ in rows for w in words], [t for _, tags in rows for t in tags])
    return table_of([*rows, joined, (["piano"], ["B-thing"])])


def test_words_have_pytorch_s_outputs_whatever_the_batch_and_in_windows(run: Path, student: CheckpointTeacher) -> None:
    encoded = student.encode(long_table())
    assert encoded.truncated == 1
    found = OnnxModel(run / "student/onnx/model.onnx").predict(encoded)
    assert found.shape == (long_table().num_units, 5)
    assert np.abs(found - predict(student.model, encoded, precision="fp32")).max() < 1e-4
    one = [
        OnnxModel(run / "student/onnx/model.onnx")(split_words(encoded.collate([row]))[0]).shape[:2] for row in (0, 12)
    ]
    assert one[0][0] == 1 and one[1][0] > 1


def test_openvino_reads_words_too(run: Path, student: CheckpointTeacher, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    file = OpenVinoModel(convert(run / "student/onnx/model.onnx", tmp_path / "model.xml"))
    encoded = student.encode(long_table())
    assert np.abs(outputs(file, encoded) - predict(student.model, encoded, precision="fp32")).max() < 0.05


def test_what_is_written_down_counts_words_and_entities(run: Path) -> None:
    found = json.loads((run / "export.json").read_text())
    assert [file["file"] for file in found["files"]] == ["student/onnx/model.onnx", "student/onnx/model_int8.onnx"]
    assert found["files"][0]["scores"]["entity_f1"] == pytest.approx(
        json.loads((run / "metrics.json").read_text())["student"]["scores"]["entity_f1"]
    )
    gate = found["gate"]
    assert gate["metric"] == "entity_f1" and gate["counted"] == "entities" and 5 < gate["rows"] < 60
    assert f"validation split, {gate['rows']} entities:" in gate["text"] and "(one entity; 0.3 points" in gate["text"]
    assert {line["model"] for line in found["speed"]} >= {"student", "teacher a", "ONNX", "ONNX int8"}
    page = build_report(run).read_text(encoding="utf-8")
    assert "ONNX int8" in page


def rows_for(student: CheckpointTeacher, task: Task = TASK, **changes: Any) -> Rows:
    return replace(Rows.of(student, task, table_of(sentences(24, seed=1))), **changes)


def test_the_gate_refuses_a_file_that_loses_entities_and_keeps_one_that_loses_a_single_one(
    student: CheckpointTeacher,
) -> None:
    rows = rows_for(student)
    gate = Gate(rows, 0.3)
    assert gate.open and gate.limit == pytest.approx(100 / gate.count) and gate.limit > 0.3
    found = rows.scores(rows.reference)["entity_f1"]
    worse = rows.reference.copy()
    begin = np.flatnonzero((rows.labels == 3) & (rows.reference.argmax(axis=1) == 3))
    worse[begin[:1]] = np.eye(5)[0] * 9  # one entity less
    assert rows.scores(worse)["entity_f1"] < found and gate.keeps("one", 1, worse)
    worse[begin] = np.eye(5)[0] * 9
    assert not gate.keeps("all things", 1, worse)
    assert gate.tried[-1]["changed_labels"] == len(begin)


def test_entities_words_and_types_are_what_the_metric_counts(student: CheckpointTeacher) -> None:
    labels = table_of(sentences(24, seed=1)).labels
    begins = np.isin(labels, (1, 3)).sum()
    assert rows_for(student).graded == (begins, "entities")
    of_type = replace(TASK, metrics=("entity_f1(place)",))
    assert rows_for(student, of_type).graded == ((labels == 1).sum(), "entities")
    assert rows_for(student, replace(TASK, metrics=("accuracy",))).graded == (len(labels), "words")
    partly = np.where(np.arange(len(labels)) < 10, NO_LABEL, labels)
    assert rows_for(student, labels=partly).graded[0] <= begins


# ---- the script ------------------------------------------------------------------------------------------------------

ALONE = (
    WITHOUT_US
    + """
import json
import entities
print(json.dumps(entities.entities(json.loads(sys.stdin.read()))))
"""
)


def test_the_script_answers_as_predict_does_without_torch_transformers_and_distilect(run: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(run / "student/onnx", tmp_path / "serving"))
    (here / "model_int8.onnx").unlink()
    texts = [text or "\u200b" for text in TEXTS]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict_file(run / "student", tmp_path / "t.jsonl", tmp_path / "out.jsonl", precision="fp32")
    done = subprocess.run(
        [sys.executable, "-c", ALONE], input=json.dumps(texts), capture_output=True, text=True, cwd=here
    )
    assert done.returncode == 0, done.stderr
    for found, row in zip(json.loads(done.stdout), rows_of(tmp_path / "out.jsonl"), strict=True):
        wanted = row["entities"]
        assert [{**one, "probability": 0} for one in found] == [{**one, "probability": 0} for one in wanted]
        assert [one["probability"] for one in found] == pytest.approx([one["probability"] for one in wanted], abs=1e-4)
    assert len(json.loads(done.stdout)[3]) >= 8


def test_the_script_prints_a_line_for_each_text(run: Path) -> None:
    command = [sys.executable, str(run / "student/onnx/entities.py"), TEXTS[0], TEXTS[2]]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [one["text"] for one in json.loads(lines[1])] == ["sea view"]
    assert {one["text"] for one in json.loads(lines[0])} >= {"piano", "long letter"}


def script_of(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("entities_of_a_test", folder / "entities.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "tags",
    [
        "O B-a I-a O",
        "I-a I-a I-b B-b",
        "B-a B-a I-a O I-a",
        "B-a E-a E-a S-a I-a",
        "U-a L-a B-b I-b L-b",
        "B I O B",
        "E-a S-b I-b",
    ],
)
def test_the_script_reads_every_scheme_as_scores_do(run: Path, tags: str) -> None:
    from distilect.tasks import scheme_of, spans

    names = tags.split()
    labels = sorted({"O", "B", *names} if "B" in names else {"O", *names})
    scheme = scheme_of(labels)
    assert scheme is not None
    found = spans(np.array([labels.index(tag) for tag in names]), np.array([0, len(names)]), scheme)
    wanted = [(s, e, scheme.types[k]) for s, e, k in zip(found.starts, found.ends, found.types, strict=True)]
    tagged = [(place, place + 1, tag, 1.0) for place, tag in enumerate(names)]
    ours = script_of(run / "student/onnx")._spans("x" * len(names), tagged)
    assert [(one["start"], one["end"], one["type"]) for one in ours] == wanted


@pytest.mark.parametrize("family", [tiny_bert, tiny_roberta])
def test_the_plain_tokenizer_makes_the_student_s_windows(family: Callable[..., str], tmp_path: Path) -> None:
    path = family(tmp_path / "student", list(TASK.labels), 0, words=True)
    tagger = CheckpointTeacher("student", path, TASK, max_length=12)
    table = long_table()
    encoded = tagger.encode(table)
    assert write_plain(tagger, TASK, table, encoded, tmp_path) is None
    found = model_inputs(
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")), table.text(range(len(table))), windows=True
    )
    for name, values in split_words(encoded.collate(range(len(table))))[0].items():
        assert np.array_equal(found[name], values.numpy()), name
    assert (tmp_path / "entities.py").read_bytes() == SCRIPT.read_bytes()


def test_tags_that_spell_no_entities_have_no_script(tmp_path: Path) -> None:
    task = Task("pos", "tokens", ("NOUN", "VERB"), ("accuracy",), 1)
    tagger = CheckpointTeacher("student", tiny_bert(tmp_path / "s", ["NOUN", "VERB"], words=True), task, max_length=12)
    table = table_of([(["a", "film"], ["O", "O"])])
    assert write_plain(tagger, task, table, tagger.encode(table), tmp_path) is None
    assert not (tmp_path / "entities.py").exists()


# ---- the card --------------------------------------------------------------------------------------------------------


def test_the_card_is_of_token_classification_with_scores_by_type(run: Path) -> None:
    path = run / "student/README.md"
    data, text = metadata_load(path), path.read_text(encoding="utf-8")
    assert data is not None and data["pipeline_tag"] == "token-classification"
    results = ModelCard.load(path).data.eval_results
    assert {result.task_type for result in results} == {"token-classification"}
    assert {result.metric_type for result in results} == {"f1", "precision", "recall", "accuracy"}
    assert "named entity recognition (names) with 2 types: place, thing" in text
    assert "| type | precision | recall | F1 | entities |" in text and "| place | " in text
    assert "python onnx/entities.py" in text and "stride=8" in text


def test_the_code_of_the_card_runs(run: Path) -> None:
    code = (run / "student/README.md").read_text(encoding="utf-8").split("```python\n")
    for block in (code[1], code[2]):
        block = (
            block.split("```")[0]
            .replace("path/to/this/folder", str(run / "student"))
            .replace("A text.", "the sea view")
        )
        scope: dict[str, Any] = {}
        exec(block, scope)
    assert scope["logits"].ndim == 3
    scope = {}
    exec(code[1].split("```")[0].replace("path/to/this/folder", str(run / "student")), scope)
    assert [one["word"] for one in scope["model"]("the sea view")] == ["sea view"]


@pytest.mark.parametrize(
    ("labels", "said", "joined"),
    [
        (["O", "B-a", "I-a", "E-a", "S-a"], "The tags are BIOES", False),
        (["O", "B-a", "I-a"], "The tags are BIO:", True),
        (["NOUN", "VERB"], "tagging words (pos) with 2 tags: NOUN, VERB", False),
    ],
)
def test_a_pipeline_joins_only_what_it_can_join(tmp_path: Path, labels: list[str], said: str, joined: bool) -> None:
    task = {"name": "pos", "kind": "tokens", "labels": labels, "metrics": ["accuracy"], "num_texts": 1}
    (tmp_path / "student").mkdir()
    text = write_model_card(tmp_path / "student", metrics(task=task)).read_text(encoding="utf-8")
    assert said in text and ("aggregation_strategy" in text) == joined and "| type |" not in text


def test_the_config_of_the_run_is_read_as_it_was(run: Path) -> None:
    assert load_config(run / "config.yaml").data.validation_size == 20
