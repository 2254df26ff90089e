"""The page of a comparison: sections of tables and figures that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilect.report.shell import write_page


def build_comparison(title: str, intro: Sequence[str], sections: Sequence[Any], target: Path) -> Path:
    """Write a self-contained page; returns `target`.

    Args:
        sections: objects with `title`, `facts` [(name, value)], `findings` [text], `tables` (`title`, `header`, `rows`, `note`,
            `best` {(row, column)}) and `figures` (`report.figures.Figure`).
    """
    plain = [text.replace("`", "") for text in intro]
    return write_page(target, "comparison.html.j2", title=title, intro=plain, sections=sections)
