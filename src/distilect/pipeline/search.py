"""`search: {budget: 2h}`: settings chosen on the validation split, by successive halving.

All choices are trained for a short time; the better third of them again, from the start, for three times as long; and so on until one is left
(Jamieson and Talwalkar, 2016, arXiv 1502.07943). Each round costs the same. dev is out of reach. What was found is kept beside the run and reused.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distilect import ranks
from distilect.config import (
    MethodConfig,
    RunConfig,
    StudentConfig,
    TrainConfig,
    dump_config,
    parse_part,
    seconds_of,
    set_value,
)
from distilect.errors import ConfigError
from distilect.files import atomic_write
from distilect.pipeline.budget import PLAN, epoch_seconds
from distilect.pipeline.folders import SEARCH
from distilect.pipeline.job import distil
from distilect.pipeline.metrics import score_text
from distilect.pipeline.pace import measure_pace
from distilect.pipeline.stages import prepare_stages
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.report.words import duration
from distilect.tasks import Task

FOUND = "found.json"  # what a search chose, in its folder
RATES = (0.5, 1.0, 2.0, 4.0)  # of the learning rate that is set, where the config lists nothing to try
_KEPT = 3  # of so many choices, one goes on
_LEAST = 0.5  # epochs of a first round


def choices(tune: Mapping[str, Sequence[Any]], task: Task | None = None) -> list[dict[str, Any]]:
    """All combinations of the values that `tune` lists; in a regression without temperatures, which have no effect there."""
    found: list[dict[str, Any]] = [{}]
    for key, values in tune.items():
        if task is None or task.kind != "regression" or key.rpartition(".")[2] != "temperature":
            found = [{**choice, key: value} for choice in found for value in values]
    return found


def with_choice(config: RunConfig, choice: Mapping[str, Any]) -> RunConfig:
    """The config with some settings of its method, of `train.` or of `student` replaced; keys may have dots."""
    raw: dict[str, Any] = {
        "method": config.method.model_dump(exclude_none=True),
        "train": config.train.model_dump(),
        "student": config.student.model_dump(),
    }
    for key, value in choice.items():
        path = key.split(".")
        set_value(raw, path if path[0] in raw else ["method", *path], value, f"tune.{key}={value!r}")
    if isinstance(raw["student"], str):
        raw["student"] = config.student.model_dump() | {"init": raw["student"]}
    parts = {
        "method": MethodConfig.model_validate(raw["method"]),
        "train": parse_part(TrainConfig, raw["train"]),
        "student": parse_part(StudentConfig, raw["student"]),
    }
    return config.model_copy(update=parts)


def rounds(count: int) -> list[int]:
    """How many choices each round trains: 9, 3 of 9; the last round decides between the rest."""
    found = [count]
    while found[-1] > _KEPT:
        found.append(math.ceil(found[-1] / _KEPT))
    return found


def searched(config: RunConfig, bench: Workbench) -> RunConfig:
    """The config with the best choice in it.

    Raises:
        ConfigError: there is no validation split to choose by, or the budget is too small.
    """
    assert config.search is not None
    task = bench.data.task
    tune = config.search.tune or {"train.learning_rate": [rate * config.train.learning_rate for rate in RATES]}
    found = choices(tune, task)
    if not len(bench.data.validation):
        raise ConfigError("search: there is no validation split to choose by: set data.validation_size")
    folder = Path(config.output) / SEARCH / f"{config.name}-{_digest(config, bench)}"
    file = folder / FOUND
    if not ranks.from_main(int(file.exists())):
        hidden = replace(bench, data=replace(bench.data, dev=None), speeds=None)
        tried = _halving(config, hidden, found, folder)
        if ranks.is_main():
            atomic_write(file, json.dumps({"chosen": tried[-1]["choice"], "tried": tried}, indent=1) + "\n")
            for path in folder.glob("round-*"):
                shutil.rmtree(path, ignore_errors=True)
            (folder / PLAN).unlink(missing_ok=True)
        ranks.barrier()
    chosen: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["chosen"]
    console.print(f"search: {_text(chosen)} → {file}", markup=False)
    return with_choice(config, chosen).model_copy(update={"search": None})


def _halving(config: RunConfig, bench: Workbench, found: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """All trainings, in order; the last one is of the best choice."""
    assert config.search is not None
    primary = bench.data.task.primary
    counts, tried = rounds(len(found)), list[dict[str, Any]]()
    plan = folder / PLAN  # of a search that was stopped: measured again, the lengths would be others
    if not ranks.from_main(int(plan.exists())):
        measured = _lengths(config, bench, counts)
        if ranks.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(plan, json.dumps(measured))
        ranks.barrier()
    lengths = json.loads(plan.read_text(encoding="utf-8"))
    for number, (count, epochs) in enumerate(zip(counts, lengths, strict=True), start=1):
        of_round = list[dict[str, Any]]()
        for place, choice in enumerate(found[:count]):
            name = f"round-{number}-{place}"
            single = with_choice(config, choice).model_copy(update={"name": name, "search": None, "budget": None})
            train = single.train.model_copy(update={"epochs": epochs, "token_budget": None})
            single = single.model_copy(update={"train": train, "baselines": []})
            validation = trained(replace(bench, config=single), folder / name)["student"]["validation"]
            console.print(f"search, round {number}: {_text(choice)}: {score_text(validation)}", markup=False)
            of_round.append({"choice": choice, "epochs": epochs, "validation": validation})
        of_round.sort(key=lambda one: -float(one["validation"][primary]))  # stable: of equals the first
        found = [one["choice"] for one in of_round]
        tried += reversed(of_round)
    return tried


def trained(bench: Workbench, folder: Path) -> dict[str, Any]:
    """Metrics of the bench's student; goes on where an earlier attempt was stopped, even after its last file was written."""
    recorded, done = folder / "config.yaml", folder / "metrics.json"
    if ranks.is_main() and recorded.exists() and recorded.read_text(encoding="utf-8") != dump_config(bench.config):
        shutil.rmtree(folder)  # begun with other settings
    if not ranks.from_main(int(done.exists())):
        return distil(bench, folder, bench.config, False, report=False).metrics
    return dict(json.loads(done.read_text(encoding="utf-8")))


def _lengths(config: RunConfig, bench: Workbench, counts: Sequence[int]) -> list[float]:
    """Epochs of each round: an equal part of the budget over its trainings; never more than the run's own."""
    assert config.search is not None
    student, fixed, epoch = bench.new_student(), 0.0, 0.0
    held = len(bench.data.validation)
    for ready in prepare_stages(replace(bench, config=config), student):
        train = ready.stage.train
        pace = measure_pace(student, ready.rows, ready.method, ready.prepared, train, config.seed, held)
        cost = epoch_seconds(pace, train, held)
        fixed += 0.0 if ready.stage.share else train.epochs * cost
        epoch += ready.stage.share * cost
    budget = seconds_of(config.search.budget)
    parts = [budget / len(counts) / count for count in counts]  # seconds of a training in each round
    lengths = [min(config.train.epochs, math.floor(10 * (part - fixed) / max(epoch, 1e-9)) / 10) for part in parts]
    if lengths[0] < _LEAST:
        needed = len(counts) * counts[0] * (fixed + _LEAST * epoch)
        raise ConfigError(
            f"search.budget: {config.search.budget} is too little for {counts[0]} choices: give it {duration(needed)} or more, or fewer values"
        )
    return lengths


def _digest(config: RunConfig, bench: Workbench) -> str:
    """Of all that the search depends on."""
    values = config.model_dump(mode="json", exclude={"name", "output", "data_dir", "data", "baselines", "budget"})
    parts = [values, bench.data.train.fingerprint(), bench.data.validation.fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _text(choice: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in choice.items()
    )
