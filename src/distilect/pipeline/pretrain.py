"""General distillation: a pre-trained model is brought into the student's shape on any text, once, before there is a task.

A cut destroys a model: half of its layers no longer understand each other. Hidden states and attention relations of the whole model heal it
(TinyBERT's first stage, Jiao et al., 2020; MiniLM, Wang et al., 2020). The result is a checkpoint that every task can start from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from distilect import ranks
from distilect.config import RunConfig, apply_overrides, parse_config, set_values
from distilect.data import Data, Table, open_texts, plain_texts
from distilect.errors import ConfigError
from distilect.files import atomic_write
from distilect.models import EncoderTeacher
from distilect.pipeline.budget import Deadline
from distilect.pipeline.folders import check_free, claim, owned, save_student
from distilect.pipeline.inputs import smaller, table_path
from distilect.pipeline.metrics import costs, machine, student_size, versions
from distilect.pipeline.stages import drop_stages, prepare_stages, train_stages
from distilect.pipeline.work import Workbench
from distilect.progress import console
from distilect.selection import likely_stages
from distilect.signals import SignalStore
from distilect.tasks import Task

TASK = Task("text", "regression", (), ("neg_mse",), 1)  # no label is ever seen; the head is thrown away


def pretrain(
    texts: Sequence[Any],
    *,
    init: str,
    output: str | Path,
    layers: int | None = None,
    budget: str | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Distil a pre-trained model into some of its layers, on texts without labels.

    A training that was stopped goes on.

    Args:
        texts: tables, as `train` of `distill`; two text columns are two texts. Equal texts count once.
        init: the pre-trained model: folder, hub id, or `package:…`.
        output: the run's folder; the model is in its `student/`, without a head.
        layers: of the student, evenly spaced; default: half of the model's.
        budget: time for the whole run; default: one epoch.
        overrides: settings as `key.sub=value`, such as `train.learning_rate=2e-4`.
        settings: other keys of a run's config, nested or dotted with `__`.

    Returns:
        the content of `metrics.json`.

    Raises:
        DistilectError: something cannot be read, or the model has another form than `keep` needs.
    """
    started = time.perf_counter()
    path = Path(output)
    files = [table_path(given, f"text-{number}", path.parent) for number, given in enumerate(texts, start=1)]
    if not files:
        raise ConfigError("no text: give one table of texts or more")
    config = _config(init, layers, path, files[0], budget, settings, overrides)
    deadline = Deadline.of(config.budget, started) if config.budget else None
    likely_stages(config.method, config.train)
    ranks.start()
    with owned([path]):
        if ranks.is_main():
            check_free(path, config, overwrite)
        names = [config.data.text] if isinstance(config.data.text, str) else config.data.text
        limit = config.data.max_train_rows
        table = all_texts([str(file) for file in files], names, Path(config.data_dir), limit)
        console.print(f"text: {len(table):,} texts of {len(files)} table(s)")
        backbone = EncoderTeacher(init, max_length=config.train.max_length, precision=config.signals.precision)
        store = SignalStore(path.parent / config.signals.store)
        bench = Workbench(config, Data(TASK, table, Table.from_texts([], [])), [backbone], 0.0, store, None)
        student = bench.new_student()
        stages = prepare_stages(bench, student)
        kept = student.vocabulary.report() if student.vocabulary is not None else []
        for line in dict.fromkeys([*kept, *stages[0].prepared.report, *stages[0].rows.report("student")]):
            console.print(line, markup=False)
        ranks.on_main(claim, path, config, overwrite)
        trained = train_stages(student, stages, path, deadline)
        headless = replace(student, model=student.model.base_model)
        ranks.on_main(save_student, headless, path / "student")
        metrics = {
            "name": config.name,
            "init": init,
            "texts": len(table),
            "kinds": list(stages[0].method.kinds),
            "losses": _last_losses(path / "history.jsonl"),
            "student": student_size(headless, path / "student"),
            "cost": costs(trained.fitted, trained.signals, trained.live_forwards, 0.0, None),
            "versions": versions(),
            "machine": machine(),
        }
        if ranks.is_main():
            atomic_write(path / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
            drop_stages(path)
        return metrics


def all_texts(files: Sequence[str], names: Sequence[str] | None, data_dir: Path, limit: int | None = None) -> Table:
    """The texts of some tables, one a row, equal ones once; lists of words as texts. `names`: of their columns, default: inferred."""
    found: list[pa.Array] = []
    for file in files:
        source, columns = open_texts(file, text=names, data_dir=data_dir)
        for block in source.blocks(columns):
            found += [column.cast(pa.large_string()) for column in plain_texts(block, columns)]
    texts = pa.chunked_array(found, pa.large_string()).unique()
    return Table.from_columns([texts if limit is None else texts[:limit]])


def _config(
    init: str,
    layers: int | None,
    path: Path,
    file: str | None,
    budget: str | None,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
) -> RunConfig:
    """`keep` without its outputs, which there are none of."""
    raw: dict[str, Any] = {
        "name": path.name,
        "output": str(path.parent),
        "data": {"train": file},
        "teachers": [{"name": "backbone", "path": init}],
        "student": smaller([{"path": init}], layers),
        "method": {"name": "keep", "stages": {"outputs": False}},
        "train": {"epochs": 1.0, "evaluations": 10},  # ten checkpoints an epoch: there is nothing to evaluate
        "budget": budget,
    }
    set_values(raw, settings)
    apply_overrides(raw, overrides)
    return parse_config(raw)


def _last_losses(file: Path) -> dict[str, float]:
    """Of each kind of knowledge, in the last line of the history."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    last: dict[str, float] = next((line for line in reversed(lines) if "train/loss" in line), {})
    return {name.removeprefix("train/loss_"): value for name, value in last.items() if name.startswith("train/loss_")}
