"""Options are declared once; a value that does not fit is refused with its name, what was got and what is expected."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from pydantic import Field

from distilect.config import Part
from distilect.options import AboveZero, Count, Ratio, Share, ZeroOrMore, parse_options


class Options(Part):
    share: Share = Field(0.5, description="")
    ratio: Ratio = Field(0.5, description="")
    above: AboveZero = Field(1.0, description="")
    least: ZeroOrMore = Field(0.0, description="")
    count: Count = Field(1, description="")
    word: Literal["cls", "mean"] | None = Field(None, description="")
    when: Literal["epoch"] | Count = Field("epoch", description="")
    on: bool = Field(False, description="")
    items: list[str] = Field([], description="")


@pytest.mark.parametrize(
    ("option", "good", "bad", "expected"),
    [
        ("share", [0, 0.5, 1], [-0.1, 1.1, math.nan, "half"], "a number from 0 to 1"),
        ("ratio", [1e-9, 1], [0, 1.1, math.nan], r"a number in \(0, 1\]"),
        ("above", [1e-9, 3], [0, -1, math.nan], "a number above 0"),
        ("least", [0, 2.5], [-1e-9, math.nan], "0 or more"),
        ("count", [1, 7], [0, -1, 2.5, True, "three"], "a whole number from 1"),
        ("word", ["cls", None], ["both", 1], "one of cls, mean"),
        ("when", ["epoch", 3], ["step", 0, True], "'epoch' or a whole number from 1"),
        ("on", [True, False], ["perhaps", 2], "true or false"),
        ("items", [[], ["a"]], ["a", 1], "a list"),
    ],
)
def test_values_are_refused_by_name(option, good, bad, expected):
    for value in good:
        assert getattr(parse_options(Options, {option: value}), option) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"^{option} is {value!r}, expected ({expected})"):
            parse_options(Options, {option: value})


def test_the_nearest_word_is_named():
    with pytest.raises(ValueError, match=r"^word is 'men', expected one of cls, mean\. Did you mean 'mean'\?$"):
        parse_options(Options, {"word": "men"})
    with pytest.raises(ValueError, match=r"^unknown option 'cuont'; known: share, .*\. Did you mean 'count'\?$"):
        parse_options(Options, {"cuont": 1})


def test_every_fault_is_named():
    with pytest.raises(ValueError, match=r"^share is 2, expected .*; count is 0, expected "):
        parse_options(Options, {"share": 2, "count": 0})
