"""The scripts that figures come from: they load with the library as it is."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_grid_on_one_gpu_brings_back_lines_and_not_what_is_being_trained(tmp_path: Path) -> None:
    """A search in progress holds checkpoints: with them the archive was too large to come back."""
    runs, out, bin_ = tmp_path / "runs" / "compare" / "full", tmp_path / "out", tmp_path / "bin"
    for name in ("results.jsonl", "config.yaml", "predictions/a.parquet", "tuned/kd.json", "tuned/kd/0/x.pt"):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text("{}")
    (runs / "cells" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "log").mkdir()
    out.mkdir()
    bin_.mkdir()
    (bin_ / "nvidia-smi").write_text("#!/bin/sh\necho a GPU\n")
    (bin_ / "nvidia-smi").chmod(0o755)
    environment = {
        **os.environ,
        "WORK": str(tmp_path / "runs"),
        "TREE": str(tmp_path),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    script = str(ROOT / "benchmarks" / "one_gpu.sh")
    done = subprocess.run(["bash", script, "collect", "1", str(out)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "a GPU" in done.stdout, done.stderr
    with tarfile.open(out / "lines.tgz") as archive:
        names = {name for name in archive.getnames() if "." in Path(name).name}
    assert names == {f"full/{n}" for n in ("results.jsonl", "config.yaml", "predictions/a.parquet", "tuned/kd.json")}
