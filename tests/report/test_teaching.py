"""Who taught which token, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilect.report import build_report
from distilect.report.teaching import read_teaching
from tests.report.run_files import write_run

EVIL = "<b onmouseover='x'>"


def line(row: int, text: str, a: float, b: float, before: str = "", asked: bool = True) -> dict[str, Any]:
    weights = {"teacher/math": a, f"teacher/{EVIL}": b}
    return {"row": row, "before": before, "text": text, "epoch": 1, "asked": asked, **weights}


LINES = [
    line(4, " 3", 0.75, 0.25, before=f"{EVIL} how many?"),
    line(4, " cats", 1.0, 0.0),
    line(4, EVIL, 0.25, 0.75),
    line(4, " *", 0.5, 0.5),
    line(4, "", 0.0, 1.0, asked=False),
    line(9, " a", 0.0, 1.0, before="go on:"),
]


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(lines), folder / "examples.parquet")


def test_a_token_has_the_colour_and_letter_of_its_heaviest_teacher(tmp_path: Path) -> None:
    write(tmp_path, LINES)
    found = read_teaching(tmp_path)
    assert found is not None and found.teachers == [("A", "math"), ("B", EVIL)]
    (prompt, tokens), (_, last) = found.examples
    assert prompt == f"{EVIL} how many?"
    assert [token.teacher for token in tokens] == [0, 0, 1, None, None]
    assert [token.begins for token in tokens] == [True, False, True, False, False]
    assert tokens[1].strength > tokens[0].strength == tokens[2].strength
    assert tokens[0].hint == f"math 0.75, {EVIL} 0.25" and tokens[4].hint == "asked no teacher"
    assert tokens[4].text == "⏎" and last[0].begins


def test_the_page_escapes_it_and_shows_it_without_scripts(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write(tmp_path / "run", LINES)
    page = build_report(tmp_path / "run").read_text(encoding="utf-8")
    section = page[page.index('<h2 id="taught"') : page.index("<h2", page.index('<h2 id="taught"') + 1)]
    assert EVIL not in section and "&lt;b onmouseover" in section and "<script" not in section
    assert "<sup>A</sup> 3</span>" in section and 'title="math 1.00' in section and section.count("<sup>B</sup>") == 3
    assert 'href="#taught"' in page


def test_nothing_is_shown_where_no_teacher_is_preferred_or_the_file_is_damaged(tmp_path: Path) -> None:
    assert read_teaching(tmp_path) is None
    write(tmp_path, [line(0, "a", 0.5, 0.5)])
    assert read_teaching(tmp_path) is None
    (tmp_path / "examples.parquet").write_bytes(b"PAR1")
    assert read_teaching(tmp_path) is None
