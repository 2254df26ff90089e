"""What all pages share: the template environment, one style and script for light, dark, phone and paper, tables, writing.

A page is a template that extends `base.html.j2`, fills its block `content` with the macros of `parts.html.j2` (plots, tables that
can be sorted and searched, lists of facts), and is made by `render` and `write_page`. Everything in a context is escaped; nothing
is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, and the number that it is sorted by (None: by its text). `mark`: `good`, `bad` or "", its colour."""

    text: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class DataTable:
    """A table that can be sorted by each column, and searched when it is long.

    Attributes:
        name: for its search field and for scripts; unique on its page.
        rows: one list of cells per row, as long as `titles`.
        wide, words: columns that hold running text, and columns that hold words rather than numbers.
    """

    name: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wide: frozenset[int] = field(default_factory=frozenset)
    words: frozenset[int] = field(default_factory=frozenset)

    @property
    def marked(self) -> bool:
        """Whether colours say something in it."""
        return any(cell.mark for row in self.rows for cell in row)


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from one of our templates; every value of `context` is escaped."""
    return _environment().get_template(template).render(**context)


def write_page(path: str | Path, text: str) -> Path:
    """Write a page, whole or not at all; returns its path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    # "replace": a lone surrogate from a JSON file must not lose the whole page.
    temporary.write_bytes(text.encode("utf-8", "replace"))
    os.replace(temporary, target)
    return target


def link(target: str | Path, page: str | Path) -> str:
    """Relative address of a file, as a page links it; "" when there is no such file."""
    file = Path(target)
    if not file.is_file():
        return ""
    return "./" + quote(Path(os.path.relpath(file.resolve(), Path(page).parent.resolve())).as_posix())


def shorten(text: str, limit: int) -> str:
    """`text` on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Everything is escaped unless the template says otherwise; only our own style and script, and plotly's, are `asset`s."""
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
