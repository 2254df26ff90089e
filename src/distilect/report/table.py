"""The tables that the terminal shows at the end of a run and of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from distilect.evaluation import SCORES
from distilect.report import words
from distilect.report.files import number
from distilect.report.models import SIZES, best_teacher, primary_metric, side_by_side
from distilect.report.page import SPEEDS


def summary_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Teachers, then students of one or more runs: score, size, speed, and × the best teacher's."""
    rows = side_by_side(metrics)
    best = best_teacher(rows)
    written = [name for name in SCORES if any(name in row.scores for row in rows)]
    score = (primary_metric(metrics[0]) if metrics else "") or "score"
    table = _table(
        "* best teacher; smaller and faster: × against it" if best else None,
        (score, *written, "params", "MB", "ms/row", "rows/s", "smaller", "faster"),
    )
    for row, following in zip(rows, [*rows[1:], None], strict=False):
        # Text, not str: a name such as "[bold]" would be read as markup.
        name = Text(f"{row.name} *" if row is best else row.name, style="" if row.role == "teacher" else "bold")
        last_teacher = row.role == "teacher" and (following is None or following.role == "student")
        scores = [row.score, *(row.scores.get(name) for name in written)]
        numbers = [*map(words.score, scores), *(row.cells[title] for title in (*SIZES, "smaller", "faster"))]
        table.add_row(name, *map(Text, numbers), end_section=last_teacher)
    return table


def speed_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Times of a model's forms side by side, as `distilect export` measured them."""
    caption = "ms: forward pass of one batch; × student: times faster than it is in PyTorch, fp32. Models take turns on the same texts"
    table = _table(caption, [title for title, _, _ in SPEEDS])
    for line, following in zip(lines, [*lines[1:], {}], strict=False):
        numbers = [Text(show(number(line.get(key)))) for _, key, show in SPEEDS]
        last = any(line.get(key) != following.get(key) for key in ("threads", "batch"))
        table.add_row(Text(str(line.get("model"))), *numbers, end_section=last)
    return table


def _table(caption: str | None, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold", min_width=10)
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    return table
