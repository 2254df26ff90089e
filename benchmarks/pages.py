"""Pages under docs/results/ from result files: means, paired differences, tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS
from benchmarks.lab import Results

DOCS = Path(__file__).parent.parent / "docs" / "results"
Line = dict[str, Any]


def lines_of(name: str) -> list[Line]:
    """The lines of `benchmarks/results/NAME.jsonl`; none without it."""
    return Results(RESULTS / f"{name}.jsonl").lines()


def primary(line: Line) -> float:
    """The first metric of the task, in [0, 1]."""
    return float(next(iter(line["scores"].values())))


def by_method(lines: list[Line]) -> dict[str, dict[int, Line]]:
    """method → seed → its line, in the order of the file's first seed."""
    found: dict[str, dict[int, Line]] = {}
    for line in lines:
        found.setdefault(line["method"], {})[line["seed"]] = line
    return found


def paired(ours: dict[int, Line], theirs: dict[int, Line]) -> list[float]:
    """Differences of the seeds that both have, in points."""
    return [100 * (primary(ours[s]) - primary(theirs[s])) for s in sorted(set(ours) & set(theirs))]


def spread(values: list[float], unit: str = "") -> str:
    if not values:
        return "–"
    text = f"{np.mean(values):+.1f}"
    return text + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "") + unit


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def teachers_line(lines: list[Line]) -> str:
    scores = lines[-1]["teachers"]
    return ", ".join(f"{name} {100 * next(iter(s.values())):.1f}" for name, s in scores.items())


def scores_of(runs: dict[int, Line]) -> str:
    names = next(iter(runs.values()))["scores"]
    return ", ".join(f"{n} {mean_std([line['scores'][n] for line in runs.values()])}" for n in names)


def mean_std(values: list[float]) -> str:
    """`81.2 ± 0.4` of scores in [0, 1], with the sample's standard deviation."""
    numbers = 100 * np.asarray(values)
    return f"{numbers.mean():.1f} ± {numbers.std(ddof=1):.1f}" if len(values) > 1 else f"{numbers.mean():.1f}"


def write_page(name: str, head: str, sections: Sequence[tuple[str, Callable[[], str]]]) -> None:
    """`docs/results/NAME.md`: each section's words from `results/NAME/notes.json`, then what its function writes."""
    path = RESULTS / name / "notes.json"
    notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = head
    for title, body in sections:
        text += f"\n## {title}\n\n" + (notes[title] + "\n\n" if title in notes else "") + body()
    page = DOCS / f"{name}.md"
    temporary = page.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, page)
    print(page)
