"""A file that loses more than it may is not kept, whatever hides the loss; what was tried is said and written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from distilect.cli import app
from distilect.config import load_config
from distilect.data import Table, encode, load_data
from distilect.errors import ExportError
from distilect.export import export_run, ship
from distilect.export.gate import Gate
from distilect.export.onnx import OnnxModel
from distilect.export.rows import Rows
from distilect.tasks import NO_LABEL, Task
from tests.export.runs import finished_run, harm, one_answer, outlying_activations, outlying_weights
from tests.pipeline.helpers import write_table
from tests.tiny import wordpiece_tokenizer

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

pytestmark = pytest.mark.timeout(900)  # the exporter takes ten seconds of a processor: minutes on a busy machine


def gate_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "export.json").read_text())["gate"]
    return found


# ---- whole exports ---------------------------------------------------------------------------------------------------


def test_the_fastest_scheme_is_kept_where_it_loses_nothing(exported: Path) -> None:
    gate = gate_of(exported)
    assert (gate["rows"], gate["metric"], gate["max_drop"], gate["refusals"]) == (40, "accuracy", 0.3, [])
    assert [(tried["scheme"], tried["verdict"]) for tried in gate["tried"]] == [("int8", "kept")]
    assert gate["tried"][0]["bytes"] == (exported / "student/onnx/model_int8.onnx").stat().st_size


@pytest.mark.usefixtures("quick_exporter")
def test_the_products_that_lose_are_calculated_in_fp32_and_the_scheme_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four of fourteen products can't be calculated in 8 bits: a quarter is enough if the ranking finds them."""
    run = finished_run(tmp_path)
    harm(run / "student", outlying_activations)
    done = export_run(run, int8=True)
    quarter = "int8, a quarter of the products in fp32"
    tried = gate_of(run)["tried"]
    assert [(each["scheme"], each["verdict"]) for each in tried] == [("int8", "loses too much"), (quarter, "kept")]
    assert tried[0]["drop"] > 10 and tried[1]["drop"] <= 2.5
    said = " ".join(capsys.readouterr().err.split())
    assert f"{quarter}: " in said and "loses too much" in said and "40 rows: the student has accuracy" in said
    assert any(line.startswith(f"student/onnx/model_int8.onnx: {quarter}, ") for line in done.lines)
    assert quarter in (run / "student/README.md").read_text() and quarter in (run / "report.html").read_text()


@pytest.mark.usefixtures("quick_exporter")
def test_a_student_that_no_scheme_keeps_is_refused_and_only_the_fp32_file_is_left(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    harm(run / "student", outlying_weights)
    old = run / "student/onnx/model_int8.onnx"
    old.parent.mkdir()
    old.write_bytes(b"of an earlier export")
    result = CliRunner().invoke(app, ["export", str(run), "--int8"], prog_name="distilect")
    assert result.exit_code == 1
    assert (
        "no 8-bit ONNX file is kept: none stays within 2.50 points of accuracy on 40 validation rows" in result.output
    )
    assert [path.name for path in sorted(old.parent.glob("model*"))] == ["model.onnx"]
    found = json.loads((run / "export.json").read_text())
    assert [file["file"] for file in found["files"]] == ["student/onnx/model.onnx"]
    assert [each["verdict"] for each in found["gate"]["tried"]] == ["loses too much"] * 4
    assert "not kept" in (run / "report.html").read_text()


@pytest.mark.usefixtures("quick_exporter")
def test_a_student_that_gives_one_answer_is_refused_though_it_would_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path)
    harm(run / "student", one_answer)
    monkeypatch.setattr(ship, "push", lambda *_, **__: pytest.fail("pushed"))
    with pytest.raises(ExportError, match="say no more about 40 validation rows than chance .* train a better student"):
        export_run(run, int8=True, repository="me/small")
    assert (run / "student/onnx/model.onnx").is_file() and not (run / "student/onnx/model_int8.onnx").exists()


@pytest.mark.usefixtures("quick_exporter")
def test_dev_has_no_say(run: Path, tmp_path: Path) -> None:
    """The same schemes are kept where every label of dev is wrong."""
    dev = write_table(tmp_path / "wrong.csv", 30, seed=1, labels=("yes", "no"))
    before = gate_of(run)
    export_run(run, int8=True, dev=str(dev))
    assert gate_of(run) == before
    assert json.loads((run / "export.json").read_text())["files"][1]["scores"]["accuracy"] < 0.2


def test_a_table_that_has_changed_is_refused(run: Path, tmp_path: Path) -> None:
    """Its split is another one: rows that the student has learned would judge it."""
    config = load_config(run / "config.yaml")
    grown = config.model_copy(
        update={"data": config.data.model_copy(update={"train": str(write_table(tmp_path / "t.csv", 90))})}
    )
    with pytest.raises(ExportError, match="gives 50 and 40 rows of train and validation, in the run it gave 40 and 40"):
        ship.run_data(grown, run / "student", json.loads((run / "metrics.json").read_text()))


def test_a_table_that_has_moved_is_an_error_with_a_remedy_that_works(run: Path) -> None:
    config = load_config(run / "config.yaml")
    moved = config.model_copy(update={"data": config.data.model_copy(update={"train": "nowhere.csv"})})
    with pytest.raises(
        ExportError, match="judged on the run's validation rows: .*nowhere.csv.*; .*export with --onnx alone"
    ):
        ship.run_data(moved, run / "student", {})


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(run: Path, value: float) -> None:
    with pytest.raises(ExportError, match=r"--max-drop .*: expected points of the primary metric, 0 or more"):
        export_run(run, int8=True, max_drop=value)


# ---- the rule --------------------------------------------------------------------------------------------------------


def rows_of(count: int, metrics: tuple[str, ...] = ("accuracy",), wrong: int = 0) -> Rows:
    """Rows of two classes in turn, and a student that is wrong on the first ones."""
    labels = np.arange(count) % 2
    logits = np.eye(2, dtype=np.float32)[labels] * 4
    logits[:wrong] = logits[:wrong, ::-1]
    table = Table.from_texts([f"row {i}" for i in range(count)], labels)
    encoded = encode(table, wordpiece_tokenizer(), 16)
    return Rows(Task("toy", "classification", ("no", "yes"), metrics, 1), table, encoded, logits, [0, 1], None, labels)


def spoilt(rows: Rows, wrong: int) -> NDArray[np.float32]:
    """The student's outputs, with the last rows turned round."""
    logits = rows.reference.copy()
    logits[-wrong:] = logits[-wrong:, ::-1]
    return logits


def test_a_drop_up_to_the_limit_is_kept_and_one_row_more_is_not() -> None:
    rows = rows_of(1000, wrong=100)
    gate = Gate(rows, 0.3)
    assert gate.keeps("three rows", 1, spoilt(rows, 3))
    assert not gate.keeps("four rows", 1, spoilt(rows, 4))
    assert [each["drop"] for each in gate.tried] == [0.3, 0.4] and gate.tried[1]["changed_labels"] == 4


def test_with_few_rows_the_limit_is_one_row_and_the_user_is_told() -> None:
    rows = rows_of(40)
    gate = Gate(rows, 0.3)
    assert gate.limit == 2.5
    assert "40 rows" in gate.rule() and "2.50 points (one row; 0.3 points would be less than that)" in gate.rule()
    assert gate.keeps("one row", 1, spoilt(rows, 1)) and not gate.keeps("two rows", 1, spoilt(rows, 2))


def test_a_limit_of_0_allows_nothing() -> None:
    rows = rows_of(40)
    assert not Gate(rows, 0).keeps("one row", 1, spoilt(rows, 1))


def test_the_limit_is_of_the_primary_metric() -> None:
    """F1 of a rare class falls from 0.83 to 0.67 as two of a thousand predictions change: accuracy would not see it."""
    labels = np.zeros(1000, dtype=np.int64)
    labels[:6] = 1
    logits = np.tile(np.array([[4, 0]], np.float32), (1000, 1))
    logits[[0, 1, 2, 3, 4]] = [0, 4]
    logits[6] = [0, 4]
    before = replace(rows_of(1000, ("f1",)), labels=labels, reference=logits)
    worse = logits.copy()
    worse[4], worse[7] = [4, 0], [0, 4]
    gate = Gate(before, 2.0)
    assert round(gate.before) == 83
    assert not gate.keeps("int8", 1, worse)
    assert round(gate.tried[0]["score"]) == 67 and gate.tried[0]["changed_labels"] == 2
    of_accuracy = replace(before, task=replace(before.task, metrics=("accuracy",)))
    assert Gate(of_accuracy, 2.0).keeps("int8", 1, worse)


def test_a_file_with_one_answer_is_not_kept_however_little_it_loses() -> None:
    """9 rows of 10 are of one class: a file that knows that alone loses 5 points."""
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    right = np.eye(2, dtype=np.float32)[labels]
    right[10::20] = [1, 0]  # half of the rare class is missed
    rows = replace(rows_of(200), labels=labels, reference=right)
    gate = Gate(rows, 6.0)
    assert gate.open
    assert not gate.keeps("constant", 1, np.tile(np.array([[1, 0]], np.float32), (200, 1)))
    assert gate.tried[0]["drop"] == 5 and gate.tried[0]["verdict"] == "at chance"


def test_outputs_that_are_no_numbers_are_not_kept() -> None:
    rows = rows_of(40)
    gate = Gate(rows, 0.3)
    assert not gate.keeps("broken", 1, np.full_like(rows.reference, np.nan))
    assert "not kept, outputs that are no numbers" in gate.tried[0]["text"]
    json.dumps(gate.to_dict(), allow_nan=False)


def test_without_labels_the_score_is_agreement_with_the_student(exported: Path) -> None:
    config = load_config(exported / "config.yaml")
    table = load_data(config.data, config.task, config.seed).validation
    unlabelled = replace(table, labels=np.full(len(table), NO_LABEL))
    task = Task.from_dict(json.loads((exported / "metrics.json").read_text())["task"])
    rows = Rows.of(ship._load("student", exported / "student", task, config), task, unlabelled, own_labels=True)
    gate = Gate(rows, 0.3)
    assert gate.before == 100 and "in agreement with itself" in gate.rule()
    assert gate.keeps("int8", 1, OnnxModel(exported / "student/onnx/model_int8.onnx").predict(rows.encoded))


def test_a_regression_is_judged_by_its_correlation() -> None:
    scores = np.linspace(0, 5, 400).astype(np.float32)
    task = Task("toy", "regression", (), ("pearson",), 1)
    rows = replace(rows_of(400), task=task, labels=scores, reference=scores[:, None], order=[0])
    gate = Gate(rows, 0.3)
    noise = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    assert gate.keeps("close", 1, rows.reference + 0.05 * noise)
    assert not gate.keeps("far", 1, rows.reference + 0.5 * noise)
    assert not gate.keeps("constant", 1, np.ones_like(rows.reference))
    assert gate.tried[0]["changed_labels"] is None
