"""The built-in data set stands in a comparison by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distilect.config import parse_part
from distilect.demo import compare
from distilect.demo.docstrings import DocstringData
from distilect.experiments.config import CompareConfig
from distilect.experiments.trials import Plan


def config(train: str, output: Path) -> CompareConfig:
    data = {"train": train, "max_train_rows": 9}
    return parse_part(
        CompareConfig,
        {"tasks": [{"name": "t", "data": data}], "students": ["x"], "methods": ["finetune"], "output": str(output)},
    )


def test_its_name_becomes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path) -> Any:
        assert folder == tmp_path / "data"
        return DocstringData(folder / "train.csv", folder / "dev.csv", {}, ["built"])

    monkeypatch.setattr(compare, "build_docstrings", build)
    found = compare.with_builtin_data(config("builtin:docstrings", tmp_path))
    data = found.tasks[0].data
    assert (data.train, data.dev) == (str(tmp_path / "data/train.csv"), str(tmp_path / "data/dev.csv"))
    assert data.max_train_rows == 9
    elsewhere = config("builtin:docstrings", tmp_path / "elsewhere")
    monkeypatch.setattr(
        compare,
        "build_docstrings",
        lambda folder: DocstringData(folder / "train.csv", folder / "dev.csv", {}, ["built"]),
    )
    other = compare.with_builtin_data(elsewhere)
    assert Plan(other).trials[0].settings == Plan(found).trials[0].settings


def test_a_page_of_published_results_needs_no_files_and_finds_the_same_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone the data set gave other settings: published results were left out as stale."""
    monkeypatch.setattr(
        compare,
        "build_docstrings",
        lambda folder: DocstringData(folder / "train.csv", folder / "dev.csv", {}, ["built"]),
    )
    built = compare.with_builtin_data(config("builtin:docstrings", tmp_path))
    monkeypatch.setattr(compare, "build_docstrings", lambda folder: pytest.fail("was built"))
    named = compare.with_builtin_data(config("builtin:docstrings", tmp_path / "elsewhere"), build=False)
    assert Plan(named).trials[0].settings == Plan(built).trials[0].settings
    assert not (tmp_path / "elsewhere").exists()


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    plain = config("train.csv", tmp_path)
    assert compare.with_builtin_data(plain) is plain
