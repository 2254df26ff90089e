"""Many students of one work, each measured once: the ground of all comparisons in `benchmarks/`.

A line of the result file is one student; lines that are there already are not run again, so a stopped experiment goes on and
several processes may share one file. Checkpoints and reports of the product are left out, everything else is the product.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.common import made
from distilect.config import MethodConfig, RunConfig, TrainConfig
from distilect.data import encode
from distilect.pipeline.assembly import training_rows
from distilect.pipeline.job import learn_selection
from distilect.pipeline.work import Workbench
from distilect.training import fit

# name → method of an experiment, or what trains its student: (bench, folder, seed) → its line
Methods = dict[str, Any]

_STAGE_A = ("learned", "fingerprint", "episodes", "seconds", "steps", "rows", "probed_rows")
_TRAIN = set(TrainConfig.model_fields)  # a method of an experiment may bring its own


class Results:
    """A JSONL file of runs, found again by their key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]

    def has(self, **key: Any) -> bool:
        return any(all(line.get(k) == v for k, v in key.items()) for line in self.lines())

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()


@contextmanager
def claimed(results: Results, **key: Any) -> Iterator[bool]:
    """Whether this process may run `key`: nobody has its result or is at it (a lock that dies with its process)."""
    name = "-".join(str(v).replace("/", "_") for v in key.values())
    lock = Path(tempfile.gettempdir()) / "distilect-lab" / f"{results.path.stem}-{name}.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not results.has(**key)


def train_student(bench: Workbench, method: dict[str, Any] | str, folder: Path, seed: int) -> dict[str, Any]:
    """Train one student and score it on dev: scores, selections of the last epoch, last health values, cost."""
    spec = {"name": method} if isinstance(method, str) else dict(method)
    own = {k: spec.pop(k) for k in list(spec) if k in _TRAIN}
    train = bench.config.train.model_copy(update={"resumable": False, **own})  # a stopped one is run again
    config: RunConfig = bench.config.model_copy(
        update={"seed": seed, "method": MethodConfig.model_validate(spec), "train": train}
    )
    bench = replace(bench, config=config)
    started = time.perf_counter()
    student = bench.new_student()
    built, prepared = bench.prepare(config.method, student)
    table = bench.data.distillation if built.teachers is not None else bench.data.train
    rows = training_rows(student, table, bench.data.validation, bench.data.task)
    folder.mkdir(parents=True, exist_ok=True)
    selection = learn_selection(bench, config, built, prepared, rows, folder)
    trainer, fitted = fit(
        student,
        rows,
        built,
        prepared.source,
        config.train,
        folder,
        seed=seed,
        description=folder.name,
        vectors=prepared.vectors,
    )
    dev = bench.data.dev
    assert dev is not None
    logits = trainer.predict_rows(encode(dev, student.tokenizer, student.max_length))
    record = pq.read_table(folder / "selection.parquet").to_pylist()
    return {
        "scores": {k: round(v, 5) for k, v in bench.data.task.score(logits, dev.labels).items()},
        "validation": {k: round(v, 5) for k, v in fitted.validation.items()},
        "selection": [_rounded(line) for line in record if line["group"] == "all"],
        "health": _last_health(folder / "history.jsonl"),
        "method_spec": config.method.model_dump(exclude_none=True),
        "train_seconds": round(fitted.seconds, 1),
        "probed_rows": fitted.probed,
        "trained_rows": trainer.counts.rows,
        "teacher_rows": fitted.asked,
        **({"stage_a": {k: selection.get(k) for k in _STAGE_A}} if selection is not None else {}),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "rows": {"train": len(bench.data.train), "all": len(table), "dev": len(dev)},
        "train": config.train.model_dump(exclude_defaults=True),
        "made": made(),
    }


def run_all(
    config: RunConfig,
    methods: Methods,
    results: Results,
    work: Path,
    seed: int,
    ready: Callable[[Workbench], None] | None = None,
    **key: Any,
) -> None:
    """Every method with one seed, each in its turn; what has a result, or is being run by another process, is left out."""
    if all(results.has(method=name, seed=seed, **key) for name in methods):
        return
    bench = Workbench.open(config, {})
    if ready is not None:
        ready(bench)
    scores = teacher_scores(bench)
    for name, method in methods.items():
        with claimed(results, method=name, seed=seed, **key) as mine:
            if not mine:
                continue
            folder = work / "students" / "-".join([name, str(seed), *map(str, key.values())])
            shutil.rmtree(folder, ignore_errors=True)
            line = method(bench, folder, seed) if callable(method) else train_student(bench, method, folder, seed)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            results.add({"method": name, "seed": seed, **key, **line, "teachers": scores})
            print(results.path.stem, name, seed, key, line.get("scores"), f"{line['wall_seconds']:.0f} s", flush=True)


def teacher_scores(bench: Workbench) -> dict[str, dict[str, float]]:
    """Each teacher on dev and on the rows held out of train."""
    dev = bench.data.dev
    assert dev is not None
    found = {}
    for teacher in bench.teachers:
        scores = bench.data.task.score(bench.outputs(teacher, dev), dev.labels)
        found[teacher.name] = {k: round(v, 5) for k, v in scores.items()}
    return found


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}


def _last_health(path: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, float] = {}
    for line in lines:
        found |= {k: round(v, 4) for k, v in line.items() if k.startswith(("policy/", "reward/", "actor/"))}
    return found
