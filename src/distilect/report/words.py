"""Numbers as people read them."""

from __future__ import annotations

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
            return f"{_three(value / size)} {unit}"
    return f"{value:,.0f}"


def whole(value: float | None) -> str:
    """`1,040`."""
    return NONE if value is None else f"{value:,.0f}"


def megabytes(value: float | None) -> str:
    """Bytes as `43.2` (millions)."""
    return NONE if value is None else _three(value / 1e6)


def milliseconds(value: float | None) -> str:
    """`3.41`."""
    return NONE if value is None else _three(value)


def rate(value: float | None) -> str:
    """Rows per second: `1,234` or `12.3`."""
    return NONE if value is None else (f"{value:,.0f}" if value >= 100 else _three(value))


def times(value: float | None) -> str:
    """A ratio as `1.9×`."""
    return NONE if value is None else f"{_three(value)}×"


def comparison(value: float | None, more: str, less: str) -> str:
    """`1.9× smaller` for 1.9, `1.3× larger` for 0.77, `as small` words left out: "" when unknown."""
    if value is None or value <= 0:
        return ""
    return f"{_three(value)}× {more}" if value >= 1 else f"{_three(1 / value)}× {less}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    minutes, rest = divmod(whole_seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _three(value: float) -> str:
    """About three significant digits: 0.312, 3.41, 34.1, 341."""
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return f"{value:,.{digits}f}"
