"""The presets as parameters of tests that train each: those that learn or look at the student always, the others in the slow tests."""

from __future__ import annotations

from typing import Any

import pytest

from distilect.experiments.config import ComparedMethodConfig
from distilect.experiments.methods import family
from distilect.selection import presets


def each_preset() -> list[Any]:
    """Names in alphabetical order; static ones are marked slow, but for `kd`."""
    return [
        name
        if name == "kd" or family(ComparedMethodConfig(name=name)) != "static"
        else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(presets())
    ]
