"""What was decided row by row is drawn where it differs, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilect.report.curves import curves_of, knowledge_by_phase
from distilect.report.decisions import decision_figures, decision_table, hover
from distilect.report.files import read_run
from distilect.report.selection import selection_by_epoch
from tests.report.run_files import write_rows, write_run


def rows_of(folder: Path, **options: Any) -> list[dict[str, Any]]:
    write_rows(write_run(folder), **options)
    return read_run(folder).rows


def test_each_teacher_gets_its_rows_with_right_and_wrong_apart(tmp_path: Path) -> None:
    figures = decision_figures(rows_of(tmp_path))
    assert [figure.title for figure in figures] == ["Weight of teacher weak by row", "Weight of teacher strong by row"]
    right, wrong = figures[0].data
    assert (right["name"], wrong["name"]) == ("teacher right", "teacher wrong")
    assert len(right["x"]) == len(wrong["x"]) == 20  # the last epoch's, each row once
    assert right["text"][0] == "row 0 of train<br>label: no"


def test_equal_weights_on_all_rows_are_no_decision(tmp_path: Path) -> None:
    rows = [row | {"teacher/weak": 0.5, "teacher/strong": 0.5} for row in rows_of(tmp_path)]
    assert decision_figures(rows) == [] and decision_table(rows) is None
    assert decision_figures([]) == [] and decision_table([]) is None


def test_rows_that_asked_are_shown_by_uncertainty(tmp_path: Path) -> None:
    figure = decision_figures(rows_of(tmp_path, asked=0.5))[-1]
    assert figure.title == "Rows that asked the teachers, by uncertainty"
    assert figure.data[0]["y"] == [1.0] * 5 + [0.0] * 5


def test_the_table_has_a_line_per_row_of_the_last_time_it_came_by(tmp_path: Path) -> None:
    table = decision_table(rows_of(tmp_path, asked=0.5))
    assert table is not None
    assert table.titles == ["text", "label", "asked in", "uncertainty", "weak", "strong"]
    assert len(table.rows) == 40
    assert [cell.text for cell in table.rows[0]] == ["row 0 of train", "no", "100% of epochs", "0.00", "0.00", "0.50"]
    assert [cell.mark for cell in table.rows[0][4:]] == ["good", "bad"]


def test_weights_of_kinds_of_knowledge_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    rows = [row | {"knowledge/labels": row["row"] % 2 / 2} for row in rows_of(tmp_path)]
    table = decision_table(rows)
    assert table is not None and table.titles[-1] == "labels"
    assert {row[-1].mark for row in table.rows} == {""} and len({row[-1].text for row in table.rows}) == 2


def test_a_row_that_an_epoch_never_loaded_did_not_ask_in_it(tmp_path: Path) -> None:
    rows = [row for row in rows_of(tmp_path) if row["epoch"] == 0 or row["row"] != 0]
    table = decision_table(rows)
    assert table is not None
    assert table.rows[0][2].text == "50% of epochs"


def test_a_long_text_is_cut_and_broken_for_the_hover_box() -> None:
    text = hover({"text": "<i>word</i> " * 100, "text_2": "second"})
    assert len(text) < 400 and "<br>" in text
    assert "<" not in text.replace("<br>", "")


def test_weights_by_label_and_epoch_are_drawn_where_they_differ() -> None:
    def rows(no: float) -> list[dict[str, Any]]:
        return [
            {"epoch": e, "group": g, "rows": 10, "teacher/a": no if g == "no" else 0.5}
            for e in (0, 1)
            for g in ("all", "yes", "no")
        ]

    titles = [figure.title for figure in selection_by_epoch(rows(0.9))]
    assert "Weight of teacher a by label and epoch" in titles
    figure = selection_by_epoch(rows(0.9))[titles.index("Weight of teacher a by label and epoch")]
    assert figure.data[0]["z"] == [[0.5, 0.5], [0.9, 0.9]]
    assert "Weight of teacher a by label and epoch" not in [f.title for f in selection_by_epoch(rows(0.5))]


def test_knowledge_by_phase_is_drawn_where_it_changes() -> None:
    history = [
        {"step": s, "knowledge/v_labels": 0.1 if s <= 30 else 0.7, "knowledge/v_response": 0.5} for s in range(1, 91)
    ]
    figure = knowledge_by_phase(history)
    assert figure is not None
    assert [round(value, 3) for value in figure.data[0]["y"]] == [0.1, 0.7, 0.7]
    assert knowledge_by_phase([entry | {"knowledge/v_labels": 0.5} for entry in history]) is None
    assert knowledge_by_phase([]) is None


def test_values_of_one_selector_that_differ_by_orders_of_magnitude_get_their_own_axes() -> None:
    history = [{"step": s, "critic/loss": 1000.0 + s, "critic/q": 0.3, "critic/target": 0.4} for s in (1, 2, 3)]
    health = curves_of(history)["health"]
    assert sorted(len(figure.data) for figure in health) == [1, 2]


def test_weights_that_never_change_are_not_drawn_a_second_time() -> None:
    def history(last: float) -> list[dict[str, Any]]:
        return [{"step": 1, "teacher/w_a": 0.5}, {"step": 2, "teacher/w_a": last}]

    assert curves_of(history(0.5))["selection"] == []
    assert len(curves_of(history(0.6))["selection"]) == 1
