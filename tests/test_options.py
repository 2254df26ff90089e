"""The checks that methods share: what each refuses, and that it names the option."""

import math

import pytest

from distilect.options import above_zero, counts, shares, zero_or_more


@pytest.mark.parametrize(
    ("check", "good", "bad", "expected"),
    [
        (shares, [0, 0.5, 1], [-0.1, 1.1, math.nan], "a number from 0 to 1"),
        (above_zero, [1e-9, 3], [0, -1, math.nan], "a number above 0"),
        (zero_or_more, [0, 2.5], [-1e-9, math.nan], "0 or more"),
        (counts, [1, 7], [0, -1, 2.5, True, "3"], "a whole number from 1"),
    ],
)
def test_numbers_are_refused_by_name(check, good, bad, expected):
    for value in good:
        check(first=value)
    for value in bad:
        with pytest.raises(ValueError, match=f"^second is {value!r}, expected {expected}$"):
            check(first=good[0], second=value)
