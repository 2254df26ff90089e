from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from distilect.report import best_teacher, model_rows, summary_table, words
from tests.report.run_files import metrics


def shown(*runs: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(list(runs)))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_teachers_come_first_and_ratios_are_against_the_best() -> None:
    lines = [line.split() for line in shown(metrics()).splitlines() if line.strip()]
    assert [line[0] for line in lines[2:6]] == ["weak", "strong", "table", "rlkd"]
    assert lines[3][1] == "*"
    assert lines[5] == ["rlkd", "0.720", "10.0", "M", "40.0", "4.00", "500", "2.50×", "2.50×"]
    assert lines[4][1:] == ["0.600", *["–"] * 6]


def test_nothing_is_cut_on_a_terminal_of_80_columns() -> None:
    assert "…" not in shown(metrics())


def test_markup_in_a_name_stays_text() -> None:
    assert "[red]x[/red]" in shown(metrics(method="[red]x[/red]"))


def test_runs_with_the_same_teachers_list_them_once() -> None:
    text = shown(metrics(), metrics(method="kd"))
    assert text.count("weak") == 1
    assert "rlkd" in text and "kd" in text


def test_students_are_compared_with_the_teacher_as_their_own_run_measured_it() -> None:
    """Else a run on a busy machine would seem slower by as much as the machine was busy."""
    slow = metrics(method="slow")
    for raw in [slow["student"], *slow["teachers"]]:
        raw["latency_ms"] = {key: 3 * value for key, value in raw.get("latency_ms", {}).items()}
    row = next(line for line in shown(metrics(), slow).splitlines() if "slow" in line and "0.720" in line)
    assert row.split()[-1] == "2.50×"


def test_no_runs_make_an_empty_table() -> None:
    assert summary_table([]).row_count == 0


def test_without_teachers_there_is_no_best() -> None:
    assert best_teacher(model_rows(metrics(teachers=[]))) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.count(22_713_216), "22.7 M"),
        (words.count(512), "512"),
        (words.megabytes(91_100_000), "91.1"),
        (words.duration(3.21), "3.2 s"),
        (words.duration(59.7), "1 min 00 s"),
        (words.duration(7500), "2 h 05 min"),
        (words.digits(0.0213), "0.021"),
        (words.times(None), "–"),
        (words.comparison(0.5, "smaller", "larger"), "2.00× larger"),
        (words.comparison(None, "smaller", "larger"), ""),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected
