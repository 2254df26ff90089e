"""The page of a comparison: sections of tables and figures that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distilect.report.shell import render, write_page


def build_comparison(title: str, intro: Sequence[str], sections: Sequence[Any], target: Path) -> Path:
    """Write a self-contained page; returns `target`.

    Args:
        sections: objects with `title`, `facts` [(name, value)], `findings` [text], `tables` (`title`, `header`, `rows`, `note`,
            `best` {(row, column)}) and `figures` (`report.figures.Figure`).
    """
    context = {
        "title": title,
        "intro": [text.replace("`", "") for text in intro],
        "sections": [asdict(s) for s in sections],
    }
    write_page(target, render("comparison.html.j2", context))
    return target
