"""When two spellings name the same label."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

# Soft hyphen, zero-width characters, marks of writing direction, word joiner, variation selectors, byte order mark.
_INVISIBLE = dict.fromkeys(
    [0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF]
)
_BOOLEANS = {"false", "true"}


def same_label_key(name: str) -> str:
    """Equal for spellings of one label that look the same: other Unicode normal form, kind or number of spaces, or
    invisible characters. Case is kept, and so are compatibility characters such as "²".

    Example:
        >>> same_label_key("cafe\\u0301\\u00a0 bar ") == same_label_key("caf\\u00e9 bar")
        True
    """
    return " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())


def match_labels(names: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Name → the label that it is a spelling of; names that fit no label are left out.

    Where all names and labels are booleans, case does not matter, and 0 and 1 mean false and true, unless the labels are in another
    order: there 0 may also be the index of the first one.

    Example:
        >>> match_labels(["True", "False"], ["false", "true"])
        {'True': 'true', 'False': 'false'}
    """
    keys = {name: same_label_key(name) for name in names}
    known = {same_label_key(label): label for label in labels}
    if not set(keys.values()) <= set(known):
        lower = {key.lower(): label for key, label in known.items()}
        ours, theirs = list(lower), {key.lower() for key in keys.values()}
        if set(ours) == _BOOLEANS and theirs <= _BOOLEANS:
            return {name: lower[key.lower()] for name, key in keys.items()}
        if ours == ["false", "true"] and theirs <= {"0", "1"}:
            return {name: lower[["false", "true"][int(key)]] for name, key in keys.items()}
        if ours == ["0", "1"] and theirs <= _BOOLEANS:
            return {name: lower[str(int(key.lower() == "true"))] for name, key in keys.items()}
    return {name: known[key] for name, key in keys.items() if key in known}


def join_spellings(names: Sequence[str]) -> dict[str, str]:
    """Name → the plain spelling, for names that are spelled in several ways; "" for a name without visible characters.

    Where all names are booleans, case does not matter.

    Example:
        >>> join_spellings(["a  b", "a b", "c"])
        {'a  b': 'a b', 'a b': 'a b'}
    """
    keys = {name: same_label_key(name) for name in names}
    lower = {name: key.lower() for name, key in keys.items()}
    if set(lower.values()) <= _BOOLEANS and len(set(lower.values())) < len(lower):
        return lower
    times = Counter(keys.values())
    return {name: key for name, key in keys.items() if times[key] > 1 or not key}
