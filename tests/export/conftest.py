"""One exported run for all files that a worker runs: the exporter takes ten seconds of a processor, minutes on a busy machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilect.export import export_run, ship
from tests.export.runs import fake_exporter, finished_run


@pytest.fixture(scope="session", autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ship, "ROUNDS", {1: 3, 4: 2})
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, exported to fp32 and int8; not to be changed."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    folder = finished_run(tmp_path_factory.mktemp("exported"))
    export_run(folder, int8=True, license="mit")
    return folder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.fixture
def quick_exporter(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes files of students like `exported` in no time."""
    fake_exporter(exported, monkeypatch)
