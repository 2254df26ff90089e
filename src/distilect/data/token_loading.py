"""Load the tables of a run whose student is a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distilect.config import DataConfig, TaskConfig
from distilect.data.arrow_files import validation_split
from distilect.data.columns import Columns
from distilect.data.loading import Data, report_overlap, table_name
from distilect.data.readers import locate, open_source
from distilect.data.source import Source
from distilect.data.splits import hold_out
from distilect.data.table import Table
from distilect.data.token_rows import TokenReader, TokenTable, choose_token_columns
from distilect.errors import ConfigError, DataError
from distilect.tasks import Task, default_metrics

_REFUSED = {
    "glue": "GLUE has no task for language models",
    "label": "the completion is what is learned",
    "label_delimiter": "the completion is what is learned",
    "cache": "tables for language models are read into memory",
    "augment": "changed copies of a text are none that a model should write",
}


def load_token_data(
    config: DataConfig, task: TaskConfig, seed: int, reader: TokenReader, data_dir: Path = Path(".")
) -> Data:
    """Read, tokenise and split the tables of a run.

    On the rows of `extra` the student learns from the teachers alone: their completions are read, and are no labels.

    Raises:
        DataError: a file, column or row that cannot be used.
        ConfigError: a setting that does not belong to language models.
    """
    for key, reason in _REFUSED.items():
        if getattr(config, key) is not None:
            raise DataError(f"data.{key} is set, but task.kind is causal-lm: {reason}.\nRemove data.{key}")
    if config.train is None:
        raise DataError("no training rows: set data.train to a table")
    files = _Files(config, reader, Path(data_dir), [])
    found = files.read("train")
    assert found is not None
    task_found = token_task(task, table_name(locate(config.train, Path(data_dir))[0]))
    train, validation, dev, extra = found, files.read("validation"), files.read("dev"), files.read("extra")
    if validation is None:
        kept, out = hold_out(found, config.validation_size, seed)
        train, validation = found.take(kept), found.take(out)
        files.report.append(f"validation: {len(out):,} rows held out of train, {len(kept):,} remain")
    if dev is None:
        files.report.append("dev: none given; scores are those of the validation rows")
    for role, table in (("validation", validation), ("dev", dev)):
        files.report += [] if table is None else report_overlap(role, table, train)
    line = f"task {task_found.name}: each token follows from those before it, scored by {', '.join(task_found.metrics)}"
    extra = None if extra is None else extra.without_labels()
    return Data(task_found, train, validation, dev, extra, [line, *files.report])


def load_token_table(
    spec: str, reader: TokenReader, *, text: str | list[str] | None = None, task: TaskConfig, data_dir: Path
) -> tuple[Table, Task, list[str]]:
    """One table to evaluate a language model on, its task, and lines for the user.

    Raises:
        DataError, ConfigError: as `load_token_data`.
    """
    source = open_source(spec, data_dir, role="dev")
    columns = choose_token_columns(source, text)
    found = reader.read(source.read(columns.names), columns, "evaluated")
    return found.table, token_task(task, table_name(locate(spec, data_dir)[0])), found.report("evaluated")


def token_task(given: TaskConfig, name: str) -> Task:
    """The task of a language model.

    Raises:
        ConfigError: labels, a class, or metrics that it does not have.
    """
    for key in ("labels", "positive"):
        if getattr(given, key) is not None:
            raise ConfigError(f"task.{key} is set, but task.kind is causal-lm, whose classes are tokens: remove it")
    return Task(name, "causal-lm", (), tuple(given.metrics or default_metrics("causal-lm", 0)), 1)


@dataclass
class _Files:
    """The tables of a config, each appends its lines to `report`."""

    config: DataConfig
    reader: TokenReader
    data_dir: Path
    report: list[str]
    columns: Columns | None = None  # those of train

    def read(self, role: str) -> Table | None:
        """The table for `role`; None if the config names none."""
        source = self._open(role)
        if source is None:
            return None
        columns = self._columns(source)
        limit = self.config.max_train_rows if role == "train" else None
        found = self.reader.read(source.read(columns.names, limit), columns, role)
        self._say(role, source, columns, found)
        return found.table

    def _open(self, role: str) -> Source | None:
        config, spec = self.config, getattr(self.config, role)
        if role == "dev" and spec is None:  # a `datasets` folder with several splits may have one for it
            path, base, _ = locate(config.train or "", self.data_dir)
            split = validation_split(path)
            spec = f"{base}[{split}]" if split else None
        if spec is None:
            return None
        source = open_source(
            spec, self.data_dir, role=role, delimiter=config.delimiter, quoting=config.quoting, name=config.name
        )
        self.report += [f"{role}: {note}" for note in source.notes]
        return source

    def _columns(self, source: Source) -> Columns:
        if self.columns is None:
            self.columns = choose_token_columns(source, self.config.text)
            return self.columns
        same = set(self.columns.texts) <= set(source.columns)
        return replace(self.columns, inferred=False) if same else choose_token_columns(source, self.config.text)

    def _say(self, role: str, source: Source, columns: Columns, found: TokenTable) -> None:
        table = found.table
        repeats = len(table) - len(np.unique(table.ids, axis=0))
        repeated = f", {repeats:,} repeats of a text kept" if repeats else ""
        self.report.append(f"{role}: {len(table):,} rows from {source.label}{repeated}; {columns}")
        self.report += found.report(role)
