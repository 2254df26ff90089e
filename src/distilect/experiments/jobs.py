"""What an engine runs: plain jobs, each of which any process can do that reads the comparison's config.

Two kinds: `prepare` (fine-tune the teachers of a setup and score their signals), then `trial` (train one student).
"""

from __future__ import annotations

import json
import textwrap
import time
import traceback
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distilect.errors import DistilectError
from distilect.experiments.config import CompareConfig
from distilect.experiments.results import RESULTS, Result, Results
from distilect.experiments.runner import LOCKS, Runner
from distilect.experiments.trials import Plan
from distilect.files import atomic_write, locked
from distilect.progress import console

FAILED = "failed"
OPEN_SETUPS = 2  # of a worker: each holds its teachers in memory, about 100 MB each for MiniLM


@dataclass(frozen=True)
class Job:
    """One piece of work; `key` is that of a setup or of a trial."""

    kind: str
    key: str

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


class Busy(DistilectError):
    """Another process runs this trial."""


class Worker:
    """Does jobs, one after the other; keeps the setups open that it used last."""

    def __init__(self, config: CompareConfig) -> None:
        self.config, self.plan = config, Plan(config)
        self.trials = {trial.key: trial for trial in self.plan.trials}
        self.runner = lru_cache(OPEN_SETUPS)(lambda key: Runner.open(self.plan, self.plan.setups[key]))

    def do(self, job: Job) -> Outcome:
        """Raises nothing but KeyboardInterrupt: a job that fails is reported and does not stop the rest."""
        started = time.perf_counter()
        status, error, summary = "done", "", ""
        try:
            if job.kind == "prepare":
                self.runner(job.key).score_signals()
                summary = "teachers and signals ready"
            else:
                summary = score_text(self._trial(job))
        except Busy:
            status = "busy"
        except Exception as fault:
            status, error = "failed", error_text(fault)
            record_failure(self.config, job, error, traceback.format_exc())
        return Outcome(job.kind, job.key, status, error, summary, time.perf_counter() - started)

    def _trial(self, job: Job) -> Result:
        """The trial's result, from the file of results where it is there."""
        trial = self.trials[job.key]
        with locked(self.config.folder / LOCKS / f"{trial.key}.lock", Busy, trial.key, wait=False):
            result = Results(self.config.folder / RESULTS).done().get((trial.key, trial.settings))
            if result is None:
                runner = self.runner(trial.setup.key)
                result = runner.run(trial)
                runner.keep(trial, result)
            _failure_file(self.config, job).unlink(missing_ok=True)
        return result


def score_text(result: Result) -> str:
    """`accuracy 0.712`; the score on the validation split where there is no dev."""
    scores, primary = result["student"]["scores"] or result["student"]["validation"], result["primary"]
    return f"{primary} {scores[primary]:.3f}" if primary in scores else "no score"


# ---- failures --------------------------------------------------------------------------------------------------------


def error_text(error: Exception) -> str:
    """One or two lines, with the name of the error where it is not one of ours."""
    text = textwrap.shorten(str(error), 400, placeholder="…") or "no message"
    return text if isinstance(error, DistilectError) else f"{type(error).__name__}: {text}"


def record_failure(config: CompareConfig, job: Job, error: str, trace: str = "") -> None:
    """Write `failed/KIND.KEY.json`; it is removed when the job succeeds."""
    path = _failure_file(config, job)
    try:
        atomic_write(path, json.dumps({**asdict(job), "error": error, "traceback": trace}, indent=1) + "\n")
    except OSError as problem:  # a full disk, say; the error itself is reported anyway
        console.print(f"cannot write {path}: {problem.strerror}", markup=False)


def failed_trials(config: CompareConfig) -> dict[str, str]:
    """Trial → error, of all recorded failures."""
    found = {}
    for path in sorted((config.folder / FAILED).glob("trial.*.json")):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found[str(record["key"])] = str(record["error"])
    return found


def _failure_file(config: CompareConfig, job: Job) -> Path:
    return config.folder / FAILED / f"{job.kind}.{job.key}.json"
