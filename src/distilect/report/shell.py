"""What all pages share: templates, one style and script for light, dark, phone and paper, tables that can be sorted.

A page is a template that extends `base.html.j2` and fills its block `content` with the macros of `parts.html.j2`. Everything in a
context is escaped. A page loads nothing: style, script and plotly are part of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distilect.files import atomic_write

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: the number by which it is sorted; None: by its text.
        mark: its colour: `good`, `bad` or "".
        filled: percentage of the cell that a bar fills.
        parts: the same text in pieces, each with a mark of its own.
    """

    text: str
    value: float | None = None
    mark: str = ""
    filled: int | None = None
    parts: Sequence[tuple[str, str]] = ()


def number_cell(value: float | None, show: Callable[[float | None], str], mark: str = "") -> Cell:
    """A number as `show` writes it; it sorts by itself."""
    return Cell(show(value), value, mark)


@dataclass(frozen=True)
class DataTable:
    """A table that can be sorted by each column, and searched when it is long.

    Attributes:
        name: for its search field and for scripts; unique on its page.
        rows: one list of cells per row, as long as `titles`.
        wide: columns that hold running text.
        words: columns that hold words rather than numbers.
    """

    name: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wide: Sequence[int] = ()
    words: Sequence[int] = ()

    @property
    def marked(self) -> bool:
        """Whether colours mean something in it."""
        return any(cell.mark or cell.parts for row in self.rows for cell in row)


def write_page(path: str | Path, template: str, **context: Any) -> Path:
    """Render one of our templates and write the page, whole or not at all; returns its path."""
    page = _environment().get_template(template).render(context)
    # "replace": a lone surrogate from a JSON file must not lose the whole page.
    atomic_write(Path(path), page.encode("utf-8", "replace"))
    return Path(path)


def link(target: Path, page: Path) -> str:
    """Relative address of a file, as a page links it; "" when there is no such file."""
    return (
        "./" + quote(Path(os.path.relpath(target.resolve(), page.parent.resolve())).as_posix())
        if target.is_file()
        else ""
    )


def one_line(text: str, limit: int) -> str:
    """`text` on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Everything is escaped but the assets: our own style and script, and plotly's."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset
    return environment


@lru_cache(maxsize=4)
def _asset(name: str) -> Markup:
    """The source of `style.css`, `page.js` or `plotly.js`, as it stands."""
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # here: it reads 5 MB

        return Markup(get_plotlyjs())
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
