"""Pages that are made from code are up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_configuration_page_is_that_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", DOCS / "make_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for line in module.page().splitlines():
        key = line.split("|")[1].strip() if line.startswith("| `") else line
        assert key in written, f"run: python docs/make_configuration.py ({key})"
