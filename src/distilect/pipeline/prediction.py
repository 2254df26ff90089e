"""`distilect predict`: a checkpoint's labels and probabilities on a file of texts, block by block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit, softmax

from distilect.config import RunConfig, TaskConfig, TeacherConfig, load_config
from distilect.data import (
    Rows,
    Sentences,
    Source,
    Table,
    check_suffix,
    open_sentences,
    open_texts,
    read_sentences,
    table_writer,
    task_settings_of,
    text_columns,
)
from distilect.errors import DataError, RunError
from distilect.evaluation import predict
from distilect.models import CheckpointTeacher, is_language_checkpoint, load_teacher, resolve_path
from distilect.pipeline.tagging import lists_as_json, tag_columns
from distilect.pipeline.teachers import named_teachers
from distilect.progress import track
from distilect.tasks import Kind, Task, default_metrics, margins

BLOCK = 1024  # rows that are read, run and written at a time


def predict_file(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    text: list[str] | None = None,
    data_dir: str | Path = ".",
    max_length: int | None = None,
    precision: str = "auto",
) -> list[str]:
    """Write a table's columns with the model's predictions beside them.

    New columns: `prediction` (a label; a list of labels in a multi-label task; a score in regression), `probability`, that of a predicted
    class, and `probability_NAME` of each label. Where `model` is a run's folder, its checkpoint teachers are run too: `teachers_agree` is
    the share of them with the same label, `teachers_mean` in regression their mean score.

    Of a model that tags words: lists with one tag and one probability per word, and `entities` (`tagging.tag_columns`); `teachers_agree` is a
    share of the words. Texts are split into words (`data.sentences.words_of`). In CSV and TSV lists are JSON.

    Args:
        model: a checkpoint, or the folder of a run, which means its student.
        data: as `data.train`; labels are not needed.
        output: .csv, .tsv, .jsonl or .parquet; written whole or not at all.
        max_length: in tokens; default: the length that comes with a checkpoint.

    Returns:
        lines for the user.

    Raises:
        DistilectError: something cannot be read, or a new column exists already.
    """
    output = Path(output)
    check_suffix(output)
    run = _Run(Path(model)) if (Path(model) / "metrics.json").is_file() else None
    checkpoint = str(run.student if run else model)
    if is_language_checkpoint(resolve_path(checkpoint)):
        raise RunError(
            f"{checkpoint} is a language model: its answers are made by model.generate of transformers, not by predict"
        )
    settings = task_settings_of(Path(resolve_path(checkpoint)))
    opened = _open(str(data), text, run.text if run else None, Path(data_dir), settings.kind == "tokens")
    task = _task_of(settings, len(opened.columns))
    options: dict[str, Any] = {"precision": precision, "max_length": max_length}
    student = load_teacher(TeacherConfig(path=checkpoint), task, **options)
    assert isinstance(student, CheckpointTeacher)
    models = [student, *(run.teachers(task, options) if run else [])]
    cuts = [student.thresholds, *(run.thresholds(teacher) for teacher in models[1:])] if run else [student.thresholds]

    rows = cut = wordless = 0
    with table_writer(output) as write:
        for block in _blocks(opened.source, output.name):
            read = opened.read(block)
            table = read.table if isinstance(read, Sentences) else read
            encoded = [each.encode(table) for each in models]
            logits = [
                predict(each.model, tokens, precision=precision)[:, each.order]
                for each, tokens in zip(models, encoded, strict=True)
            ]
            if isinstance(read, Sentences):
                added = tag_columns(task, read, logits)
                wordless += len(block) - len(read.kept)
            else:
                added = _columns(task, logits, cuts)
                cut += encoded[0].truncated
            written = _with_columns(block.table, added, opened.source.label)
            write(lists_as_json(written) if task.kind == "tokens" and output.suffix in (".csv", ".tsv") else written)
            rows += len(block)
    lines = [f"{rows:,} rows of {opened.source.label} → {output}"]
    lines += [f"{wordless:,} of them have no words"] if wordless else []
    lines += [f"{cut:,} of them were cut to {student.max_length} tokens: give a higher --max-length"] if cut else []
    return lines + ([f"not asked, as they are no checkpoints: {', '.join(run.others)}"] if run and run.others else [])


@dataclass(frozen=True)
class _Opened:
    """The file: its text columns, or its one column of words.

    Args:
        lists: the column holds lists of words; None: the model does not tag words.
    """

    source: Source
    columns: tuple[str, ...]
    lists: bool | None

    def read(self, block: Rows) -> Table | Sentences:
        """Some rows for the models."""
        if self.lists is None:
            return Table.from_columns(text_columns(block, self.columns))
        return read_sentences(block, self.columns[0], self.lists)


def _open(data: str, text: list[str] | None, of_run: list[str] | None, data_dir: Path, words: bool) -> _Opened:
    """Open the file; `of_run` are the text columns of the run's own tables."""
    if not words:
        return _Opened(*open_texts(data, text=text or of_run, data_dir=data_dir), lists=None)
    source, column, lists = open_sentences(data, text=text, usual=of_run or (), data_dir=data_dir)
    return _Opened(source, (column,), lists)


def _task_of(settings: TaskConfig, num_texts: int) -> Task:
    kind: Kind = "classification" if settings.kind == "auto" else settings.kind
    labels = tuple(settings.labels or ())
    return Task("predict", kind, labels, default_metrics(kind, len(labels)), num_texts)


class _Run:
    """A finished run: its student and the teachers that are checkpoints; `others` are tables and functions."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.student = folder, folder / "student"
        self.config: RunConfig = load_config(folder / "config.yaml")
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            self.named: list[dict[str, Any]] = metrics["teachers"]
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(
                f"{folder / 'metrics.json'} cannot be read: give {self.student} in place of {folder}"
            ) from None
        self.others = [teacher["name"] for teacher in self.named if not teacher.get("path")]

    @property
    def text(self) -> list[str] | None:
        text = self.config.data.text
        return [text] if isinstance(text, str) else text

    def teachers(self, task: Task, options: dict[str, Any]) -> list[CheckpointTeacher]:
        specs = named_teachers(self.config)
        found = []
        for teacher in self.named:
            if path := teacher.get("path"):
                spec = specs[teacher["name"]]
                length = options["max_length"] or spec.max_length or self.config.train.max_length
                changes = {"name": teacher["name"], "path": path, "finetune": None, "max_length": length}
                found.append(load_teacher(spec.model_copy(update=changes), task, **options))
        return [teacher for teacher in found if isinstance(teacher, CheckpointTeacher)]

    def thresholds(self, teacher: CheckpointTeacher) -> Sequence[float] | None:
        """Those that the run has chosen for a teacher on its validation split."""
        found = next((entry.get("thresholds") for entry in self.named if entry["name"] == teacher.name), None)
        return list(found.values()) if found else teacher.thresholds


def _blocks(source: Source, description: str) -> Iterator[Any]:
    """All columns, a thousand rows at a time, with a progress bar over rows."""
    blocks = (
        block.slice(start, BLOCK) for block in source.blocks(source.columns) for start in range(0, len(block), BLOCK)
    )
    total = None if source.num_rows is None else -(-source.num_rows // BLOCK)
    return track(blocks, f"predicting {description}", total=total)


def _with_columns(table: pa.Table, added: dict[str, pa.Array], label: str) -> pa.Table:
    for name, values in added.items():
        if name in table.column_names:
            raise DataError(f"{label} has a column {name!r} already, which predict would write: rename it")
        table = table.append_column(name, values)
    return table


def _columns(
    task: Task, outputs: Sequence[NDArray[np.float32]], cuts: Sequence[Sequence[float] | None]
) -> dict[str, pa.Array]:
    """The new columns of some rows.

    Args:
        outputs: of the student and then of each teacher, [b, C] in the task's order.
        cuts: their thresholds in a multi-label task.
    """
    logits, teachers = outputs[0], outputs[1:]
    if task.kind == "regression":
        found = {"prediction": pa.array(logits[:, 0])}
        return found | ({"teachers_mean": pa.array(np.mean(teachers, axis=0)[:, 0])} if teachers else {})
    if task.kind == "multi-label":
        chosen = [margins(values.astype(np.float64), cut) > 0 for values, cut in zip(outputs, cuts, strict=True)]
        shares = expit(logits)
        found = {"prediction": pa.array([[task.labels[c] for c in np.flatnonzero(row)] for row in chosen[0]])}
        agree = [(theirs == chosen[0]).all(axis=1) for theirs in chosen[1:]]
    else:
        shares, best = softmax(logits, axis=1), logits.argmax(axis=1)
        found = {"prediction": pa.array([task.labels[index] for index in best])}
        found["probability"] = pa.array(shares.max(axis=1))
        agree = [theirs.argmax(axis=1) == best for theirs in teachers]
    found |= {f"probability_{label}": pa.array(shares[:, index]) for index, label in enumerate(task.labels)}
    if agree:
        found["teachers_agree"] = pa.array(np.mean(agree, axis=0).astype(np.float32))
    return found
