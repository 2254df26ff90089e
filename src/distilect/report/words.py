"""Numbers as people read them; `NONE` stands for a number that is not known."""

from __future__ import annotations

import math

NONE = "–"


def score(value: float | None) -> str:
    """`0.812`."""
    return NONE if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """`12.3 M` parameters, `940 k`, `512`."""
    if value is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{digits(value / size)} {unit}"
    return whole(value)


def whole(value: float | None) -> str:
    """`1,040`."""
    return NONE if value is None else f"{value:,.0f}"


def megabytes(value: float | None) -> str:
    """Bytes as `43.2` (millions)."""
    return NONE if value is None else digits(value / 1e6)


def digits(value: float | None) -> str:
    """About three significant digits: `0.312`, `3.41`, `34.1`, `1,234`."""
    if value is None:
        return NONE
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return f"{value:,.{decimals}f}"


def weight(value: float | None) -> str:
    """`0.81`."""
    return NONE if value is None else f"{value:.2f}"


def times(value: float | None) -> str:
    """A ratio as `1.9×`."""
    return NONE if value is None else f"{digits(value)}×"


def share(value: float) -> str:
    """A share as `90.0 %`: cut, never rounded up, since 99.96 % is not "100 % of the teacher"."""
    return f"{math.floor(1000 * value + 1e-9) / 10:.1f} %"


def comparison(value: float | None, more: str, less: str) -> str:
    """`1.9× smaller` for 1.9, `1.3× larger` for 0.77, "" when unknown."""
    if value is None or value <= 0:
        return ""
    return f"{times(value)} {more}" if value >= 1 else f"{times(1 / value)} {less}"


def duration(seconds: float | None) -> str:
    """`3.2 s`, `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
