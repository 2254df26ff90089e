"""When two spellings name the same label."""

from __future__ import annotations

import unicodedata

# Soft hyphen, zero-width characters, marks of writing direction, word joiner, variation selectors, byte order mark.
_INVISIBLE = dict.fromkeys(
    [0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF]
)


def same_label_key(name: str) -> str:
    """Equal for spellings of one label that look the same: other Unicode normal form, kind or number of spaces, or
    invisible characters. Case is kept, and so are compatibility characters such as "²".

    Example:
        >>> same_label_key("cafe\\u0301\\u00a0 bar ") == same_label_key("caf\\u00e9 bar")
        True
    """
    return " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())
