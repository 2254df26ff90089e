"""Load the tables of a run from its `DataConfig`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilect.config import DataConfig, TaskConfig
from distilect.data.arrow_files import validation_split
from distilect.data.columns import Columns, choose_columns, choose_text_columns, text_columns
from distilect.data.glue import COLA, GlueTask, open_glue, recognise, recognise_folder
from distilect.data.labels import LabelColumn
from distilect.data.readers import locate, open_source
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.data.splits import hold_out
from distilect.data.streaming import streamed_tables
from distilect.data.table import Table, identities
from distilect.errors import DataError
from distilect.tasks import Kind, Task, default_metrics, kind_of_metrics

_PEEK = 100_000  # rows of a streamed table that its task is inferred from
MANY = 100  # labels from which on "as many labels as rows" means a wrong column


@dataclass(frozen=True, eq=False)
class Data:
    """All rows of a run.

    Attributes:
        train: rows to learn from, without the validation rows.
        validation: labelled rows that train lacks, for rewards, early stopping and checkpoint choice.
        dev: reported on only; None where the config names none.
        extra: unlabelled rows for distillation.
        report: lines for the user: what was read, from which columns, how it was split.
    """

    task: Task
    train: Table
    validation: Table
    dev: Table | None = None
    extra: Table | None = None
    report: list[str] = field(default_factory=list)

    @property
    def distillation(self) -> Table:
        """train, then extra: every row that teachers may be run on."""
        return self.train if self.extra is None else Table.concat([self.train, self.extra])


def load_data(config: DataConfig, task: TaskConfig, seed: int, data_dir: Path = Path(".")) -> Data:
    """Read, check and split the tables of a run.

    Args:
        config: where the rows are; relative paths start at `data_dir`.
        task: kind, labels and metrics, each inferred where it is not given.
        seed: of the split; the same seed and texts give the same split, whatever the order of the rows.

    Raises:
        DataError: a file, column, row or label that cannot be used; one or two lines that name it.
        ConfigError: metrics or labels that do not fit.
    """
    return _Loader(config, Path(data_dir)).load(task, seed)


class _Loader:
    """The steps of `load_data`; each appends its lines to `report`."""

    def __init__(self, config: DataConfig, data_dir: Path) -> None:
        self.config, self.data_dir = config, data_dir
        self.report: list[str] = []
        self.glue: GlueTask | None = None
        self.glue_files: dict[str, Path] = {}
        if config.glue is not None:
            if config.train is not None or config.dev is not None:
                raise DataError("data.glue sets train and dev: remove data.train and data.dev, or data.glue")
            self.glue, train, dev = recognise_folder(data_dir / Path(config.glue).expanduser())
            self.glue_files = {"train": train, "dev": dev}
        elif config.train is None:
            raise DataError("no training rows: set data.train to a table, or data.glue to a GLUE folder")

    def load(self, settings: TaskConfig, seed: int) -> Data:
        """Train comes first: it defines the columns and the labels of all other tables."""
        config = self.config
        source = self._open("train")
        assert source is not None
        streamed = config.cache is not None
        if self.glue is not None and config.text is None and config.label is None:
            self.columns = self.glue.columns
        else:
            self.columns = choose_columns(source, config.text, config.label)
        first = min(config.max_train_rows or _PEEK, _PEEK) if streamed else config.max_train_rows
        column = _read_labels(source, self.columns, "train", first)
        name = self.glue.name if self.glue else _name(locate(config.train or "", self.data_dir)[0])
        self.task = infer_task(column, self.columns, settings, self.glue, name)
        if self.task.kind == "classification":
            column.require_classes()
        self.origin = "task.labels" if settings.labels else f"the labels of {source.label}"
        self.origin += f" (its first {len(column.rows)} rows)" if first else ""
        train, validation = self._streamed(source, seed) if streamed else self._split(column, seed)
        dev, extra = self._labelled("dev"), self._extra()
        if dev is None:
            self.report.append("dev: none given; scores are those of the validation rows")
        for role, table in (("validation", validation), ("dev", dev)):
            if table is not None and not streamed:
                self._report_overlap(role, table, train)
        return Data(self.task, train, validation, dev, extra, [_task_line(self.task), *self.report])

    def _split(self, column: LabelColumn, seed: int) -> tuple[Table, Table]:
        """Train and validation in memory."""
        train = _labelled_table(column, self.columns, self.task, "train", self.origin)
        self._report_rows("train", train, column.rows.label, str(self.columns))
        validation = self._labelled("validation")
        if validation is not None:
            return train, validation
        kept, out = hold_out(train, self.config.validation_size, seed)
        self.report.append(f"validation: {len(out):,} rows held out of train, {len(kept):,} remain")
        return train.take(kept), train.take(out)

    def _streamed(self, source: Source, seed: int) -> tuple[Table, Table]:
        """Train and validation as mapped files in `data.cache`; the task was inferred from the first rows."""
        for key in ("extra", "augment"):
            if getattr(self.config, key) is not None:
                raise DataError(f"data.{key} cannot be used with data.cache: remove one of them")

        def as_table(rows: Rows) -> Table:
            column = LabelColumn(rows, str(self.columns.label))
            column.require_all("train")
            return _labelled_table(column, self.columns, self.task, "train", self.origin)

        train, drawn = streamed_tables(
            source, self.columns, self.config, seed, as_table, scores=self.task.kind == "regression"
        )
        self.report.append(f"train: {len(train):,} rows of {source.label}, mapped from {train.folder}; {self.columns}")
        validation = self._labelled("validation")
        if validation is not None:
            return train, validation
        self.report.append(f"validation: {len(drawn):,} rows held out of train, drawn by text")
        return train, drawn

    def _open(self, role: str) -> Source | None:
        """The source for `role`; None if the config names none."""
        if self.glue is not None and role in self.glue_files:
            return open_glue(self.glue_files[role], self.glue)
        spec = getattr(self.config, role)
        if role == "dev" and spec is None:  # a `datasets` folder with several splits may have one for it
            path, base, _ = locate(self.config.train or "", self.data_dir)
            split = validation_split(path)
            spec = f"{base}[{split}]" if split else None
        if spec is None:
            return None
        return open_source(spec, self.data_dir, role=role, quoting=self.config.quoting, name=self.config.name)

    def _labelled(self, role: str) -> Table | None:
        source = self._open(role)
        if source is None:
            return None
        columns = self._columns(source, labelled=True)
        column = _read_labels(source, columns, role)
        table = _labelled_table(column, columns, self.task, role, self.origin)
        self._report_rows(role, table, source.label)
        return table

    def _extra(self) -> Table | None:
        source = self._open("extra")
        if source is None:
            return None
        columns = self._columns(source, labelled=False)
        texts = text_columns(source.read(columns.texts), columns.texts)
        kind = np.float32 if self.task.kind == "regression" else np.int64
        table = Table.from_columns(texts, np.zeros(len(texts[0]), kind)).without_labels()
        self._report_rows("extra", table, source.label, "labels ignored")
        return table

    def _columns(self, source: Source, labelled: bool) -> Columns:
        """Train's columns if `source` has all of them; otherwise inferred again."""
        same = Columns(self.columns.texts, self.columns.label if labelled else None)
        if set(same.names) <= set(source.columns):
            return same
        chosen = choose_columns(source, self.config.text, self.config.label, labelled=labelled)
        if len(chosen.texts) != self.task.num_texts:
            raise DataError(
                f"{source.label}: text in {' + '.join(chosen.texts)}, but train has {' + '.join(self.columns.texts)}: "
                "give the columns the same names"
            )
        return chosen

    def _report_rows(self, role: str, table: Table, label: str, more: str = "") -> None:
        repeats = len(table) - len(np.unique(table.ids, axis=0))
        repeated = f", {repeats:,} repeats of a text kept" if repeats else ""
        self.report.append(f"{role}: {len(table):,} rows from {label}{repeated}{'; ' + more if more else ''}")

    def _report_overlap(self, role: str, table: Table, train: Table) -> None:
        """Warn about rows that are also in train: scores on them are too optimistic."""
        shared = int(np.isin(_comparable(table), _comparable(train)).sum())
        if shared:
            self.report.append(f"{role}: {shared:,} of {len(table):,} rows have a text that train has too")


def load_table(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    data_dir: Path = Path("."),
    like: str | Path | None = None,
    metrics: Sequence[str] | None = None,
) -> tuple[Table, Task]:
    """Load one labelled table and its task, such as a test set to evaluate a checkpoint on.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its dev file.
        like: folder of a checkpoint: its config says whether this is regression, and names the labels.

    Raises:
        DataError, ConfigError: as `load_data`.
    """
    source, columns, glue = _open_any(spec, data_dir, "dev", text, label, labelled=True)
    column = _read_labels(source, columns, "evaluation")
    given = task_settings_of(like, column.found()).model_copy(update={"metrics": list(metrics) if metrics else None})
    name = glue.name if glue else _name(locate(spec, data_dir)[0])
    task = infer_task(column, columns, given, glue, name)
    return _labelled_table(column, columns, task, "evaluation", "those of the model"), task


def read_texts(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    labelled: bool = False,
    data_dir: Path = Path("."),
) -> tuple[tuple[str, ...], list[pa.Array], pa.Array | None]:
    """The texts of a table, unchanged, for writing another table.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its train file.
        labelled: read the label column too.

    Returns:
        names of the text columns and, with `labelled`, of the label column; the texts, [N] each; the labels or None.

    Raises:
        DataError: as `load_data`.
    """
    source, columns, _ = _open_any(spec, data_dir, "train", text, label, labelled)
    names = tuple(columns.names) if labelled else columns.texts
    rows = source.read(names)
    labels = rows.table[names[-1]].combine_chunks() if labelled else None
    return names, text_columns(rows, columns.texts), labels


def read_columns(
    file: str | Path, columns: Sequence[str], num_texts: int
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Read numbers that belong to texts, such as the outputs of a teacher that ran elsewhere.

    Args:
        columns: numeric columns to read; the text columns are inferred from the others.

    Returns:
        ids uint64 [N, 2], as `Table.ids`; values float64 [N, len(columns)], NaN where a field is not a finite number.

    Raises:
        DataError: no file, a missing column, or another number of texts per row.
    """
    source = open_source(str(file))
    check_columns(columns, source.columns, source.label)
    texts = choose_text_columns(source, columns)
    if len(texts) != num_texts:
        raise DataError(f"{source.label}: text in {' + '.join(texts)}, but the task has {num_texts} text(s) per row")
    rows = source.read([*texts, *columns])
    values = [LabelColumn(rows, name).numbers for name in columns]
    return identities(text_columns(rows, texts)), np.stack(values, axis=1)


def task_settings_of(checkpoint: str | Path | None, found: Sequence[str] = ()) -> TaskConfig:
    """Kind and label names from a checkpoint's config.json, for a table with the labels `found`.

    LABEL_0, LABEL_1, … are "0", "1", … unless the table calls them so too. A single output that is not declared as a score is the logit
    of the second of two labels where the table has two.
    """
    file = Path(checkpoint or "", "config.json")
    if checkpoint is None or not file.is_file():
        return TaskConfig()
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names = {int(index): str(name) for index, name in (values.get("id2label") or {}).items()}
    if values.get("problem_type") == "regression":
        return TaskConfig(kind="regression")
    if len(names) == 1:
        return TaskConfig(kind="classification" if len(found) == 2 else "regression")
    labels = [names[index] for index in sorted(names)]
    if not set(labels) & set(found):
        labels = [label.removeprefix("LABEL_") for label in labels]
    return TaskConfig(kind="classification", labels=labels) if labels else TaskConfig()


def infer_task(column: LabelColumn, columns: Columns, given: TaskConfig, glue: GlueTask | None, name: str) -> Task:
    """The task of a labelled table: as given, otherwise the GLUE task's, otherwise inferred from the labels."""
    metrics = tuple(given.metrics or (glue.metrics if glue else ()))
    kind: Kind
    if given.kind != "auto":
        kind = given.kind
    elif given.labels:
        kind = "classification"
    elif glue is not None:
        kind = "regression" if glue.regression else "classification"
    else:
        kind = kind_of_metrics(metrics) or column.kind()
    if kind == "regression":
        return Task(name, kind, (), metrics or default_metrics(kind, 0), len(columns.texts))
    labels = tuple(given.labels or column.class_names or column.found())
    if given.kind == "auto" and not given.labels and len(labels) > max(MANY, len(column.names) // 2):
        raise DataError(
            f"{column.rows.label}: column {column.column!r} has {len(labels)} different labels "
            f"in {len(column.names)} rows. "
            "Set data.label to the label column, or task.kind: classification if it is the right one"
        )
    if len(labels) < 2:
        column.require_classes()
    return Task(name, kind, labels, metrics or default_metrics(kind, len(labels)), len(columns.texts))


def _open_any(
    spec: str, data_dir: Path, role: str, text: str | Sequence[str] | None, label: str | None, labelled: bool
) -> tuple[Source, Columns, GlueTask | None]:
    """A table, or the file for `role` in a GLUE folder."""
    path, _, _ = locate(spec, data_dir)
    if (path / "train.tsv").is_file():
        glue, train, dev = recognise_folder(path)
        return open_glue(train if role == "train" else dev, glue), glue.columns, glue
    if path.name.endswith(".tsv") and path.is_file() and not text and recognise(path) is COLA:
        return open_glue(path, COLA), COLA.columns, COLA  # it has no header, so only its own columns fit
    source = open_source(spec, data_dir, role=role)
    return source, choose_columns(source, text, label, labelled=labelled), None


def _read_labels(source: Source, columns: Columns, role: str, limit: int | None = None) -> LabelColumn:
    """Read rows and their labels; every row must have one."""
    column = LabelColumn(source.read(columns.names, limit), str(columns.label))
    column.require_all(role)
    return column


def _labelled_table(column: LabelColumn, columns: Columns, task: Task, role: str, origin: str) -> Table:
    texts = text_columns(column.rows, columns.texts)
    labels = column.scores() if task.kind == "regression" else column.classes(task.labels, role, origin)
    return Table.from_columns(texts, labels)


def _task_line(task: Task) -> str:
    what = f"{task.num_outputs} classes ({listed(task.labels, 8)})" if task.labels else "regression"
    return f"task {task.name}: {what}, {task.num_texts} text(s) per row, scored by {', '.join(task.metrics)}"


def _comparable(table: Table) -> Any:
    """[N]: each identity as one value that numpy can compare."""
    return np.ascontiguousarray(table.ids).view([("hi", np.uint64), ("lo", np.uint64)]).reshape(-1)


def _name(path: Path) -> str:
    """A short name of the data: the file's, or its folder's where the file is called train, dev or test."""
    return path.parent.name or path.stem if path.stem in ("train", "dev", "test", "validation") else path.stem
