"""`distilect compare`: prepare every setup once, then run every trial that has no result yet; tables at the end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distilect.config import dump_config
from distilect.errors import RunError, why_unwritable
from distilect.experiments.config import CompareConfig
from distilect.experiments.engines import Engine, engine_of
from distilect.experiments.jobs import Job, Outcome, record_failure
from distilect.experiments.publish import Published, publish, take_results
from distilect.experiments.results import RESULTS, Results
from distilect.experiments.runner import TRIALS
from distilect.experiments.trials import Plan, Trial
from distilect.files import atomic_write
from distilect.progress import console
from distilect.report.words import duration

POLL_SECONDS = 5.0  # between two looks at trials that another command is running


@dataclass
class Comparison:
    """What came out.

    Attributes:
        done, left: trials of this command that have a result, and that have none.
        failed: trial or setup → error.
        pages: tables and page; None where there is no result at all.
    """

    folder: Path
    done: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    pages: Published | None = None


def compare(
    config: CompareConfig, *, only: Sequence[str] = (), docs: Path | None = None, results: Path | None = None
) -> Comparison:
    """Run all trials that have no result yet, several at a time, and write tables and page.

    A comparison that was stopped or killed goes on: finished trials are kept, a trial that was being trained goes on from its
    last checkpoint. Two commands may work on the same comparison: each trial is run by one of them.

    Args:
        only: names or patterns of trials to run (see `Plan.only`).
        docs: also write tables, page, results and predictions there, under the comparison's name.
        results: folder that `docs` wrote, on this or another machine: what is done there is not done again. Teachers that are
            fine-tuned are made anew, so trials of one seed should come from one machine.

    Raises:
        DistilectError: the config cannot be run. A trial that fails is no error: see `Comparison.failed`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "a comparison starts its own processes: run it without torchrun or accelerate launch, with workers=N or engine=ray"
        )
    plan = Plan(config)
    trials = plan.only(only)
    try:
        atomic_write(config.folder / "config.yaml", dump_config(config))
    except OSError as error:
        raise RunError(f"cannot write to {config.folder}: {why_unwritable(error)}; choose another output=") from None
    if results is not None and (taken := take_results(plan, results)):
        console.print(f"{taken} results taken from {results}", markup=False)
    todo = open_trials(plan, trials)
    done = len(trials) - len(todo)
    console.print(f"{config.name}: {len(trials)} trials, {done} of them done → {config.folder}", markup=False)
    found = Comparison(config.folder)
    if todo:
        engine = engine_of(config)
        try:
            _prepare(engine, config, todo, found.failed)
            _run(engine, [trial for trial in todo if trial.setup.key not in found.failed], found.failed)
        finally:
            engine.close()
    found.left = len(open_trials(plan, trials))
    found.done = len(trials) - found.left
    if not found.left and not only:
        shutil.rmtree(config.folder / TRIALS, ignore_errors=True)  # of trials that are no longer asked for
    found.pages = publish(config, docs=docs)
    return found


def open_trials(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have no result of their present settings."""
    done = Results(plan.config.folder / RESULTS).done()
    return [trial for trial in trials if (trial.key, trial.settings) not in done]


def _prepare(engine: Engine, config: CompareConfig, trials: Sequence[Trial], failed: dict[str, str]) -> None:
    """Teachers and signals of each setup; where that fails, its trials have failed, and the others go on."""
    jobs = [Job("prepare", key) for key in dict.fromkeys(trial.setup.key for trial in trials)]
    progress = _Progress(len(jobs))
    for outcome in engine.run(jobs):
        progress.print(outcome, outcome.key)
        if outcome.status == "failed":
            failed[outcome.key] = outcome.error
    for trial in trials:
        if trial.setup.key in failed:
            record_failure(config, Job("trial", trial.key), failed[trial.setup.key])


def _run(engine: Engine, trials: Sequence[Trial], failed: dict[str, str]) -> None:
    """All trials; those that another command runs are looked at again until they are done, or free."""
    titles = {trial.key: trial.title for trial in trials}
    jobs = [Job("trial", trial.key) for trial in trials]
    progress = _Progress(len(jobs))
    while jobs:
        busy = []
        for outcome in engine.run(jobs):
            if outcome.status == "busy":
                busy.append(Job("trial", outcome.key))
                continue
            progress.print(outcome, titles[outcome.key])
            if outcome.status == "failed":
                failed[outcome.key] = outcome.error
        if busy:
            console.print(f"{len(busy)} trials are being run by another command; waiting for them", markup=False)
            time.sleep(POLL_SECONDS)
        jobs = busy


class _Progress:
    """A line per job that has ended, with the time that the others will take at this pace."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def print(self, outcome: Outcome, title: str) -> None:
        self.done += 1
        left = self.total - self.done
        if outcome.status == "failed":
            console.print(f"[{self.done}/{self.total}] FAILED {title}: {outcome.error}", markup=False)
            return
        each = (time.monotonic() - self.started) / self.done
        rest = f", about {duration(left * each)} left" if left else ""
        took = f"{outcome.summary} ({duration(outcome.seconds)})"
        console.print(f"[{self.done}/{self.total}] {title}: {took}{rest}", markup=False)


def failed_text(found: Comparison, limit: int = 6) -> str:
    """The failures, for the end of the command."""
    shown = [f"  {key}: {error}" for key, error in list(found.failed.items())[:limit]]
    more = [f"  … and {len(found.failed) - limit} more"] if len(found.failed) > limit else []
    where = f"tracebacks: {found.folder / 'failed'}; the same command tries them again"
    return "\n".join([f"{len(found.failed)} failed:", *shown, *more, where])
