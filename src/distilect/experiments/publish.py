"""Tables and page of a comparison, from its lines and predictions alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilect.errors import RunError
from distilect.experiments.config import CompareConfig
from distilect.experiments.grid import Grid
from distilect.experiments.ground import predictions_of
from distilect.experiments.jobs import failures
from distilect.experiments.records import RESULTS, Line, Results, read_predictions, write_predictions
from distilect.experiments.render import latex, markdown
from distilect.experiments.tables import Section, sections
from distilect.report import build_comparison


@dataclass(frozen=True)
class Published:
    """The files that were written.

    Attributes:
        lines: how many results are in them; `expected`: how many cells the comparison has.
        stale: lines of other settings that were left out.
    """

    page: Path
    tables: Path
    latex: Path
    lines: int
    expected: int
    stale: int


def publish(config: CompareConfig, *, docs: Path | None = None, source: Path | None = None) -> Published | None:
    """Write `comparison.html`, `comparison.md` and `comparison.tex`; None where there is no line yet.

    Args:
        docs: also write the three there as NAME.html, .md and .tex, with NAME.jsonl and NAME.predictions.parquet, from which the same
            can be made again.
        source: folder with such NAME.jsonl and NAME.predictions.parquet, in place of the comparison's own.

    Raises:
        RunError: `source` holds no lines.
    """
    grid = Grid(config)
    results, files = config.folder / RESULTS, predictions_of(config.folder)
    if source is not None:
        results, files = _kept(config, source).path, [source / f"{config.name}.predictions.parquet"]
    done = Results(results).done()
    lines = [done[key] for cell in grid.cells if (key := (cell.key, cell.settings)) in done]
    stale = len(done) - len(lines)
    if not lines:
        return None
    predictions = read_predictions([file for file in files if file.exists()])
    found = sections(
        lines, predictions, baseline=grid.baseline, contenders=config.contenders, resamples=config.resamples
    )
    failed = [] if source else [f for f in failures(config) if f["key"] not in {line["cell"] for line in lines}]
    intro = _intro(config, len(lines), len(grid.cells), failed)
    if source is None:
        page = _write(config.folder, "comparison", config.name, intro, found)
    if docs is not None:
        page = _write(docs, config.name, config.name, intro, found)
        keep_lines(docs, config.name, lines, predictions)
    elif source is not None:
        page = _write(source, config.name, config.name, intro, found)
    return Published(page, page.with_suffix(".md"), page.with_suffix(".tex"), len(lines), len(grid.cells), stale)


def take_lines(config: CompareConfig, source: Path) -> int:
    """Go on from what `docs` kept, made here or on another machine: its lines of the present settings count as done.

    Returns:
        how many were taken that the comparison did not have yet.

    Raises:
        RunError: `source` holds no lines of this comparison, or its predictions are damaged.
    """
    kept = _kept(config, source)
    results = Results(config.folder / RESULTS)
    have = results.done()
    wanted = {(cell.key, cell.settings) for cell in Grid(config).cells} - have.keys()
    new = [line for key, line in kept.done().items() if key in wanted]
    if new:
        # predictions first: a line without them would count as done and be missing in every test
        read = read_predictions([source / f"{config.name}.predictions.parquet"])
        write_predictions(config.folder / "predictions" / f"taken-{len(have)}.parquet", read)
        for line in new:
            results.add(line)
    return len(new)


def _kept(config: CompareConfig, source: Path) -> Results:
    path = source / f"{config.name}.jsonl"
    if not path.exists():
        raise RunError(f"no lines at {path}: expected what --docs wrote")
    return Results(path)


def keep_lines(folder: Path, name: str, lines: Sequence[Line], predictions: Mapping[str, Any]) -> None:
    """Lines and predictions in one file each, small enough to commit."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    _put(folder / f"{name}.jsonl", text)
    wanted = {f"{line['cell']} {line['settings']}" for line in lines}
    rows = {f"labels {line['scenario']}.{line['task_name']} {line['dev_fingerprint']}" for line in lines}
    kept = {key: value for key, value in predictions.items() if key in wanted | rows}
    write_predictions(folder / f"{name}.predictions.parquet", kept)


def _write(folder: Path, stem: str, title: str, intro: Sequence[str], found: Sequence[Section]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / f"{stem}.md", markdown(title, intro, found))
    _put(folder / f"{stem}.tex", latex(found))
    return build_comparison(title, intro, found, folder / f"{stem}.html")


def _intro(config: CompareConfig, lines: int, expected: int, failed: Sequence[dict[str, object]]) -> list[str]:
    budget = "Every method trains for the same epochs."
    if config.equal_tokens is not False:
        whole = "as many student tokens as its epochs over all rows"
        amount = whole if config.equal_tokens is True else f"{config.equal_tokens:,} student tokens"
        budget = f"Equal budgets: every method gets {amount}; looks, stages and searches are in them."
    state = f"{lines} of {expected} students are done." if lines < expected else f"{expected} students."
    broken = [f"{f['key']}: {f['error']}" for f in failed]
    return [
        f"Written by `distilect compare` from the lines of the comparison `{config.name}`. {state} {budget}",
        *([f"Failed, and missing here: {'; '.join(broken[:10])}{' …' if len(broken) > 10 else ''}"] if broken else []),
    ]


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
