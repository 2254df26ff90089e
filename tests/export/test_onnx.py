"""ONNX files give the student's logits, at every batch size and length, and the run's folder has their times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from distilect.cli import app
from distilect.errors import ExportError, RunError
from distilect.export import export_run, ship
from distilect.export.onnx import OnnxModel
from distilect.export.speed import speed_table
from tests.export.runs import finished_run
from tests.tiny import FAMILIES

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

pytestmark = pytest.mark.timeout(900)  # the exporter takes ten seconds of a processor: minutes on a busy machine


def same_as_pytorch(student: Path, tolerance: float = 1e-4) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    tokenizer = AutoTokenizer.from_pretrained(student)
    file = OnnxModel(student / "onnx" / "model.onnx")
    words = ["good", "food", "and", "a", "view", "of", "the", "sea"]
    for rows, length in ((1, 1), (1, 30), (7, 3), (3, 17)):
        texts = [" ".join((words * 8)[i : i + length - i % 2 * (length // 2)]) for i in range(rows)]
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            wanted = model(**inputs).logits.numpy()
        assert np.abs(file(inputs) - wanted).max() < tolerance


def test_logits_are_pytorch_s_at_other_batch_sizes_and_lengths_than_the_example(run: Path) -> None:
    same_as_pytorch(run / "student")


def test_what_was_checked_is_kept_with_scores_of_each_file(run: Path) -> None:
    found = json.loads((run / "export.json").read_text())
    fp32, int8 = found["files"]
    assert (fp32["file"], int8["file"]) == ("student/onnx/model.onnx", "student/onnx/model_int8.onnx")
    assert (fp32["scheme"], int8["scheme"]) == ("", "int8")
    assert found["rows"] == 30
    assert fp32["max_difference"] < 1e-4 and fp32["changed_labels"] == 0
    assert int8["max_difference"] > fp32["max_difference"]
    assert set(int8["scores"]) == {"accuracy", "f1(yes)"}
    logits = OnnxModel(run / "student/onnx/model_int8.onnx")
    assert fp32["bytes"] == (run / fp32["file"]).stat().st_size and logits.names == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]


def test_speed_is_measured_for_every_model_batch_and_number_of_threads(run: Path) -> None:
    lines = json.loads((run / "export.json").read_text())["speed"]
    models = ["teacher a", "student", "student bf16", "ONNX", "ONNX int8"]
    threads = sorted({line["threads"] for line in lines})
    assert [(line["threads"], line["batch"], line["model"]) for line in lines] == [
        (count, batch, name) for count in threads for batch in (1, 4) for name in models
    ]
    assert all(0 < line["p50_ms"] <= line["p95_ms"] for line in lines)
    assert all(line["faster"] == 1 for line in lines if line["model"] == "student")
    assert all(
        line["rows_per_second"] == pytest.approx(1000 * line["batch"] / line["p50_ms"], rel=0.01) for line in lines
    )


def test_card_and_page_list_the_files(run: Path) -> None:
    card = (run / "student" / "README.md").read_text()
    assert "license: mit" in card and "`onnx/model_int8.onnx`:" in card
    page = (run / "report.html").read_text()
    assert 'id="export"' in page and "ONNX int8" in page


def test_the_code_of_the_card_runs(run: Path) -> None:
    blocks = (run / "student" / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        code = block.split("```")[0].replace("path/to/this/folder", str(run / "student"))
        space: dict[str, Any] = {}
        exec(compile(code, "card", "exec"), space)
    assert space["logits"].shape == (1, 2)


def test_a_later_export_without_onnx_keeps_what_was_measured_and_given(run: Path) -> None:
    before = json.loads((run / "export.json").read_text())
    export_run(run, language="en")
    after = json.loads((run / "export.json").read_text())
    assert after == before | {"card": {"license": "mit", "base_model": None, "language": "en"}}
    assert "`onnx/model.onnx`:" in (run / "student" / "README.md").read_text()


@pytest.mark.usefixtures("quick_exporter")
def test_a_file_with_other_logits_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path)
    real = ship.export_onnx

    def other(model: Any, example: Any, target: Path) -> Path:
        wrong = AutoModelForSequenceClassification.from_pretrained(run / "student")
        with torch.no_grad():
            wrong.classifier.bias += 1.0
        return real(wrong, example, target)

    monkeypatch.setattr(ship, "export_onnx", other)
    with pytest.raises(ExportError, match="its logits differ from the student's by up to 1"):
        export_run(run, onnx=True)
    assert not list((run / "student").glob("onnx/model*"))


def test_missing_packages_are_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path)
    find = ship.check_packages.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'distilect\[onnx\]'"):
        export_run(run, onnx=True)
    assert not (run / "export.json").exists()


def test_dev_rows_that_moved_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    (tmp_path / "dev.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(ExportError, match="give --dev FILE"):
        export_run(run, onnx=True)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics\.json"):
        export_run(tmp_path)


def test_models_take_turns_and_the_number_of_threads_is_given_back() -> None:
    from distilect.data import Table, encode
    from tests.tiny import wordpiece_tokenizer

    encoded = encode(Table.from_texts(["a view of the sea", "good food"] * 8), wordpiece_tokenizer(), 16)
    calls: list[tuple[str, int]] = []

    def model(name: str) -> Any:
        return lambda threads: lambda inputs: calls.append((name, torch.get_num_threads())), encoded

    before = torch.get_num_threads()
    lines = speed_table({"a": model("a"), "b": model("b")}, reference="a", threads=(1, 2), rounds={1: 4})
    assert torch.get_num_threads() == before
    assert [line["model"] for line in lines] == ["a", "b", "a", "b"]
    assert {threads for _, threads in calls[:12]} == {1} and {threads for _, threads in calls[12:]} == {2}
    firsts = [calls[i][0] for i in range(0, 12, 2)]
    assert firsts == ["a", "b"] * 3


def test_the_verb_prints_times_and_what_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {
        "model": "ONNX",
        "threads": 1,
        "batch": 32,
        "p50_ms": 12.5,
        "p95_ms": 13.0,
        "rows_per_second": 2560.0,
        "faster": 2.75,
    }
    asked: dict[str, Any] = {}

    def fake(folder: Path, **options: Any) -> Any:
        asked.update(options, folder=folder)
        return ship.Exported(["student/onnx/model.onnx: 70.3 MB"], [line], "https://hub/me/small")

    monkeypatch.setattr("distilect.export.export_run", fake)
    result = CliRunner().invoke(
        app,
        ["export", str(tmp_path), "--onnx", "--int8", "--max-drop", "0.5", "--push", "me/small", "--license", "mit"],
    )
    assert result.exit_code == 0, result.output
    assert (
        "2,560" in result.output
        and "2.75" in result.output
        and "70.3 MB" in result.output
        and "pushed: https://hub/me/small" in result.output
    )
    assert (asked["onnx"], asked["int8"], asked["openvino"], asked["max_drop"]) == (True, True, False, 0.5)
    assert (asked["repository"], asked["license"]) == ("me/small", "mit")


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("bert", "xlnet")])
def test_every_family_exports(family: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path, FAMILIES[family])
    export_run(run, int8=True)
    same_as_pytorch(run / "student")
    names = AutoTokenizer.from_pretrained(run / "student").model_input_names
    assert set(OnnxModel(run / "student" / "onnx" / "model_int8.onnx").names) == set(names)  # token types or none
    assert (run / "student" / "onnx" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_one_dev_row_makes_neither_batch_nor_length_a_constant(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    (tmp_path / "one.csv").write_text("text,label\ngood food,yes\n")
    export_run(run, onnx=True, dev=str(tmp_path / "one.csv"))
    same_as_pytorch(run / "student")


@pytest.mark.slow
def test_a_family_that_the_exporter_cannot_do_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """XLNet with torch 2.13; a later one may know it."""
    run = finished_run(tmp_path, FAMILIES["xlnet"])
    try:
        export_run(run, onnx=True)
    except ExportError as error:
        assert "cannot export xlnet to ONNX" in str(error) and len(str(error)) < 500
        assert not list((run / "student").rglob("*.onnx")) and not (run / "export.json").exists()
    else:
        same_as_pytorch(run / "student")


@pytest.mark.slow
def test_a_regression_student_exports(tmp_path: Path) -> None:
    run = finished_run(tmp_path, regression=True)
    done = export_run(run, int8=True)
    assert "pearson" in done.lines[0] and "label" not in done.lines[0]
    assert json.loads((run / "export.json").read_text())["gate"]["tried"][-1]["changed_labels"] is None
    same_as_pytorch(run / "student")
