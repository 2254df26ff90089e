"""What every benchmark shares: how a result file says how it was made."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distilect.pipeline import versions
from distilect.pipeline.metrics import machine

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, values: dict[str, Any]) -> Path:
    """`benchmarks/results/NAME.json` with command, machine and versions beside the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**values, "made": made()}, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    print(json.dumps(values, indent=2))
    return path


def made() -> dict[str, Any]:
    """How a figure came about: command, date, machine, versions."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine(), "processor": _processor()},
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
