"""Where faults are put in: jobs that are run to the end, killed on the way, and run again.

A place is one line in `PLACES`; any method can be one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.helpers import Job

ROWS = {"score": 1200}  # the others train on the job's own table


@dataclass(frozen=True)
class Place:
    """A job and what must come out of it.

    Attributes:
        config: changes of the toy job's configuration.
        work: config → its whole work, in this process.
        result: the job's output folder → what has to be the same, whatever happened on the way.
    """

    name: str
    config: dict[str, Any]
    work: Callable[[Any], Any]
    result: Callable[[Path], dict[str, str]]


def _score(config: Any) -> None:
    from distilect.pipeline import score
    from distilect.signals import scoring

    scoring.CHUNK = 64  # several shards, as a large table has them
    score(config)


def _run(config: Any) -> None:
    from distilect.pipeline import run

    run(config)


def _store(output: Path) -> dict[str, str]:
    """Every shard with its bytes; nothing half-written under a shard's name."""
    return {str(p.relative_to(output)): _hash(p) for p in sorted(output.rglob("shard-*.safetensors"))}


def _run_folder(output: Path) -> dict[str, str]:
    """Weights, history, selections and scores of the finished run."""
    folder = output / "toy"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found = {name: _hash(folder / name) for name in ("history.jsonl", "selection.parquet", "student/model.safetensors")}
    artefact = folder / "selector" / "selector.safetensors"
    found |= {"selector": _hash(artefact)} if artefact.exists() else {}
    costs = {k: metrics["cost"][k] for k in ("steps", "tokens", "teacher_rows", "probed_rows")}
    return found | {"scores": json.dumps([metrics["student"]["scores"], metrics["student"]["validation"], costs])}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compare(config: Any) -> None:
    from distilect.errors import RunError
    from distilect.experiments import compare

    found = compare(config)
    if found.failed:
        raise RunError(f"trials failed: {found.failed}")


def _comparison(output: Path) -> dict[str, str]:
    """One line for each trial, with its scores and costs, and its predictions; what was measured in seconds is left out."""
    from distilect.experiments.results import RESULTS, Results

    found: dict[str, str] = {}
    for result in Results(output / "toy" / RESULTS).read():
        student, cost = result["student"], result["cost"]
        told = [student["scores"], student["validation"], cost["steps"], cost["student_tokens"]]
        found[result["trial"]] = found.get(result["trial"], "") + json.dumps(told)  # a second result would show
    predictions = (output / "toy" / "predictions").glob("*.parquet")
    return found | {path.name: _hash(path) for path in predictions}


def train_by(name: str, method: Any, **train: Any) -> Place:
    """Training by a method, with a checkpoint twice per epoch."""
    settings = {
        "epochs": 3,
        "batch_size": 16,
        "max_length": 32,
        "precision": "fp32",
        "logging_steps": 1,
        "evaluations": 2,
    }
    return Place(f"train {name}", {"method": method, "train": settings | train}, _run, _run_folder)


# RL-KD's preset with a shorter warm-up of its policy: the same code, less of it
RLKD = {"name": "rlkd", "teachers": {"policy_updates": 60}}
SMALL = {"episodes": 3, "share": 0.5, "phases": 2}
AKSKD = {"name": "akskd", "loss_weights": {"name": "actor-critic", **SMALL}}  # stage A, then stage B
# a teacher made on the way, three students, one of them with a stage of its own
COMPARED = {
    "methods": ["finetune", "kd", AKSKD | {"label": "akskd"}],
    "students": ["own[layers=1,3]"],
    "seeds": [0],
    "resamples": 100,
    "train": {
        "epochs": 2,
        "batch_size": 16,
        "max_length": 32,
        "precision": "fp32",
        "logging_steps": 1,
        "evaluations": 2,
    },
}
DATA = {"name": "dynamic-data", "rows": {"name": "uncertainty-plan", "refresh": 2}}

PLACES: dict[str, Place] = {
    place.name: place
    for place in (
        Place("score", {"method": {"name": "pkd", "teachers": "uniform"}}, _score, _store),
        train_by("rlkd", RLKD),
        train_by("dynamic-data", "dynamic-data"),
        train_by("dynamic-data, planned", DATA),
        train_by("akskd", AKSKD),
        Place("compare", COMPARED, _compare, _comparison),
    )
}


class Scene:
    """A toy job on disk, from whose start every attempt begins: teachers and tables are shared, its output is its own."""

    def __init__(self, folder: Path) -> None:
        self.job = Job(folder)
        self.folder = folder

    def config(self, place: Place, output: Path) -> Any:
        changes = dict(place.config)
        if place.work is _compare:
            return self._comparison(changes, output)
        if place.name in ROWS:
            from tests.pipeline.helpers import write_table

            many = self.folder / f"many-{ROWS[place.name]}.csv"
            if not many.exists():
                write_table(many, ROWS[place.name])
            changes["data"] = {"train": str(many), "dev": str(self.job.dev)}
        return self.job.config(output=str(output), **changes)

    def _comparison(self, changes: dict[str, Any], output: Path) -> Any:
        from distilect.config import parse_part
        from distilect.experiments.config import CompareConfig

        own = {"name": "own", "finetune": {"init": self.job.teachers[0], "epochs": 1, "seed": 4}}
        tables = {"train": str(self.job.train), "dev": str(self.job.dev)}
        raw = {"name": "toy", "output": str(output), "tasks": [{"name": "one", "data": tables}], "teachers": [own]}
        return parse_part(CompareConfig, raw | {"signals": {"precision": "fp32"}} | changes)

    def start(self, place: Place, output: Path) -> None:
        """The output as it is before the work that is killed: training finds its signals scored."""
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        if place.work is _run:
            prepared = self.folder / f"start-{hashlib.sha256(place.name.encode()).hexdigest()[:8]}"
            if not prepared.exists():
                from distilect.pipeline import score

                score(self.config(place, prepared))
            shutil.copytree(prepared, output, dirs_exist_ok=True)
