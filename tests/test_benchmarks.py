"""The scripts that figures come from: they load with the library as it is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_those_of_its_committed_lines(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.renewed(text) == text
    changed = text.replace("| 3 |", "| 33 |", 1)  # a figure set by hand does not stay
    assert tables.renewed(changed) == text


def test_a_table_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        tables.renewed("<!-- table: price rlkd_price.json -->\n")
