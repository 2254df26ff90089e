"""Load the tables of a run from its `DataConfig`."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.config import DataConfig, TaskConfig
from distilect.data.arrow_files import validation_split
from distilect.data.columns import Columns, choose_columns, choose_text_columns, is_string, text_columns
from distilect.data.decoding import COMPRESSED
from distilect.data.glue import COLA, GlueTask, open_glue, recognise, recognise_folder
from distilect.data.label_sets import LabelSets, from_column, from_columns, holds_lists, is_list
from distilect.data.labels import LabelColumn, Unlabelled
from distilect.data.readers import locate, open_source
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.data.splits import hold_out
from distilect.data.streaming import streamed_tables
from distilect.data.table import Table, identities
from distilect.data.tag_columns import TagColumn, choose_word_columns, has_tags, is_word_table
from distilect.errors import DataError
from distilect.progress import console
from distilect.tasks import PROBLEM_TYPES, Kind, Task, default_metrics, kind_of_metrics, named_metrics, scheme_of
from distilect.tasks.label_names import match_labels

_PEEK = 100_000  # rows of a streamed table that its task is inferred from
Labels = LabelColumn | LabelSets | TagColumn | Unlabelled
LABEL_TYPES: dict[Kind, Any] = {
    "classification": np.int64,
    "regression": np.float32,
    "multi-label": np.int8,
    "tokens": np.int64,
    "causal-lm": np.int32,
}
UNBALANCED = 2  # times as many rows in the larger class: two classes are unbalanced above it
MANY = 100  # labels from which on "as many labels as rows" means a wrong column


@dataclass(frozen=True, eq=False)
class Data:
    """All rows of a run.

    Attributes:
        train: rows to learn from, without the validation rows.
        validation: labelled rows that train lacks, for rewards, early stopping and checkpoint choice.
        dev: reported on only; None where the config names none.
        extra: unlabelled rows for distillation.
        agreement: train has no labels; those of the validation rows are the teachers', so scores there are agreement with them.
        report: lines for the user: what was read, from which columns, how it was split.
    """

    task: Task
    train: Table
    validation: Table
    dev: Table | None = None
    extra: Table | None = None
    report: list[str] = field(default_factory=list)
    agreement: bool = False

    @property
    def distillation(self) -> Table:
        """train, then extra: every row that teachers may be run on."""
        return self.train if self.extra is None else Table.concat([self.train, self.extra])


def load_data(
    config: DataConfig, task: TaskConfig, seed: int, data_dir: Path = Path("."), like: str | None = None
) -> Data:
    """Read, check and split the tables of a run.

    Args:
        config: where the rows are; relative paths start at `data_dir`.
        task: kind, labels and metrics, each inferred where it is not given.
        like: a teacher's checkpoint, which tells the task of a table without labels.
        seed: of the split; the same seed and texts give the same split, whatever the order of the rows.

    Raises:
        DataError: a file, column, row or label that cannot be used; one or two lines that name it.
        ConfigError: metrics or labels that do not fit.
    """
    return _Loader(config, Path(data_dir)).load(task, seed, like)


class _Loader:
    """The steps of `load_data`; each appends its lines to `report`."""

    def __init__(self, config: DataConfig, data_dir: Path) -> None:
        self.config, self.data_dir = config, data_dir
        self.report: list[str] = []
        self.words = False  # rows are lists of words
        self.glue: GlueTask | None = None
        self.glue_files: dict[str, Path] = {}
        if config.glue is not None:
            if config.train is not None or config.dev is not None:
                raise DataError("data.glue sets train and dev: remove data.train and data.dev, or data.glue")
            self.glue, train, dev = recognise_folder(data_dir / Path(config.glue).expanduser())
            self.glue_files = {"train": train, "dev": dev}
        elif config.train is None:
            raise DataError("no training rows: set data.train to a table, or data.glue to a GLUE folder")

    def load(self, settings: TaskConfig, seed: int, like: str | None) -> Data:
        """Train comes first: it defines the columns and the labels of all other tables."""
        config = self.config
        if settings.kind == "causal-lm":
            raise DataError("rows for language models are read with their tokenizer: use load_token_data")
        self.words = settings.kind == "tokens"
        source = self._open("train")
        assert source is not None
        streamed = config.cache is not None
        self.words = self.glue is None and is_word_table(source, config.text, config.label, settings)
        if settings.kind == "tokens" and config.glue is not None:
            raise DataError(
                "data.glue is set, but the task is of kind tokens: GLUE has no task that tags words.\nRemove data.glue"
            )
        if self.glue is not None and config.text is None and config.label is None:
            self.columns = self.glue.columns
        elif self.words:
            self.numbered = bool(source.words)
            self.columns = self._word_columns(source, words_alone=True)
        else:
            self.columns = choose_columns(source, config.text, config.label, texts_alone=True)
        if self.columns.label is None:
            settings = _known_task(_as_tokens(settings) if self.words else settings, like, source.label)
            if settings.kind == "tokens" and not self.words:
                raise DataError(
                    f"{source.label} has texts, but the teacher tags words: expected lists of words, or a CoNLL file"
                )
            self.report.append("train: no labels; the student learns from the teachers alone")
        first = min(config.max_train_rows or _PEEK, _PEEK) if streamed else config.max_train_rows
        column = self._read(source, self.columns, "train", _as_tokens(settings) if self.words else settings, first)
        name = self.glue.name if self.glue else table_name(locate(config.train or "", self.data_dir)[0])
        self.task = infer_task(column, self.columns, settings, self.glue, name)
        if isinstance(column, LabelColumn) and self.task.kind == "classification":
            column.require_classes()
        self.origin = "task.labels" if settings.labels else f"the labels of {source.label}"
        self.origin += f" (its first {len(column.rows)} rows)" if first else ""
        train, validation = self._streamed(source, column, seed) if streamed else self._split(column, seed)
        dev, extra = self._labelled("dev"), self._extra()
        if dev is None:
            self.report.append("dev: none given; scores are those of the validation rows")
        for role, table in (("validation", validation), ("dev", dev)):
            if table is not None and not streamed:
                self.report += report_overlap(role, table, train)
        report = [_task_line(self.task), *self.report]
        agreement = bool(len(validation)) and not validation.num_labelled
        return Data(self.task, train, validation, dev, extra, report, agreement)

    def _read(
        self, source: Source, columns: Columns, role: str, settings: TaskConfig, limit: int | None = None
    ) -> Labels:
        return _read_labels(source, columns, role, settings, self.config.label_delimiter, limit)

    @property
    def _settings(self) -> TaskConfig:
        """The task, as labels of further tables are read."""
        return TaskConfig(kind=self.task.kind, labels=list(self.task.labels) or None)

    def _split(self, column: Labels, seed: int) -> tuple[Table, Table]:
        """Train and validation in memory."""
        train = _labelled_table(column, self.columns, self.task, "train", self.origin)
        self._report_rows("train", train, column.rows.label, str(self.columns))
        self._report_spellings("train", column)
        validation = self._labelled("validation")
        if validation is not None:
            return train, validation
        kept, out = hold_out(train, self.config.validation_size, seed)
        self.report.append(f"validation: {len(out):,} rows held out of train, {len(kept):,} remain")
        return train.take(kept), train.take(out)

    def _streamed(self, source: Source, first: Labels, seed: int) -> tuple[Table, Table]:
        """Train and validation as mapped files in `data.cache`; the task was inferred from the first rows."""
        for key in ("extra", "augment"):
            if getattr(self.config, key) is not None:
                raise DataError(f"data.{key} cannot be used with data.cache: remove one of them")

        iob1 = self._first_words(first) if isinstance(first, TagColumn) else None

        def as_table(rows: Rows) -> Table:
            column = _labels_of(rows, self.columns, self._settings, self.config.label_delimiter)
            if isinstance(column, TagColumn):
                column.require_tags("train")
                return column.table(self.task, "train", self.origin, iob1)
            column.require_all("train")
            table = _labelled_table(column, self.columns, self.task, "train", self.origin)
            self._report_spellings("train", column)
            return table

        kind = LABEL_TYPES[self.task.kind]
        train, drawn = streamed_tables(source, self.columns, self.config, seed, as_table, labels=kind, task=self.task)
        words = f" ({train.num_units:,} words)" if self.words else ""
        self.report.append(
            f"train: {len(train):,} rows{words} of {source.label}, mapped from {train.folder}; {self.columns}"
        )
        validation = self._labelled("validation")
        if validation is not None:
            return train, validation
        self.report.append(f"validation: {len(drawn):,} rows held out of train, drawn by text")
        return train, drawn

    def _first_words(self, first: TagColumn) -> bool:
        """Whether the tags of a streamed table are IOB1, by its first rows; what is said of words is said of these rows."""
        first.table(self.task, "train", self.origin)
        self.report += [f"train, first {len(first.rows):,} rows: {note}" for note in first.notes]
        return first.iob1

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
        config = self.config
        source = open_source(
            spec,
            self.data_dir,
            role=role,
            delimiter=config.delimiter,
            quoting=config.quoting,
            name=config.name,
            words=self.words,
        )
        self.report += [f"{role}: {note}" for note in source.notes]
        return source

    def _labelled(self, role: str) -> Table | None:
        source = self._open(role)
        if source is None:
            return None
        columns = self._columns(source, labelled=True)
        if columns.label is None:  # train has none; a validation or dev table may
            alone = role == "validation"
            if self.words:
                columns = self._word_columns(source, words_alone=alone)
            else:
                columns = choose_columns(source, self.config.text, self.config.label, texts_alone=alone)
        column = self._read(source, columns, role, self._settings)
        table = _labelled_table(column, columns, self.task, role, self.origin)
        self._report_rows(role, table, source.label)
        self._report_spellings(role, column)
        return table

    def _extra(self) -> Table | None:
        source = self._open("extra")
        if source is None:
            return None
        columns = self._columns(source, labelled=False)
        if self.words:
            column = TagColumn(source.read(columns.texts), columns.texts[0], None)
            column.require_all("extra")
            table = column.table(self.task, "extra", self.origin)
            self._report_rows("extra", table, source.label, "labels ignored")
            self._report_spellings("extra", column)
            return table
        texts = text_columns(source.read(columns.texts), columns.texts)
        shape = (len(texts[0]), len(self.task.labels))[: 2 if self.task.kind == "multi-label" else 1]
        table = Table.from_columns(texts, np.zeros(shape, LABEL_TYPES[self.task.kind])).without_labels()
        self._report_rows("extra", table, source.label, "labels ignored")
        return table

    def _columns(self, source: Source, labelled: bool) -> Columns:
        """Train's columns if `source` has all of them; otherwise inferred again, as always in CoNLL files, where numbers are no names."""
        same = Columns(self.columns.texts, self.columns.label if labelled else None)
        if set(same.names) <= set(source.columns) and not source.words:
            return same
        if self.words:
            labelled &= self.columns.label is not None
            return self._word_columns(source, labelled=labelled)
        chosen = choose_columns(source, self.config.text, self.config.label, labelled=labelled)
        if len(chosen.texts) != self.task.num_texts:
            raise DataError(
                f"{source.label}: text in {' + '.join(chosen.texts)}, but train has {' + '.join(self.columns.texts)}: "
                "give the columns the same names"
            )
        return chosen

    def _word_columns(self, source: Source, **wanted: bool) -> Columns:
        """The columns of a table of words. Those that the user named count where the table is like train, in CoNLL's form or not."""
        named = bool(source.words) == self.numbered
        text, label = (self.config.text, self.config.label) if named else (None, None)
        return choose_word_columns(source, text, label, **wanted)

    def _report_rows(self, role: str, table: Table, label: str, more: str = "") -> None:
        repeats = len(table) - len(np.unique(table.ids, axis=0))
        repeated = f", {repeats:,} repeats of a text kept" if repeats else ""
        words = "" if table.units is None else f" of {_range(table.units.sizes)} words ({len(table.units):,} words)"
        self.report.append(f"{role}: {len(table):,} rows{words} from {label}{repeated}{'; ' + more if more else ''}")

    def _report_spellings(self, role: str, column: Labels) -> None:
        lines = (f"{role}: {note}" for note in column.notes)
        self.report += [line for line in lines if line not in self.report]


def report_overlap(role: str, table: Table, train: Table) -> list[str]:
    """A warning about rows that are also in train: scores on them are too optimistic."""
    shared = int(np.isin(_comparable(table), _comparable(train)).sum())
    return [f"{role}: {shared:,} of {len(table):,} rows have a text that train has too"] if shared else []


def load_table(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    label_delimiter: str | None = None,
    data_dir: Path = Path("."),
    like: str | Path | None = None,
    given: TaskConfig | None = None,
    delimiter: str | None = None,
    quoting: bool | None = None,
) -> tuple[Table, Task]:
    """Load one labelled table and its task, such as a test set to evaluate a checkpoint on.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its dev file.
        label, label_delimiter: as in `DataConfig`; the columns that are named like the labels of a multi-label checkpoint need
            not be given.
        like: folder of a checkpoint: its config says which kind of task this is, and names the labels.
        given: what is set here goes before that.
        delimiter, quoting: as of `DataConfig`.

    Raises:
        DataError, ConfigError: as `load_data`.
    """

    def settings_for(found: Sequence[str]) -> TaskConfig:
        of_model = task_settings_of(like, found)
        return of_model.model_copy(update=given.model_dump(exclude_unset=True) if given else {})

    settings = settings_for(())
    named = settings.labels if settings.kind == "multi-label" else None
    dialect = {"delimiter": delimiter, "quoting": quoting}
    source, columns, glue, words = _open_any(
        spec, data_dir, "dev", text, label, labelled=True, named=named, task=settings, **dialect
    )
    as_read = _as_tokens(settings) if words else settings
    column = _read_labels(source, columns, "evaluation", as_read, label_delimiter)
    if isinstance(column, LabelColumn):
        settings = settings_for(column.found())
    name = glue.name if glue else table_name(locate(spec, data_dir)[0])
    task = infer_task(column, columns, settings, glue, name)
    table = _labelled_table(column, columns, task, "evaluation", "those of the model")
    _say(f"{source.label}: {note}" for note in column.notes)
    return table, task


def read_rows(
    spec: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    labelled: bool = False,
    data_dir: Path = Path("."),
) -> tuple[tuple[str, ...], Table, pa.Array | None, NDArray[np.bool_] | None]:
    """The rows of a table, for writing another one.

    Args:
        spec: as `DataConfig.train`, or a GLUE folder, which means its train file.
        labelled: read the label column too.

    Returns:
        names of the columns of texts or words and, with `labelled`, of that of labels or tags; the rows without labels; the labels, [N], lists of
        tags for words, or None; of words bool [U], those that belong to entities, as far as there are tags of a scheme.

    Raises:
        DataError: as `load_data`.
    """
    source, columns, _, words = _open_any(spec, data_dir, "train", text, label, labelled)
    if words:
        return _read_words(source, text, label, labelled)
    names = tuple(columns.names) if labelled else columns.texts
    rows = source.read(names)
    labels = rows.table[names[-1]].combine_chunks() if labelled else None
    return names, Table.from_columns(text_columns(rows, columns.texts)), labels, None


def _read_words(
    source: Source, text: str | Sequence[str] | None, label: str | None, labelled: bool
) -> tuple[tuple[str, ...], Table, pa.Array | None, NDArray[np.bool_]]:
    """`read_rows` of a table of words. Tags are looked at where there are some, as they tell the entities."""
    tagged = labelled or label is not None or has_tags(source)
    columns = choose_word_columns(source, text, label, labelled=tagged)
    column = TagColumn(source.read(columns.names), columns.texts[0], columns.labels[0] if columns.labels else None)
    column.require_all("train")
    _say(f"{source.label}: {note}" for note in column.notes)
    names = ("tokens", "tags") if source.words else tuple(columns.names)
    return names[: 1 + labelled], column.words_alone(), column.tag_lists() if labelled else None, column.in_entities()


def open_texts(
    spec: str, *, text: str | Sequence[str] | None = None, data_dir: Path = Path(".")
) -> tuple[Source, tuple[str, ...]]:
    """A table that needs no labels, and its text columns; a GLUE folder means its dev file.

    Raises:
        DataError: as `load_data`.
    """
    source, columns, *_ = _open_any(spec, data_dir, "dev", text, None, labelled=False)
    return source, columns.texts


def read_columns(
    file: str | Path, columns: Sequence[str], num_texts: int
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Read numbers that belong to texts, such as the outputs of a teacher that ran elsewhere.

    Args:
        columns: numeric columns to read, in any spelling of the same label; the text columns are inferred from the others.

    Returns:
        ids uint64 [N, 2], as `Table.ids`; values float64 [N, len(columns)], NaN where a field is not a finite number.

    Raises:
        DataError: no file, a missing column, or another number of texts per row.
    """
    source = open_source(str(file))
    _say(source.notes)
    spelled = match_labels([name for name in columns if name not in source.columns], source.columns)
    columns = [spelled.get(name, name) for name in columns]
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
    labels = [names[index] for index in sorted(names)]
    if not set(labels) & set(found):
        labels = [label.removeprefix("LABEL_") for label in labels]
    if any(str(name).endswith("ForTokenClassification") for name in values.get("architectures") or ()):
        return TaskConfig(kind="tokens", labels=labels or None)
    if values.get("problem_type") == PROBLEM_TYPES["multi-label"]:
        return TaskConfig(kind="multi-label", labels=labels)
    if values.get("problem_type") == PROBLEM_TYPES["regression"]:
        return TaskConfig(kind="regression")
    if len(names) == 1:
        return TaskConfig(kind="classification" if len(found) == 2 else "regression")
    return TaskConfig(kind="classification", labels=labels) if labels else TaskConfig()


def infer_task(column: Labels, columns: Columns, given: TaskConfig, glue: GlueTask | None, name: str) -> Task:
    """The task of a table: as given, otherwise the GLUE task's, otherwise inferred from the labels."""
    metrics = tuple(given.metrics or (glue.metrics if glue else ()))
    kind = _kind_of(column, given, glue, metrics)
    labels = () if kind == "regression" else tuple(given.labels or column.class_names or column.found())
    unbalanced = False
    if kind == "classification" and isinstance(column, LabelColumn):
        if given.kind == "auto" and not given.labels and len(labels) > max(MANY, len(column) // 2):
            raise DataError(
                f"{column.rows.label}: column {column.column!r} has {len(labels)} different labels in {len(column)} rows. "
                "Set data.label to the label column, or task.kind: classification if it is the right one"
            )
        if len(labels) < 2:
            column.require_classes()
        unbalanced = column.largest_ratio() > UNBALANCED
    if isinstance(column, TagColumn):
        _check_tags(column, labels, inferred=given.kind == "auto" and not given.labels)
    entities = kind == "tokens" and scheme_of(labels) is not None
    metrics = metrics or default_metrics(kind, len(labels), unbalanced, entities)
    return Task(name, kind, labels, named_metrics(metrics, kind, labels, given.positive), len(columns.texts))


def _check_tags(column: TagColumn, labels: Sequence[str], inferred: bool) -> None:
    where = f"{column.rows.label}: column {column.column!r}"
    if len(labels) == 1:
        raise DataError(f"{where} has the tag {labels[0]} at every word; expected two tags or more")
    if inferred and len(labels) > max(MANY, len(column) // 10):
        raise DataError(
            f"{where} has {len(labels)} different tags for {len(column)} words. Set data.label to the column of tags, or "
            "task.kind: tokens if it is the right one"
        )


def _kind_of(column: Labels, given: TaskConfig, glue: GlueTask | None, metrics: Sequence[str]) -> Kind:
    if given.kind != "auto":
        return given.kind
    if isinstance(column, (LabelSets, TagColumn)):
        return column.kind()
    if given.labels:
        return "classification"
    if glue is not None:
        return "regression" if glue.regression else "classification"
    return kind_of_metrics(tuple(metrics)) or column.kind()


def _known_task(settings: TaskConfig, like: str | None, source: str) -> TaskConfig:
    """The task of a table without labels: as given, or that of a teacher.

    Raises:
        DataError: neither is known.
    """
    if settings.labels or settings.kind == "regression":
        return settings
    of_teacher = task_settings_of(like)
    if of_teacher.kind == "auto" or settings.kind not in ("auto", of_teacher.kind):
        raise DataError(
            f"{source} has texts alone, no labels: name the label column with data.label, or, to learn from the teachers alone, the "
            "classes with task.labels (or set task.kind: regression)"
        )
    return settings.model_copy(update={"kind": of_teacher.kind, "labels": of_teacher.labels})


def _open_any(
    spec: str,
    data_dir: Path,
    role: str,
    text: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    labelled: bool,
    named: Sequence[str] | None = None,
    task: TaskConfig | None = None,
    **dialect: Any,
) -> tuple[Source, Columns, GlueTask | None, bool]:
    """A table, or the file for `role` in a GLUE folder; and whether its rows are lists of words.

    Args:
        task: what is known of it, for telling lists of words from texts.
        named: labels of a multi-label task: columns that are called like all of them are its label columns, if none is given.
    """
    path, _, _ = locate(spec, data_dir)
    task = task or TaskConfig()
    words = task.kind == "tokens"
    if (path / "train.tsv").is_file() and not words:
        glue, train, dev = recognise_folder(path)
        return open_glue(train if role == "train" else dev, glue), glue.columns, glue, False
    if path.name.endswith(".tsv") and path.is_file() and not text and not words and recognise(path) is COLA:
        return open_glue(path, COLA), COLA.columns, COLA, False  # it has no header, so only its own columns fit
    source = open_source(spec, data_dir, role=role, words=words, **dialect)
    _say(source.notes)
    if is_word_table(source, text, label, task):
        return source, choose_word_columns(source, text, label, labelled=labelled), None, True
    if label is None and named and set(named) <= set(source.columns):
        label = list(named)
    return source, choose_columns(source, text, label, labelled=labelled), None, False


def _say(lines: Iterable[str]) -> None:
    """Print what was detected, where no report takes it."""
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _read_labels(
    source: Source,
    columns: Columns,
    role: str,
    settings: TaskConfig,
    delimiter: str | None = None,
    limit: int | None = None,
) -> Labels:
    """Read rows and their labels; every row must have them."""
    column = _labels_of(source.read(columns.names, limit), columns, settings, delimiter)
    column.require_all(role)
    return column


def _labels_of(rows: Rows, columns: Columns, settings: TaskConfig, delimiter: str | None) -> Labels:
    """The label column, as a kind of task reads it: given, or told by several columns, a delimiter, lists, or the metrics.

    Raises:
        DataError: several label columns, or a delimiter, of another kind of task; or both.
    """
    if settings.kind == "tokens":
        if delimiter is not None:
            raise DataError(f"{rows.label}: label_delimiter {delimiter!r} for a task of kind tokens: remove it")
        return TagColumn(rows, columns.texts[0], columns.labels[0] if columns.labels else None)
    if columns.label is None:
        return Unlabelled(rows)
    several = isinstance(columns.label, tuple)
    name = str(columns.labels[0])
    if several and delimiter is not None:
        raise DataError(
            "data.label_delimiter parts the labels of one column, data.label names several: remove one of them"
        )
    lists = settings.kind == "multi-label" or delimiter is not None or several
    lists |= settings.kind == "auto" and kind_of_metrics(tuple(settings.metrics or ())) == "multi-label"
    if lists and settings.kind not in ("auto", "multi-label"):
        what = f"label columns {listed(columns.labels, 8)}" if several else f"label_delimiter {delimiter!r}"
        raise DataError(f"{rows.label}: {what} for a task of kind {settings.kind}: expected task.kind multi-label")
    if several:
        if settings.labels and set(settings.labels) != set(columns.labels):
            raise DataError(
                f"{rows.label}: label columns {listed(columns.labels)}, but the labels are {listed(settings.labels)}: "
                "expected one column for each of them"
            )
        return from_columns(rows, columns.labels)
    if settings.kind == "auto" and not lists:
        column = rows.table[name]
        lists = is_list(column.type)
        if not lists and is_string(column.type):
            lists = holds_lists(pc.utf8_trim_whitespace(column.combine_chunks().cast(pa.large_string())))
    return from_column(rows, name, delimiter, settings.labels) if lists else LabelColumn(rows, name)


def _labelled_table(column: Labels, columns: Columns, task: Task, role: str, origin: str) -> Table:
    if isinstance(column, TagColumn):
        return column.table(task, role, origin)
    return Table.from_columns(text_columns(column.rows, columns.texts), column.array(task, role, origin))


def _as_tokens(settings: TaskConfig) -> TaskConfig:
    return settings.model_copy(update={"kind": "tokens"})


def _task_line(task: Task) -> str:
    if task.kind == "tokens":
        types = (
            f"{task.scheme.name}, {len(task.scheme.types)} types: {listed(task.scheme.types, 8)}" if task.scheme else ""
        )
        tags = f"{task.num_outputs} tags ({types or listed(task.labels, 8)})"
        return f"task {task.name}: {tags}, a tag per word, scored by {', '.join(task.metrics)}"
    kind = "labels, any number per row," if task.kind == "multi-label" else "classes"
    what = f"{task.num_outputs} {kind} ({listed(task.labels, 8)})" if task.labels else "regression"
    return f"task {task.name}: {what}, {task.num_texts} text(s) per row, scored by {', '.join(task.metrics)}"


def _range(sizes: NDArray[np.int64]) -> str:
    least, most = (int(sizes.min()), int(sizes.max())) if len(sizes) else (0, 0)
    return f"{least:,} to {most:,}" if least < most else f"{least:,}"


def _comparable(table: Table) -> Any:
    """[N]: each identity as one value that numpy can compare."""
    return np.ascontiguousarray(table.ids).view([("hi", np.uint64), ("lo", np.uint64)]).reshape(-1)


def table_name(path: Path) -> str:
    """A short name of the data: the file's, or its folder's where the file is called train, dev or test."""
    stem = path.stem if path.suffix.lower() not in COMPRESSED else Path(path.stem).stem
    if glob.has_magic(stem):  # train-*.csv
        stem = re.split(r"\W*[*?\[]", stem)[0] or "train"
    return path.parent.name or stem if stem in ("train", "dev", "test", "validation") else stem
