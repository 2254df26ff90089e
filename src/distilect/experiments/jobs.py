"""What an engine runs: plain jobs, each of which can be done in any process that can read the comparison's config.

Three stages: `teacher` (fine-tune one), `signals` (run all teachers of a ground over its rows), `cell` (train one student).
"""

from __future__ import annotations

import json
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distilect.errors import DistilectError, RunError, why_unwritable
from distilect.experiments.config import CompareConfig
from distilect.experiments.grid import Cell, Grid
from distilect.experiments.ground import LOCKS, Ground, make_teachers, read_ground
from distilect.experiments.records import RESULTS, Results, lock, write_json
from distilect.pipeline.teachers import named_teachers
from distilect.progress import console

FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One piece of work; `key` is unique among the jobs of its kind."""

    kind: str
    key: str
    scenario: str
    task: str
    teacher: str | None = None
    title: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: `done`; `failed`, with `error`; `busy`: another process is at it.
        summary: what came out, for the terminal.
    """

    kind: str
    key: str
    status: str
    error: str = ""
    summary: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Worker:
    """Does jobs, one after the other; keeps the grounds that it used last open.

    Args:
        open_grounds: a ground holds its teachers in memory, about 100 MB each for MiniLM.
    """

    def __init__(self, config: CompareConfig, open_grounds: int = 2) -> None:
        self.config, self.grid, self.limit = config, Grid(config), open_grounds
        self.grounds: OrderedDict[tuple[str, str], Ground] = OrderedDict()
        self.cells = {cell.key: cell for cell in self.grid.cells}

    def do(self, job: Job) -> Outcome:
        """Never raises but on Ctrl-C: a job that fails is reported and does not stop the rest."""
        started = time.perf_counter()
        try:
            status, summary = {"teacher": self._teacher, "signals": self._signals, "cell": self._cell}[job.kind](job)
            return Outcome(job.kind, job.key, status, "", summary, time.perf_counter() - started)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            text = explained(error)
            record_failure(self.config, job, text, traceback.format_exc())
            return Outcome(job.kind, job.key, "failed", text, "", time.perf_counter() - started)

    def _teacher(self, job: Job) -> tuple[str, str]:
        config, scenario, task, clean = read_ground(self.grid, job.scenario, job.task)
        make_teachers(self.grid, config, self.grid.parts(scenario, task), clean, only=job.teacher)
        return "done", ""

    def _signals(self, job: Job) -> tuple[str, str]:
        seconds = self._ground(job.scenario, job.task).score()
        return "done", f"teachers' signals ready after {seconds:.0f} s"

    def _cell(self, job: Job) -> tuple[str, str]:
        cell = self.cells[job.key]
        results = Results(self.config.folder / RESULTS)
        with lock(self.config.folder / LOCKS / f"{cell.key}.lock", wait=False) as ours:
            if not ours:
                return "busy", ""
            known = results.done().get((cell.key, cell.settings))
            if known is None:
                ground = self._ground(job.scenario, job.task)
                known = ground.run(cell)
                ground.keep(cell, known)
            forget_failure(self.config, job)
        return "done", score_of(known)

    def _ground(self, scenario: str, task: str) -> Ground:
        key = (scenario, task)
        if key not in self.grounds:
            while len(self.grounds) >= self.limit:
                self.grounds.popitem(last=False)
            self.grounds[key] = Ground.open(self.grid, scenario, task)
        self.grounds.move_to_end(key)
        return self.grounds[key]


# ---- which jobs there are --------------------------------------------------------------------------------------------


def teacher_jobs(grid: Grid, cells: Iterable[Cell]) -> list[Job]:
    """One for each teacher that is to be fine-tuned; scenarios share those that learn from the same rows."""
    found: dict[str, Job] = {}
    for scenario, task in grounds_of(cells):
        of_scenario = next(s for s in grid.config.scenarios if s.name == scenario)
        of_task = next(t for t in grid.config.tasks if t.name == task)
        config = grid.run_config(of_scenario, of_task)
        for name, spec in named_teachers(config).items():
            if spec.finetune is None:
                continue
            learns = getattr(spec, "learns", None)
            parts = grid.parts(of_scenario, of_task) if learns is not None and learns.part is not None else None
            recipe = json.dumps(
                [task, name, spec.model_dump(mode="json"), parts.model_dump(mode="json") if parts else None],
                sort_keys=True,
            )
            job = Job("teacher", f"{scenario}.{task}.{name}", scenario, task, name, f"teacher {name} of {task}")
            found.setdefault(recipe, job)
    return list(found.values())


def signal_jobs(cells: Iterable[Cell]) -> list[Job]:
    """One for each ground."""
    return [
        Job("signals", f"{scenario}.{task}", scenario, task, None, f"signals of {scenario} · {task}")
        for scenario, task in grounds_of(cells)
    ]


def cell_job(cell: Cell) -> Job:
    return Job("cell", cell.key, *cell.ground, None, cell.title)


def grounds_of(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(cell.ground for cell in cells))


# ---- failures --------------------------------------------------------------------------------------------------------


def explained(error: Exception) -> str:
    """One or two lines; the name of the error where it is not one of ours."""
    text = " ".join(str(error).split()) or "no message"
    text = text if len(text) <= 400 else text[:399] + "…"
    return text if isinstance(error, DistilectError) else f"{type(error).__name__}: {text}"


def record_failure(config: CompareConfig, job: Job, error: str, trace: str) -> None:
    """`failed/KEY.json`, with the traceback; removed when the job succeeds."""
    path = config.folder / FAILED / f"{job.kind}.{job.key}.json"
    try:
        write_json(path, {**asdict(job), "error": error, "traceback": trace})
    except OSError as problem:  # a full disk, say; the error itself is reported anyway
        console.print(f"cannot write {path}: {problem.strerror}", markup=False)


def forget_failure(config: CompareConfig, job: Job) -> None:
    (config.folder / FAILED / f"{job.kind}.{job.key}.json").unlink(missing_ok=True)


def failures(config: CompareConfig) -> list[dict[str, Any]]:
    """All recorded failures of cells."""
    found = []
    for path in sorted((config.folder / FAILED).glob("cell.*.json")):
        try:
            found.append(dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    return found


def score_of(line: dict[str, Any]) -> str:
    """`accuracy 0.712`; the held-out score where there is no dev."""
    scores = line["student"]["scores"] or line["student"]["validation"]
    primary = line["primary"]
    return f"{primary} {scores[primary]:.3f}" if primary in scores else "no score"


def folder_of(config: CompareConfig) -> Path:
    """The comparison's folder, made.

    Raises:
        RunError: it cannot be.
    """
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {config.folder}: {why_unwritable(error)}; choose another output=") from None
    return config.folder
