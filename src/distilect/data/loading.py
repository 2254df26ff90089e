"""From a `DataConfig` to the tables of a run."""

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
from distilect.data.arrow_files import VALIDATION, splits_of
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
MANY = 100  # labels from which on "as many labels as rows" is surely the wrong column


@dataclass(frozen=True, eq=False)
class Data:
    """All rows of a run.

    Attributes:
        train: rows to learn from, without those held out.
        validation: labelled rows held out of train, for rewards, early stopping and checkpoint choice.
        dev: reported on only; None where the config names none.
        extra: unlabelled rows for teachers to speak on.
        report: lines for the user: what was read, from which columns, how it was split.
    """

    task: Task
    train: Table
    validation: Table
    dev: Table | None = None
    extra: Table | None = None
    test: Table | None = None
    report: list[str] = field(default_factory=list)

    @property
    def distillation(self) -> Table:
        """train, then extra: every row that teachers may speak on."""
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
    return _Loader(config, task, Path(data_dir)).load(seed)


def load_table(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    data_dir: Path = Path("."),
    like: str | Path | None = None,
    metrics: Sequence[str] | None = None,
) -> tuple[Table, Task]:
    """One labelled table and its task, such as a test set to evaluate a checkpoint on.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its dev file.
        like: folder of a checkpoint: its config says whether this is regression, and names the labels.

    Raises:
        DataError, ConfigError: as `load_data`.
    """
    settings = task_settings_of(like)
    path, _, _ = locate(spec, Path(data_dir))
    glue = None
    if (path / "train.tsv").is_file():
        glue, _, path = recognise_folder(path)
    elif path.name.endswith(".tsv") and path.is_file() and recognise(path) is COLA and not text:
        glue = COLA  # it has no header, so only its own columns fit
    source = open_glue(path, glue) if glue else open_source(spec, Path(data_dir), role="dev")
    columns = glue.columns if glue else choose_columns(source, text, label)
    given = settings.model_copy(update={"metrics": list(metrics) if metrics else None})
    rows, column = _read_labelled(source, columns, "evaluation", None)
    found = infer_task(column, columns, given, glue, glue.name if glue else _name(path))
    return _labelled_table(rows, column, columns, found, "evaluation", "those of the model"), found


def read_texts(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    labelled: bool = False,
    data_dir: Path = Path("."),
) -> tuple[tuple[str, ...], list[pa.Array], pa.Array | None]:
    """The texts of a table as they stand there, for writing another one.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its train file.
        labelled: read the label column too.

    Returns:
        names of the text columns and, with `labelled`, of the label column; the texts, [N] each; the labels or None.

    Raises:
        DataError: as `load_data`.
    """
    path, _, _ = locate(spec, data_dir)
    source: Source
    if (path / "train.tsv").is_file():
        glue, path, _ = recognise_folder(path)
        source, columns = open_glue(path, glue), glue.columns
    else:
        source = open_source(spec, data_dir)
        columns = choose_columns(source, text, label, labelled=labelled)
    assert columns.label is not None or not labelled
    names = (*columns.texts, str(columns.label)) if labelled else columns.texts
    rows = source.read(names)
    labels = rows.table[names[-1]].combine_chunks() if labelled else None
    return names, text_columns(rows, columns.texts), labels


def read_columns(
    file: str | Path, columns: Sequence[str], num_texts: int
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Numbers joined to rows by their texts, such as a teacher's outputs made elsewhere.

    Args:
        columns: numeric columns to read; the text columns are inferred from the others.

    Returns:
        ids uint64 [N, 2], as `Table.ids`; values float64 [N, len(columns)], NaN where a field is no finite number.

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


def task_settings_of(checkpoint: str | Path | None) -> TaskConfig:
    """Kind and label names from a checkpoint's config.json; LABEL_0, LABEL_1, … are "0", "1", …"""
    file = Path(checkpoint or "", "config.json")
    if checkpoint is None or not file.is_file():
        return TaskConfig()
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names = {int(index): str(name) for index, name in (values.get("id2label") or {}).items()}
    if values.get("problem_type") == "regression" or len(names) == 1:
        return TaskConfig(kind="regression")
    labels = [names[index].removeprefix("LABEL_") for index in sorted(names)]
    return TaskConfig(kind="classification", labels=labels) if labels else TaskConfig()


def infer_task(column: LabelColumn, columns: Columns, given: TaskConfig, glue: GlueTask | None, name: str) -> Task:
    """The task of a labelled table: what is given, else the GLUE task's, else what the labels look like."""
    metrics = tuple(given.metrics or (glue.metrics if glue else ()))
    kind = _kind(column, given, glue, metrics)
    labels: tuple[str, ...] = ()
    if kind == "classification":
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


def _kind(column: LabelColumn, given: TaskConfig, glue: GlueTask | None, metrics: tuple[str, ...]) -> Kind:
    if given.kind != "auto":
        return given.kind
    if given.labels:
        return "classification"
    if glue is not None:
        return "regression" if glue.regression else "classification"
    return kind_of_metrics(metrics) or column.kind()


class _Loader:
    """The steps of `load_data`; `report` grows on the way."""

    def __init__(self, config: DataConfig, task: TaskConfig, data_dir: Path) -> None:
        self.config, self.settings, self.data_dir = config, task, data_dir
        self.report: list[str] = []
        self.glue: GlueTask | None = None
        self.paths: dict[str, Path] = {}
        if config.glue is not None:
            if config.train is not None or config.dev is not None:
                raise DataError("data.glue sets train and dev: leave data.train and data.dev away, or data.glue")
            folder = data_dir / Path(config.glue).expanduser()
            self.glue, self.paths["train"], self.paths["dev"] = recognise_folder(folder)
        elif config.train is None:
            raise DataError("no training rows: set data.train to a table, or data.glue to a GLUE folder")

    def load(self, seed: int) -> Data:
        source = self._open("train")
        assert source is not None
        self.columns = self._columns(source)
        limit = self.config.max_train_rows
        cached = self.config.cache is not None
        rows, column = _read_labelled(source, self.columns, "train", min(limit or _PEEK, _PEEK) if cached else limit)
        self.task = infer_task(column, self.columns, self.settings, self.glue, self._task_name())
        if self.task.kind == "classification":
            column.require_classes()
        origin = "task.labels" if self.settings.labels else f"the labels of {source.label}"
        self.origin = origin + (f" (its first {len(rows)} rows)" if limit or cached else "")
        if cached:
            return self._load_streamed(source, seed)
        train = _labelled_table(rows, column, self.columns, self.task, "train", self.origin)
        self._told("train", train, rows.label, str(self.columns))
        train, validation = self._validation(train, seed)
        dev, extra = self._dev(), self._extra()
        self._told_overlap(train, validation, "held-out")
        self._told_overlap(train, dev, "dev")
        return Data(self.task, train, validation, dev, extra, None, [self._task_line(), *self.report])

    def _load_streamed(self, source: Source, seed: int) -> Data:
        """Train, and the rows held out of it, as mapped files in `data.cache`; what labels mean is known from the first rows."""
        config = self.config
        for key in ("extra", "augment"):
            if getattr(config, key) is not None:
                raise DataError(f"data.{key} cannot be used with data.cache: leave one of them away")
        train, held = streamed_tables(source, self.columns, config, seed, self._block)
        validation = self._labelled("validation", "held-out")
        self.report.append(f"train: {len(train):,} rows of {source.label}, mapped from {train.folder}; {self.columns}")
        if validation is None:
            validation = held
            self.report.append(f"held out of train: {len(held):,} rows, drawn by text")
        return Data(self.task, train, validation, self._dev(), None, None, [self._task_line(), *self.report])

    def _block(self, rows: Rows) -> Table:
        """One block of train as a table."""
        assert self.columns.label is not None
        column = LabelColumn(rows, self.columns.label)
        column.require_all("train")
        return _labelled_table(rows, column, self.columns, self.task, "train", self.origin)

    def _open(self, role: str) -> Source | None:
        """The source that plays `role`; None where the config names none."""
        if role in self.paths and self.glue is not None:
            return open_glue(self.paths[role], self.glue)
        spec = getattr(self.config, role)
        if role == "dev" and spec is None:
            spec = self._validation_split()
        if spec is None:
            return None
        return open_source(spec, self.data_dir, role=role, quoting=self.config.quoting, name=self.config.name)

    def _validation_split(self) -> str | None:
        """The validation split of the data set that train comes from, when that is a folder of several splits."""
        path, base, _ = locate(self.config.train or "", self.data_dir)
        usual = [split for split in VALIDATION if split in splits_of(path)]
        return f"{base}[{usual[0]}]" if usual else None

    def _columns(self, source: Source) -> Columns:
        text, label = self.config.text, self.config.label
        if self.glue is not None and text is None and label is None:
            return self.glue.columns
        return choose_columns(source, text, label)

    def _same_columns(self, source: Source, labelled: bool = True) -> Columns:
        """Train's columns where `source` has them all; else inferred anew."""
        label = self.columns.label if labelled else None
        if set(self.columns.texts) <= set(source.columns) and (label is None or label in source.columns):
            return Columns(self.columns.texts, label)
        chosen = choose_columns(source, self.config.text, self.config.label, labelled=labelled)
        if len(chosen.texts) != self.task.num_texts:
            raise DataError(
                f"{source.label}: text in {' + '.join(chosen.texts)}, but train has {' + '.join(self.columns.texts)}: "
                "give the columns the same names"
            )
        return chosen

    def _labelled(self, role: str, shown: str) -> Table | None:
        source = self._open(role)
        if source is None:
            return None
        columns = self._same_columns(source)
        rows, column = _read_labelled(source, columns, shown, None)
        table = _labelled_table(rows, column, columns, self.task, shown, self.origin)
        self._told(shown, table, rows.label)
        return table

    def _dev(self) -> Table | None:
        dev = self._labelled("dev", "dev")
        if dev is None:
            self.report.append("dev: none given; scores are those of the held-out rows")
        return dev

    def _validation(self, train: Table, seed: int) -> tuple[Table, Table]:
        given = self._labelled("validation", "held-out")
        if given is not None:
            return train, given
        kept, held = hold_out(train, self.config.validation_size, seed)
        self.report.append(f"held out of train: {len(held):,} rows, {len(kept):,} remain")
        return train.take(kept), train.take(held)

    def _extra(self) -> Table | None:
        source = self._open("extra")
        if source is None:
            return None
        columns = self._same_columns(source, labelled=False)
        rows = source.read(columns.texts)
        texts = text_columns(rows, columns.texts)
        kind = np.float32 if self.task.kind == "regression" else np.int64
        table = Table.from_columns(texts, np.zeros(len(rows), kind)).without_labels()
        self._told("extra", table, rows.label, "labels ignored")
        return table

    def _task_name(self) -> str:
        if self.glue is not None:
            return self.glue.name
        return _name(locate(self.config.train or "", self.data_dir)[0])

    def _task_line(self) -> str:
        task = self.task
        what = f"{task.num_outputs} classes ({listed(task.labels, 8)})" if task.labels else "regression"
        return f"task {task.name}: {what}, {task.num_texts} text(s) per row, scored by {', '.join(task.metrics)}"

    def _told(self, role: str, table: Table, label: str, more: str = "") -> None:
        repeats = len(table) - len(np.unique(table.ids, axis=0))
        repeated = f", {repeats:,} repeats of a text kept" if repeats else ""
        self.report.append(f"{role}: {len(table):,} rows from {label}{repeated}{'; ' + more if more else ''}")

    def _told_overlap(self, train: Table, other: Table | None, role: str) -> None:
        """Warn of rows that train has too: scores on them say little."""
        if other is None or not len(other):
            return
        shared = int(np.isin(_joined(other), _joined(train)).sum())
        if shared:
            self.report.append(f"{role}: {shared:,} of {len(other):,} rows have a text that train has too")


def _read_labelled(source: Source, columns: Columns, role: str, limit: int | None) -> tuple[Rows, LabelColumn]:
    assert columns.label is not None
    rows = source.read([*columns.texts, columns.label], limit)
    column = LabelColumn(rows, columns.label)
    column.require_all(role)
    return rows, column


def _labelled_table(rows: Rows, column: LabelColumn, columns: Columns, task: Task, role: str, origin: str) -> Table:
    texts: list[pa.Array] = text_columns(rows, columns.texts)
    labels = column.scores() if task.kind == "regression" else column.classes(task.labels, role, origin)
    return Table.from_columns(texts, labels)


def _joined(table: Table) -> Any:
    """[N] one comparable value per identity."""
    return np.ascontiguousarray(table.ids).view([("hi", np.uint64), ("lo", np.uint64)]).reshape(-1)


def _name(path: Path) -> str:
    """A short name of the data: the file's, or its folder's where the file is called train, dev or test."""
    return path.parent.name or path.stem if path.stem in ("train", "dev", "test", "validation") else path.stem
