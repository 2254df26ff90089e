"""What the student and its teachers write for prompts of dev, beside the true completions: `generations.jsonl`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilect import ranks
from distilect.config import GenerationConfig
from distilect.data import Table
from distilect.evaluation import Prompts, check_rouge, completion_scores, decoded, prompts_of, write_completions
from distilect.files import atomic_write
from distilect.models import CheckpointTeacher, Student
from distilect.pipeline.work import Workbench
from distilect.progress import track

GENERATIONS = "generations.jsonl"


@dataclass(frozen=True)
class Generations:
    """Completions of some dev rows.

    Attributes:
        prompts: what was asked; None: nothing.
        texts: by `student` or `teacher/NAME`, one for each prompt.
        unfinished: by the same names, how many were cut at their longest length.
    """

    prompts: Prompts | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    unfinished: dict[str, int] = field(default_factory=dict)

    def scores(self, name: str) -> dict[str, float]:
        """Of one model; {} where it has written nothing."""
        if self.prompts is None or name not in self.texts:
            return {}
        return completion_scores(self.prompts.completions, self.texts[name], self.prompts.config.answer_after)

    def about(self) -> dict[str, Any]:
        """Of `metrics.json`."""
        if self.prompts is None:
            return {}
        marked = {"answer_after": marker} if (marker := self.prompts.config.answer_after) is not None else {}
        return {"generation": {"rows": len(self.prompts.rows), **marked, "unfinished": self.unfinished}}

    def write(self, path: Path) -> None:
        """One line per row: its place in dev, prompt, true completion, and what each model wrote."""
        if self.prompts is None:
            return
        lines = []
        columns = zip(self.prompts.rows.tolist(), self.prompts.prompts, self.prompts.completions, strict=True)
        for place, (row, prompt, completion) in enumerate(columns):
            said = {name: texts[place] for name, texts in self.texts.items()}
            lines.append(json.dumps({"row": row, "prompt": prompt, "completion": completion} | said))
        atomic_write(path, "".join(f"{line}\n" for line in lines))


def prompts_for(bench: Workbench, student: Student) -> Prompts | None:
    """The dev rows that completions are written for; None where none are wanted.

    Raises:
        ConfigError: no row has a prompt and a whole completion, or none an answer.
    """
    config, dev = bench.config.generation, bench.data.dev
    return prompts_of(dev, student.tokenizer, config) if config.rows and dev is not None else None


def generations(bench: Workbench, student: Student, prompts: Prompts | None) -> Generations:
    """Completions by the student and by every teacher. All ranks call it, share the work and get all results."""
    if prompts is None:
        return Generations()
    said = _written("student", student.model, prompts, bench.config.train.precision)
    numbers = {"student": said, **teachers_write(bench, prompts)}
    room = {place: room for own, room in prompts.batches() for place in own.tolist()}
    cut = {name: sum(len(tokens) == room[n] for n, tokens in enumerate(said)) for name, said in numbers.items()}
    texts = {name: [decoded(student.tokenizer, tokens) for tokens in said] for name, said in numbers.items()}
    return Generations(prompts, texts, cut)


def teachers_write(bench: Workbench, prompts: Prompts | None) -> dict[str, list[NDArray[np.int64]]]:
    """By `teacher/NAME`: the tokens that it writes for each prompt, kept in the store."""
    if prompts is None:
        return {}
    own = [teacher for teacher in bench.teachers if isinstance(teacher, CheckpointTeacher)]
    return {f"teacher/{teacher.name}": _of_teacher(bench, teacher, prompts) for teacher in own}


def _of_teacher(bench: Workbench, teacher: CheckpointTeacher, prompts: Prompts) -> list[NDArray[np.int64]]:
    asked = [[tokens.tolist() for tokens in prompts.tokens], prompts.config.max_new_tokens, prompts.limit, prompts.stop]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    path = bench.store.root / teacher.fingerprint[:16] / f"written-{key}.json"
    kept = _read(path, len(prompts.rows)) if ranks.is_main() else None
    if ranks.from_main(int(kept is not None)):
        shared = ranks.gather({str(n): torch.from_numpy(tokens) for n, tokens in enumerate(kept or ())})[0]
        return [shared[str(n)].numpy() for n in range(len(prompts.rows))]
    found = _written(teacher.name, teacher.model, prompts, teacher.precision)
    if ranks.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps([tokens.tolist() for tokens in found]))
    return found


def _read(path: Path, rows: int) -> list[NDArray[np.int64]] | None:
    """What was written before; None where there is no such file, or it is damaged."""
    try:
        found = [np.array(tokens, np.int64).reshape(-1) for tokens in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return found if len(found) == rows else None


def _written(name: str, model: Any, prompts: Prompts, precision: str) -> list[NDArray[np.int64]]:
    """The tokens that a model writes for each prompt; each rank runs some of the batches."""
    batches = prompts.batches()
    mine: dict[str, torch.Tensor] = {}
    for own, room in track(batches[ranks.rank() :: ranks.world()], f"{name} writes completions"):
        said = write_completions(model, prompts, own, room, precision)
        mine |= {str(place): torch.from_numpy(tokens.copy()) for place, tokens in zip(own.tolist(), said, strict=True)}
    found = {key: tokens.numpy() for one in ranks.gather(mine) for key, tokens in one.items()}
    return [found[str(place)] for place in range(len(prompts.rows))]


def evaluated(table: Table, tokenizer: Any, model: Any, config: GenerationConfig, precision: str) -> dict[str, float]:
    """Scores of what a model writes for some rows of a table; {} where none are wanted.

    Raises:
        ConfigError: as `prompts_for`, or rouge-score is not installed.
    """
    if not config.rows:
        return {}
    check_rouge()
    prompts = prompts_of(table, tokenizer, config)
    said = [decoded(tokenizer, tokens) for tokens in _written("model", model, prompts, precision)]
    return completion_scores(prompts.completions, said, config.answer_after)
