"""docs/pitfalls.md tells the truth about tests and requirements."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_pitfall_has_its_row() -> None:
    assert re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE) == [str(n) for n in range(1, 53)]


def test_what_users_install_holds_no_dev_tool_no_pin_and_no_torchvision() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    names = re.findall(r'"([^"]+)"', block.group(1))
    assert names
    for name in names:
        assert not re.match(r"torchvision|pytest|ruff|mypy|hypothesis|import-linter", name), name
        assert "==" not in name and "<" not in name, name
