"""Adaptive distillation of Hugging Face models: which rows, which teachers, which knowledge.

The names below are imported on first use, so `import distilect` and `distilect --help` do not load torch.

Example:
    >>> from distilect import distill
    >>> result = distill("train.csv", "dev.csv", teachers=["teacher-a", "teacher-b"],
    ...                  student="teacher-a[layers=1,3,5]", method="uniform")      # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distilect.config import RunConfig, load_config
    from distilect.errors import DistilectError
    from distilect.pipeline import RunResult, distill, run

__all__ = ["DistilectError", "RunConfig", "RunResult", "__version__", "distill", "load_config", "run"]

# OpenMP's threads spin while they wait. On a busy machine they then take the cores from the threads that they wait for: training is 7 ×
# slower beside four busy processes. A short spin is as fast on a quiet machine (benchmarks/threads.py). OpenMP reads this when torch is loaded.
if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"

_HOMES = {
    "DistilectError": "distilect.errors",
    "RunConfig": "distilect.config",
    "RunResult": "distilect.pipeline",
    "distill": "distilect.pipeline",
    "load_config": "distilect.config",
    "run": "distilect.pipeline",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
