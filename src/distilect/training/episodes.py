"""Stage A: a selector learns over episodes, short trainings of students that are thrown away."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilect import progress, ranks
from distilect.config import TrainConfig
from distilect.errors import RunError
from distilect.files import atomic_write
from distilect.models import Student, quiet, set_dropout
from distilect.selection import Episodes, EpisodicSelector, Method, artefact, draw_rows
from distilect.signals import SignalSource
from distilect.training import distributed
from distilect.training.callbacks import Hooks
from distilect.training.rows import TrainingRows
from distilect.training.state import load_state, save_state
from distilect.training.trainer import DistillationTrainer

FOLDER, STATE, JOURNAL = "stage-a", "state.safetensors", "stage-a.jsonl"


@dataclass
class StageA:
    """What the episodes cost, over all resumed parts.

    Attributes:
        episodes: how many are done.
        seconds: wall time.
        steps, tokens, rows: optimiser steps, tokens and rows that were trained on.
        student_tokens: these tokens and a third of those that students were run on beside the steps.
        probed_rows: rows that students were run on beside the steps, for states and rewards.
        resumed: the episode that this process went on from.
    """

    episodes: int = 0
    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    rows: int = 0
    student_tokens: float = 0.0
    probed_rows: int = 0
    resumed: int = 0

    def add(self, trainer: DistillationTrainer, seconds: float) -> None:
        """One more episode, of all ranks."""
        counts = trainer.counts
        self.episodes += 1
        self.seconds += seconds
        self.steps += trainer.state.global_step
        self.tokens += int(ranks.total(counts.tokens))
        self.rows += int(ranks.total(counts.rows))
        self.student_tokens += ranks.total(counts.student_tokens)
        self.probed_rows += int(ranks.total(counts.extra.get("probed_rows", 0)))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": round(self.seconds, 3), "student_tokens": round(self.student_tokens)}


def run_episodes(
    new_student: Callable[[int], Student],
    rows: TrainingRows,
    method: Method,
    source: SignalSource | None,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    description: str,
    vectors: SignalSource | None = None,
) -> StageA:
    """Let the loss-weight selector learn over its episodes; a killed stage goes on after the last whole one.

    Every episode has a fresh student and fresh copies of everything else that learns; draws are a function of (seed, episode).
    Writes `stage-a/` (state) and `stage-a.jsonl` (a line per phase) into `folder`.

    Args:
        new_student: seed → a student as it is before training.
    """
    selector = method.loss_weights
    assert isinstance(selector, EpisodicSelector) and selector.episodes is not None
    plan = selector.episodes
    state, journal = folder / FOLDER / STATE, folder / JOURNAL
    done, lines = _resume(state, journal, selector)
    with progress.bar() as bar:  # one over all episodes, so that its ETA is that of the stage
        task = bar.add_task(f"{description} · stage A", total=None)
        for number in range(done.episodes, plan.count):
            started = time.perf_counter()
            student = new_student(seed + 1 + number)
            if config.dropout is not None:
                set_dropout(student.model, config.dropout)
            fresh = copy.deepcopy(method, {id(selector): selector})  # all but the selector that learns
            selector.begin_episode(number)
            trainer = DistillationTrainer(
                student.model,
                rows.take(episode_rows(rows, plan, config, seed, number)),
                fresh,
                source,
                config.model_copy(update={"token_budget": None}),
                folder / FOLDER,
                seed=int(np.random.SeedSequence([seed % 2**64, number]).generate_state(1)[0]),
                vectors=vectors,
                saves=False,
            )
            steps = trainer.args.max_steps
            text = f"{description} · stage A · episode {number + 1} of {plan.count}"
            bar.update(task, description=text, total=plan.count * steps, completed=number * steps)
            with quiet():
                trainer.add_callback(Hooks(on_step_end=lambda state, control: bar.advance(task)))
                trainer.train()
            if ranks.world() > 1:
                distributed.same_everywhere(fresh.selectors)
            done.add(trainer, time.perf_counter() - started)
            if ranks.is_main():  # the journal first, as resuming cuts it to the episodes of the state
                lines += selector.journal
                _write_lines(journal, lines)
                save_state({"selector": selector.state_dict(), "done": asdict(done)}, state)
            del trainer, student, fresh
            gc.collect()  # a Trainer holds itself in circles: its student and optimiser would stay in memory
    return done


def episode_rows(rows: TrainingRows, plan: Episodes, config: TrainConfig, seed: int, number: int) -> NDArray[np.int64]:
    """int64 [n]: positions of the rows of an episode, drawn by identity; at least so many that it has its `least_steps`."""
    least = int(np.ceil(plan.least_steps * config.batch_size / config.epochs))
    count = max(round(plan.share * len(rows)), least, config.batch_size)
    drawn = draw_rows(rows.row_keys, count, seed, number, "episode")
    return np.flatnonzero(np.isin(rows.row_keys.numpy(), drawn.numpy()))


def episodes_begun(folder: Path) -> bool:
    """Whether a run's folder holds episodes that would be lost."""
    return (folder / FOLDER / STATE).exists() or (folder / artefact.FOLDER).exists()


def drop_episodes(folder: Path) -> None:
    """Once the selection module is saved: its learning need not be resumed any more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _resume(state: Path, journal: Path, selector: EpisodicSelector) -> tuple[StageA, list[dict[str, Any]]]:
    """What was done before, and its journal; the selector as it was then."""
    state.parent.mkdir(parents=True, exist_ok=True)
    ranks.barrier()  # all ranks see the same file, or none
    done, lines = StageA(), []
    if state.exists():
        try:
            found = load_state(state)
        except RunError as error:
            raise RunError(f"{error}; or remove {state.parent} to begin stage A anew") from None
        selector.load_state_dict(found["selector"])
        done = StageA(**found["done"])
        done.resumed = done.episodes
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line["episode"] < done.episodes]
    if ranks.is_main():
        _write_lines(journal, lines)
    return done, lines


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines))
