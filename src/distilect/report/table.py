"""The table that the terminal shows at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from distilect.report import words
from distilect.report.files import number
from distilect.report.rows import ModelRow, best_teacher, primary_metric, side_by_side


def summary_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Teachers, then students of one or more runs: score, size, speed, and × the best teacher's."""
    rows = side_by_side(metrics)
    best = best_teacher(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="* best teacher; smaller and faster: × against it" if best else None,
        caption_justify="left",
    )
    table.add_column("model", overflow="fold", min_width=10)
    score = (primary_metric(metrics[0]) if metrics else "") or "score"
    for column in (score, "params", "MB", "ms/row", "rows/s", "smaller", "faster"):
        table.add_column(Text(column), justify="right", overflow="fold")
    for index, row in enumerate(rows):
        last_teacher = row.role == "teacher" and (index + 1 == len(rows) or rows[index + 1].role == "student")
        table.add_row(*_cells(row, best), end_section=last_teacher)
    return table


def speed_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Times of a model's forms side by side, as `distilect export` measured them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="ms: of one batch's forward pass, in turns on the same texts",
        caption_justify="left",
    )
    table.add_column("model", overflow="fold", min_width=10)
    for column in ("threads", "batch", "ms p50", "ms p95", "rows/s"):
        table.add_column(Text(column), justify="right")
    for index, line in enumerate(lines):
        values = [number(line.get(key)) for key in ("threads", "batch", "p50_ms", "p95_ms", "rows_per_second")]
        shown = (words.whole, words.whole, words.milliseconds, words.milliseconds, words.rate)
        cells = [Text(show(value)) for show, value in zip(shown, values, strict=True)]
        following = lines[index + 1] if index + 1 < len(lines) else {}
        last = (line.get("threads"), line.get("batch")) != (following.get("threads"), following.get("batch"))
        table.add_row(Text(str(line.get("model"))), *cells, end_section=last)
    return table


def _cells(row: ModelRow, best: ModelRow | None) -> list[Text]:
    # Text, not str: a name such as "[bold]" would be read as markup.
    name = Text(f"{row.name} *" if row is best else row.name, style="" if row.role == "teacher" else "bold")
    numbers = (
        words.score(row.score),
        words.count(row.parameters),
        words.megabytes(row.bytes),
        words.milliseconds(row.latency_ms),
        words.rate(row.rows_per_second),
        words.times(row.smaller),
        words.times(row.faster),
    )
    return [name, *(Text(value) for value in numbers)]
