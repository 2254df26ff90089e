"""Parameters of tests that train once for each: some always, the others in the slow tests only."""

from __future__ import annotations

from typing import Any

import pytest

from distilect.experiments.config import ComparedMethodConfig
from distilect.experiments.methods import family
from distilect.selection import presets


def slow(*values: Any) -> list[Any]:
    """Further parameters, for the slow tests only; a tuple is a value for each of several parameters."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]


def each_preset() -> list[Any]:
    """The names of all presets; static ones and variants of another are for the slow tests, but for `kd`."""
    static = [name for name in presets() if name != "kd" and family(ComparedMethodConfig(name=name)) == "static"]
    later = [*static, "akskd-hard", "rlkd-published"]
    return [*(name for name in presets() if name not in later), *slow(*later)]
