"""`distilect compare`: teachers once, signals once, then every cell that has no result yet; a page at the end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distilect.config import dump_config
from distilect.errors import RunError
from distilect.experiments.config import CompareConfig
from distilect.experiments.engines import Engine, engine_of
from distilect.experiments.grid import Cell, Grid
from distilect.experiments.ground import CELLS
from distilect.experiments.jobs import (
    Job,
    Outcome,
    cell_job,
    folder_of,
    grounds_of,
    record_failure,
    signal_jobs,
    teacher_jobs,
)
from distilect.experiments.publish import Published, publish, take_lines
from distilect.experiments.records import RESULTS, Results
from distilect.files import atomic_write
from distilect.pipeline.teachers import named_teachers
from distilect.progress import bar, console
from distilect.report.words import duration

POLL_SECONDS = 5.0  # between two looks at cells that another command is running


@dataclass
class Comparison:
    """What came out.

    Attributes:
        done, left: cells of this command that have a result, and that have none.
        failed: cell or teacher → error.
        pages: tables and page; None where there is no result at all.
    """

    folder: Path
    done: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    pages: Published | None = None


def compare(
    config: CompareConfig, *, only: Sequence[str] = (), docs: Path | None = None, lines: Path | None = None
) -> Comparison:
    """Run all cells that have no result yet, several at a time, and write tables and page.

    A comparison that was stopped or killed goes on: finished cells are kept, a cell that was being trained goes on from its last
    checkpoint. Two commands may work on the same comparison: each cell is run by one of them.

    Args:
        only: names or patterns of cells to run (see `Grid.only`).
        docs: also write tables, page, lines and predictions there, under the comparison's name.
        lines: folder that `docs` wrote, on this or another machine: what is done there is not done again. Teachers that are
            fine-tuned are made anew, so cells of one seed should come from one machine.

    Raises:
        DistilectError: the config cannot be run. A cell that fails is no error: see `Comparison.failed`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "a comparison starts its own processes: run it without torchrun or accelerate launch, with --workers N or --engine ray"
        )
    grid = Grid(config)
    cells = grid.only(only)
    folder = folder_of(config)
    atomic_write(folder / "config.yaml", dump_config(config))
    if lines is not None and (taken := take_lines(config, lines)):
        console.print(f"{taken} finished cells taken from {lines}", markup=False)
    found = Comparison(folder)
    open_cells = missing(grid, cells)
    console.print(
        f"{config.name}: {len(cells)} cells, {len(cells) - len(open_cells)} of them done → {folder}", markup=False
    )
    if open_cells:
        engine = engine_of(config)
        try:
            _prepare(engine, grid, open_cells, found)
            ready = [cell for cell in open_cells if ".".join(cell.ground) not in found.failed]
            _run_cells(engine, grid, ready, found)
        finally:
            engine.close()
    left = missing(grid, cells)
    found.done, found.left = len(cells) - len(left), len(left)
    if not left and not only and not config.keep_students:
        shutil.rmtree(folder / CELLS, ignore_errors=True)  # of cells that were stopped and are no longer asked for
    found.pages = publish(config, docs=docs)
    return found


def missing(grid: Grid, cells: Sequence[Cell]) -> list[Cell]:
    """The cells without a line of their present settings."""
    done = Results(grid.config.folder / RESULTS).done()
    return [cell for cell in cells if (cell.key, cell.settings) not in done]


# ---- stages ----------------------------------------------------------------------------------------------------------


def _prepare(engine: Engine, grid: Grid, cells: Sequence[Cell], found: Comparison) -> None:
    """Teachers, then their signals; a ground without them loses its cells, the others go on."""
    teachers = teacher_jobs(grid, cells)
    if teachers:
        console.print(f"teachers: {len(teachers)} to fine-tune or reuse", markup=False)
    bad: dict[str, str] = {}
    for outcome in _watched(engine.run(teachers), teachers, "teachers", grid.config.workers):
        if outcome.status == "failed":
            bad[outcome.key] = outcome.error
    broken = {
        ".".join(ground): error for ground in grounds_of(cells) if (error := _broken(grid, ground, teachers, bad))
    }
    jobs = [job for job in signal_jobs(cells) if job.key not in broken]
    for outcome in _watched(engine.run(jobs), jobs, "signals", grid.config.workers):
        if outcome.status == "failed":
            broken[outcome.key] = outcome.error
    found.failed |= broken
    for cell in cells:
        if (why := broken.get(".".join(cell.ground))) is not None:
            record_failure(grid.config, cell_job(cell), why, "")


def _broken(grid: Grid, ground: tuple[str, str], jobs: Sequence[Job], bad: dict[str, str]) -> str:
    """Why a ground has not all of its teachers; "" where it has. A teacher that failed in one scenario fails in all that share it."""
    scenario = next(s for s in grid.config.scenarios if s.name == ground[0])
    task = next(t for t in grid.config.tasks if t.name == ground[1])
    names = named_teachers(grid.run_config(scenario, task))
    for job in jobs:
        if job.key in bad and job.task == ground[1] and job.teacher in names:
            return f"teacher {job.teacher}: {bad[job.key]}"
    return ""


def _run_cells(engine: Engine, grid: Grid, cells: Sequence[Cell], found: Comparison) -> None:
    """All cells; those that another command runs are looked at again until they are done, or free."""
    jobs, total = [cell_job(cell) for cell in cells], len(cells)
    clock = _Clock(total)
    while jobs:
        busy: list[Job] = []
        for outcome in _watched(engine.run(jobs), jobs, "cells", grid.config.workers):
            title = next(job.title for job in jobs if job.key == outcome.key)
            if outcome.status == "busy":
                busy.append(next(job for job in jobs if job.key == outcome.key))
                continue
            clock.done += 1
            if outcome.status == "failed":
                found.failed[outcome.key] = outcome.error
                console.print(f"{clock} FAILED {title}: {outcome.error}", markup=False)
            else:
                took = f" ({duration(outcome.seconds)})"
                console.print(f"{clock} {title}: {outcome.summary}{took}{clock.rest()}", markup=False)
        if busy:
            console.print(f"{len(busy)} cells are being run by another command; waiting for them", markup=False)
            time.sleep(POLL_SECONDS)
        jobs = busy


class _Clock:
    """How many cells are done, and for how long the others will take at this pace."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def __str__(self) -> str:
        return f"[{self.done}/{self.total}]"

    def rest(self) -> str:
        left = self.total - self.done
        each = (time.monotonic() - self.started) / max(self.done, 1)
        return f", about {duration(left * each)} left" if left else ""


def _watched(outcomes: Iterator[Outcome], jobs: Sequence[Job], what: str, workers: int) -> Iterator[Outcome]:
    """Outcomes under a bar with ETA; without one where the jobs run in this process: each has its own, and rich draws one."""
    if len(jobs) < 2 or workers == 1:
        yield from outcomes
        return
    with bar() as display:
        task = display.add_task(what, total=len(jobs))
        for outcome in outcomes:
            display.advance(task)
            yield outcome


def failed_text(found: Comparison, limit: int = 6) -> str:
    """The failures, for the end of the command."""
    shown = [f"  {key}: {error}" for key, error in list(found.failed.items())[:limit]]
    more = [f"  … and {len(found.failed) - limit} more"] if len(found.failed) > limit else []
    where = f"tracebacks: {found.folder / 'failed'}; the same command tries them again"
    return "\n".join([f"{len(found.failed)} failed:", *shown, *more, where])
