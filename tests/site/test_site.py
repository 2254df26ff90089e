"""The site builds strictly: no broken link, no name that is not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'distilect[docs]'")
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_pages_tutorials_and_reference_are_there(site: Path) -> None:
    for name in ("index", "tutorial/demo", "methods/extend", "reference/library", "troubleshooting"):
        assert (site / f"{name}.html").is_file()
    assert (
        "Distil" in (site / "reference" / "library.html").read_text()
        and 'id="distilect.distill"' in (site / "reference" / "library.html").read_text()
    )


def test_what_is_made_from_the_code_is_filled_in(site: Path) -> None:
    verbs = (site / "reference" / "cli.html").read_text()
    assert "Example: distilect export" in verbs and "<!-- verbs -->" not in verbs
    methods = (site / "methods" / "index.html").read_text()
    assert "<code>rlkd-published</code>" in methods


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    import re

    for path in (site / "index.html", site / "reference" / "cli.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text())
        assert [address for address in loaded if "canonical" not in address] == []
