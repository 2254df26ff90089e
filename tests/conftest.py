"""What every test gets: no network, no bars, few threads, and the GLUE folders where they exist."""

from __future__ import annotations

import os
import sys

# Before anything imports transformers or datasets: they read it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DISTILECT_QUIET"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import memory
from hypothesis import settings

# No deadline: the first example pays for imports. In CI the examples are always the same ones.
# `make test-slow` tries more of them
EXAMPLES = int(os.environ.get("EXAMPLES", "50"))
settings.register_profile("distilect", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=EXAMPLES)
settings.load_profile("distilect")


def pytest_configure() -> None:
    """One thread per worker: two workers on two cores must not fight for them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for `glue_dir` are marked `glue`."""
    for item in items:
        if "glue_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.glue)


def pytest_collection_finish() -> None:
    """Garbage is collected when Python sees fit, not also at the beginning and end of every training: that was a tenth of the time."""
    memory.gc = SimpleNamespace(collect=lambda: 0)  # type: ignore[attr-defined]
    if "distilect.pipeline.metrics" in sys.modules:  # rounds that a run's models are timed in: 1 s a run
        sys.modules["distilect.pipeline.metrics"].SPEED_ROUNDS = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what nobody looked at; pytest alone shows skipped tests as a letter."""
    reasons = {str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())}
    if any("NO BROWSER" in reason for reason in reasons):
        terminalreporter.section("NO BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line("The pages were not looked at in a real browser: apt-get install chromium")


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """The folder with SST-2, RTE, MRPC, CoLA and STS-B in the official TSV form.

    `$DISTILECT_GLUE`, else `../shared/data/glue` beside the checkout; the test is skipped without them.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue"
    folder = Path(os.environ.get("DISTILECT_GLUE") or beside)
    if not folder.is_dir():
        pytest.skip(f"no GLUE folders at {folder}; set DISTILECT_GLUE")
    return folder


@pytest.fixture(scope="session")
def wnut17_dir() -> Path:
    """The folder with train.conll, dev.conll and test.conll of WNUT-17.

    `$DISTILECT_WNUT17`, else `../shared/data/wnut17` beside the checkout; the test is skipped without them.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "wnut17"
    folder = Path(os.environ.get("DISTILECT_WNUT17") or beside)
    if not folder.is_dir():
        pytest.skip(f"no WNUT-17 at {folder}; set DISTILECT_WNUT17")
    return folder
