"""Entities on a run's page: scores by type, confusion of types, entities in their sentences, and who taught which type."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilect.report import build_report, build_summary, summary_table
from distilect.report.entities import (
    by_type,
    entity_counts_text,
    entity_table,
    in_context,
    scores_by_type,
    type_confusion,
    type_table,
)
from distilect.report.files import Predictions, read_run
from distilect.report.predictions import agreement, differences, prediction_figures
from distilect.report.selection import selection_by_label
from distilect.tasks import Task, scheme_of
from tests.report.run_files import metrics, model, write_rows, write_run
from tests.report.test_page import EVIL, Page, titles

LABELS = ("O", "B-loc", "I-loc", "B-per", "I-per")
WORDS = [["Ada", "Lovelace", "saw", "London"], ["in", "New", "York", "City"], ["Paris"]]
GOLD = [["B-per", "I-per", "O", "B-loc"], ["O", "B-loc", "I-loc", "I-loc"], ["O"]]
# found; missed; with other words; not there
STUDENT = [["B-per", "I-per", "O", "O"], ["O", "B-loc", "I-loc", "O"], ["B-loc"]]
# wrong type; found; found
TEACHER = [["B-loc", "I-loc", "O", "B-loc"], ["O", "B-loc", "I-loc", "I-loc"], ["O"]]


def logits_of(tags: list[list[str]], sure: float = 5.0) -> Any:
    return sure * np.eye(len(LABELS))[[LABELS.index(tag) for row in tags for tag in row]]


def predictions(**changes: Any) -> Predictions:
    values: dict[str, Any] = {
        "split": "dev",
        "labels": LABELS,
        "gold": np.array([LABELS.index(tag) for row in GOLD for tag in row]),
        "student": logits_of(STUDENT),
        "teachers": {"t": logits_of(TEACHER)},
        "texts": pa.table({"text": [word for row in WORDS for word in row]}),
        "offsets": np.array([0, 4, 8, 9]),
    }
    return Predictions(**(values | changes))


def texts_of(table: Any) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_scores_by_type_are_those_of_the_metrics() -> None:
    found = scores_by_type(predictions(), predictions().student)
    assert found["per"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "entities": 1}
    assert found["loc"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 2}
    table = type_table(predictions())
    assert table is not None and texts_of(table) == [
        ["loc", "student", "0.000", "0.000", "0.000", "2"],
        ["loc", "t", "0.667", "1.000", "0.800", "2"],
        ["per", "student", "1.000", "1.000", "1.000", "1"],
        ["per", "t", "0.000", "0.000", "0.000", "1"],
    ]
    assert type_table(predictions(gold=np.full(9, -1))) is None
    assert type_table(predictions(offsets=None)) is None


def test_each_entity_stands_in_brackets_in_its_sentence_with_every_model_s_type() -> None:
    table = entity_table(predictions())
    assert table is not None and table.titles == ["text", "outcome", "label", "student", "teacher t"]
    assert texts_of(table) == [
        ["Ada Lovelace saw [London | loc → none]", "missed", "loc", "none", "loc"],
        ["in [New York City | loc → loc for “New York”]", "wrong words", "loc", "loc for “New York”", "loc"],
        ["[Paris | none → loc]", "not there", "none", "loc", "none"],
        ["[Ada Lovelace | per] saw London", "found", "per", "per", "loc"],
    ]
    assert [[cell.mark for cell in row[3:]] for row in table.rows] == [["bad", "good"]] * 3 + [["good", "bad"]]
    assert all("".join(text for text, _ in row[0].parts) == row[0].text for row in table.rows)
    assert [row[0].parts[1][1] for row in table.rows] == ["bad", "bad", "bad", "good"]


def test_a_wrong_type_is_said_to_be_one() -> None:
    table = entity_table(predictions(student=logits_of(TEACHER)))
    assert table is not None and texts_of(table)[0][:2] == ["[Ada Lovelace | per → loc] saw London", "wrong type"]


def test_long_sentences_are_cut_around_the_entity_and_errors_come_from_all_rows() -> None:
    rows, width = 400, 60
    gold = np.zeros((rows, width), int)
    gold[:, 30] = 1
    many = predictions(
        gold=gold.reshape(-1),
        student=np.eye(5)[np.zeros(rows * width, int)],
        teachers={},
        texts=pa.table({"text": [f"w{word}" for _ in range(rows) for word in range(width)]}),
        offsets=np.arange(0, rows * width + 1, width),
    )
    table = entity_table(many)
    assert table is not None and len(table.rows) == 150
    assert table.rows[0][0].text == " ".join(
        [*(f"w{i}" for i in range(10, 30)), "[w30 | loc → none]", *(f"w{i}" for i in range(31, 51))]
    )


def test_confusion_is_of_types_with_none() -> None:
    figure = type_confusion(predictions(), "the student", predictions().student)
    assert figure is not None and figure.title == "Types by the student"
    (trace,) = figure.data
    assert trace["x"] == ["loc", "per", "none"]
    assert trace["customdata"] == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]  # New York City counts at loc: it shares words
    shown = [figure.title for figure in prediction_figures(predictions(), "t")]
    assert shown[:2] == ["Types by the student", "Types by teacher t"]


def test_words_without_a_label_and_outputs_that_are_no_numbers_are_no_entities() -> None:
    gold, student = predictions().gold.copy(), predictions().student.copy()
    gold[8] = -1  # Paris
    student[:2] = np.nan
    changed = predictions(gold=gold, student=student)
    table = entity_table(changed)
    assert table is not None
    assert [row[1] for row in texts_of(table)] == ["missed", "missed", "wrong words"]
    figure = type_confusion(changed, "the student", student)
    assert figure is not None and np.sum(figure.data[0]["customdata"]) == 3


def test_a_line_counts_what_is_found() -> None:
    assert entity_counts_text(predictions()).startswith(
        "Of 3 entities the student finds 1; 2 of those that it predicts"
    )
    assert entity_counts_text(predictions(offsets=None)) == ""


def test_words_are_called_words_and_shown_in_context() -> None:
    assert agreement(predictions(), "t").startswith("Of 9 words both are right on")
    assert in_context(predictions(), 6) == "in New [[York]] City" and in_context(predictions(), 8) == "[[Paris]]"
    table = differences(predictions(), "t")
    assert table is not None and "[[" in table.rows[0][0].text


# ---- who taught which type -------------------------------------------------------------------------------------------


def group(name: str, rows: int, asked: float, people: float, epoch: int = 0) -> dict[str, Any]:
    return {
        "epoch": epoch, "group": name, "rows": rows, "asked": asked, "trained": 1.0,
        "teacher/people": people, "teacher/places": 1 - people, "knowledge/response": 0.5, "right/people": None,
    }  # fmt: skip


SELECTION = [
    group("all", 100, 0.7, 0.5), group("O", 60, 1.0, 0.5), group("B-per", 20, 0.5, 1.0), group("I-per", 10, 1.0, 0.4),
    group("B-loc", 10, 1.0, 0.1),
]  # fmt: skip


def test_tags_are_joined_to_types_with_weights_over_the_words_that_asked() -> None:
    found = {row["group"]: row for row in by_type(SELECTION, scheme_of(LABELS), LABELS)}
    assert set(found) == {"all", "none (O)", "per", "loc"}
    assert found["per"]["rows"] == 30 and found["per"]["asked"] == pytest.approx(20 / 30)
    assert found["per"]["teacher/people"] == pytest.approx((10 * 1.0 + 10 * 0.4) / 20)
    assert found["per"]["teacher/people"] + found["per"]["teacher/places"] == pytest.approx(1)
    assert found["all"] == SELECTION[0]
    table = selection_by_label(list(found.values()), "type", "words")
    assert table is not None and table.titles[:2] == ["type", "words"]
    assert [row[0].text for row in table.rows] == ["none (O)", "per", "loc"]


def test_tags_of_no_scheme_stay_as_they_are() -> None:
    assert by_type(SELECTION, None, LABELS) == SELECTION


# ---- the page --------------------------------------------------------------------------------------------------------


def tagged_run(folder: Path, words: list[list[str]] = WORDS, name: str = "t") -> Path:
    task = Task("news", "tokens", LABELS, ("entity_f1", "accuracy"), 1)
    scored = {"scores": {"entity_f1": 0.4, "accuracy": 0.7}}
    values = metrics(
        task=task.to_dict(),
        primary="entity_f1",
        student={**model(0.4, 40, 4.0), **scored, "validation": {"entity_f1": 0.5}},
        teachers=[{"name": name, **model(0.7, 80, 8.0), "scores": {"entity_f1": 0.6, "accuracy": 0.8}}],
    )
    write_run(folder, values)
    pq.write_table(pa.Table.from_pylist(SELECTION), folder / "selection.parquet")
    write_rows(folder, text="the [[film]] {row}")
    flat = [word for row in words for word in row]
    columns: dict[str, Any] = {
        "row": np.repeat(np.arange(len(words)), [len(row) for row in words]),
        "text": flat,
        "label": np.array([LABELS.index(tag) for row in GOLD for tag in row]),
    }
    for key, tags in (("student", STUDENT), (f"teacher/{name}", TEACHER)):
        columns[key] = pa.FixedSizeListArray.from_arrays(pa.array(logits_of(tags).astype(np.float32).reshape(-1)), 5)
    metadata = {"split": "dev", "labels": json.dumps(LABELS), "kind": "tokens"}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "predictions.parquet")
    return folder


def test_predictions_know_where_rows_begin(tmp_path: Path) -> None:
    found = read_run(tagged_run(tmp_path / "run")).predictions
    assert found is not None and found.offsets is not None
    assert found.offsets.tolist() == [0, 4, 8, 9] and found.scheme is not None


def test_the_page_of_a_run_over_words(tmp_path: Path) -> None:
    page = Page(build_report(tagged_run(tmp_path / "run")))
    for text in (
        "Type by type",
        "By type, epoch 0",
        "Word by word",
        "9 words of 3 dev rows",
        "Of 3 entities the student finds 1",
    ):
        assert text in page.text, text
    assert "[New York City | loc → loc for “New York”]" in page.text and "the [[film]] 3" in page.text
    assert "By label" not in page.text and "Row by row" not in page.text
    assert "Weight of teacher weak by word" in titles(page) and "a sample of the words in the last epoch" in page.text
    assert any(attrs.get("id") == "table-entities" for _, attrs in page.elements)
    marked = [attrs["class"] for tag, attrs in page.elements if tag == "b" and attrs.get("class")]
    assert sorted(marked) == ["bad", "bad", "bad", "good"]


def test_plain_tags_are_compared_as_labels_and_no_interval_takes_words_for_independent(tmp_path: Path) -> None:
    folder = tagged_run(tmp_path / "run")
    table = pq.read_table(folder / "predictions.parquet")
    labels = ["A", "B", "C", "D", "E"]
    metadata = {"split": "dev", "labels": json.dumps(labels), "kind": "tokens"}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "predictions.parquet")
    values = json.loads((folder / "metrics.json").read_text())
    values["task"] |= {"labels": labels, "metrics": ["accuracy"]}
    values["student"]["scores"], values["primary"] = {"accuracy": 0.7}, "accuracy"
    (folder / "metrics.json").write_text(json.dumps(values))
    page = Page(build_report(folder))
    assert "Confusion of the student" in titles(page) and "words of each label" in page.text
    assert "Type by type" not in page.text and "confidence interval" not in page.text


def test_a_word_with_a_script_stays_text(tmp_path: Path) -> None:
    evil = [[EVIL if word == "London" else word for word in row] for row in WORDS]
    path = build_report(tagged_run(tmp_path / "run", evil, name=EVIL))
    page = Page(path)
    assert not [1 for tag, _ in page.elements if tag == "img"]
    assert "onerror=alert(2)>" not in path.read_text(encoding="utf-8")
    assert html.escape("[</script><script>alert(1)") in path.read_text(encoding="utf-8")


def test_several_runs_over_words_are_set_side_by_side(tmp_path: Path) -> None:
    runs = [tagged_run(tmp_path / name) for name in ("one", "two")]
    text = Page(build_summary(runs, tmp_path / "summary.html")).text
    assert "entity_f1" in text
    table = summary_table([json.loads((run / "metrics.json").read_text()) for run in runs])
    assert any(str(column.header) == "entity_f1" for column in table.columns)
