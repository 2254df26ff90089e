"""Stage A: a selector learns over episodes, short trainings of students that are thrown away."""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilect import progress, ranks
from distilect.config import TrainConfig
from distilect.data import row_keys
from distilect.errors import RunError
from distilect.models import Student, quiet
from distilect.selection import Episodes, Method, artefact, draw_rows
from distilect.signals import SignalSource
from distilect.training import distributed
from distilect.training.fit import set_dropout
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
        probed_rows: rows that students were run on beside the steps, for states and rewards; backward passes count double.
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
    selector: Any = method.loss_weights
    plan: Episodes = selector.episodes
    state = folder / FOLDER / STATE
    done = _resume(state, selector, folder / JOURNAL)
    done.resumed = done.episodes
    short = config.model_copy(
        update={
            "load_best_model_at_end": False,
            "early_stopping_patience": None,
            "evaluations": 1,
            "token_budget": None,
        }
    )
    bar = _EpisodeBar(f"{description} · stage A", plan.count, done.episodes)
    try:
        for number in range(done.episodes, plan.count):
            started = time.perf_counter()
            bar.begin(number)
            some = rows.take(episode_rows(rows, plan, config, seed, number))
            student = new_student(seed + 1 + number)
            if config.dropout is not None:
                set_dropout(student.model, config.dropout)
            fresh = copy.deepcopy(method, {id(selector): selector})  # all but the selector that learns
            fresh_seed = int(np.random.SeedSequence([seed % 2**64, number]).generate_state(1)[0])
            selector.begin_episode(number)
            trainer = DistillationTrainer(
                student.model,
                some,
                fresh,
                source,
                short,
                folder / FOLDER,
                fresh_seed,
                callbacks=[bar] if ranks.is_main() else [],
                vectors=vectors,
                saves=False,
            )
            with quiet():
                trainer.train()
            if ranks.world() > 1:
                distributed.same_everywhere(fresh.selectors)
            _add(done, trainer, time.perf_counter() - started)
            if trainer.is_world_process_zero():
                _keep(state, selector, folder / JOURNAL, done)
            del trainer, student, fresh
            gc.collect()  # a Trainer holds itself in circles: its student and optimiser would stay in memory
    finally:
        bar.close()
    return done


def episode_rows(rows: TrainingRows, plan: Episodes, config: TrainConfig, seed: int, number: int) -> np.ndarray:
    """int64 [n]: positions of the rows of an episode, drawn by identity; at least so many that it has its `least_steps`."""
    table = rows.table
    least = int(np.ceil(plan.least_steps * config.batch_size / config.epochs))
    count = min(len(table), max(round(plan.share * len(table)), least, config.batch_size))
    keys = row_keys(table.ids)
    drawn = draw_rows(torch.from_numpy(keys), count, seed, number, "episode").numpy()
    return np.flatnonzero(np.isin(keys, drawn))


def episodes_begun(folder: Path) -> bool:
    """Whether a run's folder holds episodes that would be lost."""
    return (folder / FOLDER / STATE).exists() or (folder / artefact.FOLDER).exists()


def drop_episodes(folder: Path) -> None:
    """Once the selection module is saved: its learning need not be resumed any more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _resume(state: Path, selector: Any, journal: Path) -> StageA:
    """What was done before; the selector as it was then."""
    state.parent.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    if not state.exists():
        _write_lines(journal, [])
        return StageA()
    try:
        found = load_state(state)
    except RunError as error:
        raise RunError(f"{error}; or remove {state.parent} to begin stage A anew") from None
    selector.load_state_dict(found["selector"])
    done = StageA(**{f.name: found["done"][f.name] for f in fields(StageA)})
    if ranks.is_main():
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        _write_lines(journal, [line for line in lines if line["episode"] < done.episodes])
    return done


def _keep(state: Path, selector: Any, journal: Path, done: StageA) -> None:
    """After an episode; the journal first, as resuming cuts it to the episodes of the state."""
    with journal.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in selector.journal)
    save_state({"selector": selector.state_dict(), "done": asdict(done)}, state)


def _add(done: StageA, trainer: DistillationTrainer, seconds: float) -> None:
    done.episodes += 1
    done.seconds += seconds
    done.steps += trainer.state.global_step
    done.tokens += int(ranks.total(trainer.counts.tokens))
    done.rows += int(ranks.total(trainer.counts.rows))
    done.student_tokens += ranks.total(trainer.counts.student_tokens)
    done.probed_rows += int(ranks.total(trainer.counts.extra.get("probed_rows", 0)))


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    if not ranks.is_main():
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)


class _EpisodeBar(TrainerCallback):
    """One bar over the steps of all episodes, so that its ETA is that of the stage."""

    def __init__(self, description: str, episodes: int, done: int) -> None:
        self.description, self.episodes, self.done = description, episodes, done
        self.number, self.task = 0, TaskID(0)
        self.display: Progress | None = None

    def begin(self, number: int) -> None:
        self.number = number

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        text = f"{self.description} · episode {self.number + 1} of {self.episodes}"
        if self.display is None:
            self.display = progress.bar()
            self.display.start()
            total = state.max_steps * self.episodes
            self.task = self.display.add_task(text, total=total, completed=state.max_steps * self.done)
        self.display.update(self.task, description=text)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.display is not None:
            self.display.advance(self.task)

    def close(self) -> None:
        if self.display is not None:
            self.display.stop()
            self.display = None
