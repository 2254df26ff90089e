"""The scripts that figures come from: they load with the library as it is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
