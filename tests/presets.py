"""Parameters of tests that train once for each: some always, the others in the slow tests only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from distilect.experiments.config import ComparedMethodConfig
from distilect.experiments.methods import family
from distilect.selection import presets


def slow(*values: Any) -> list[Any]:
    """Further parameters, for the slow tests only; a tuple is a value for each of several parameters."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]


def each_preset(quick: Sequence[str] = (), without: Sequence[str] = ()) -> list[Any]:
    """The names of all presets but `without`; `quick` ones always, by default all but static ones and variants of another."""
    names = [name for name in presets() if name not in without]
    static = {name for name in names if family(ComparedMethodConfig(name=name)) == "static"} - {"kd"}
    always = quick or [name for name in names if name not in {*static, "akskd-hard", "rlkd-published"}]
    return [*always, *slow(*(name for name in names if name not in always))]


LEARNED = ("kd", "rlkd", "akskd", "dynamic-data")  # one of each paper, and what they are compared with
