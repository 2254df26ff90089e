"""GLUE folders in the official TSV form: tab-separated, UTF-8, no quoting. The first line identifies the task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distilect.data.columns import Columns
from distilect.data.source import Source
from distilect.data.text_files import delimited_file
from distilect.errors import DataError


@dataclass(frozen=True)
class GlueTask:
    """How one GLUE task is laid out and scored.

    Args:
        signature: a combination of columns that only this task's header has; (): the file has no header.
    """

    name: str
    signature: tuple[str, ...]
    columns: Columns
    metrics: tuple[str, ...]
    regression: bool = False


_PAIR, _QUESTIONS, _STRINGS = ("sentence1", "sentence2"), ("question1", "question2"), ("#1 String", "#2 String")
COLA = GlueTask("CoLA", (), Columns(("sentence",), "label"), ("matthews",))
COLA_COLUMNS = ("source", "label", "mark", "sentence")
TASKS = (  # more specific headers first
    GlueTask(
        "STS-B",
        ("genre", "filename", *_PAIR, "score"),
        Columns(_PAIR, "score"),
        ("pearson", "spearman"),
        regression=True,
    ),
    GlueTask("MRPC", ("Quality", *_STRINGS), Columns(_STRINGS, "Quality"), ("accuracy", "f1")),
    GlueTask("MNLI", ("promptID", *_PAIR, "gold_label"), Columns(_PAIR, "gold_label"), ("accuracy",)),
    GlueTask("QQP", (*_QUESTIONS, "is_duplicate"), Columns(_QUESTIONS, "is_duplicate"), ("accuracy", "f1")),
    GlueTask(
        "QNLI", ("index", "question", "sentence", "label"), Columns(("question", "sentence"), "label"), ("accuracy",)
    ),
    GlueTask(
        "RTE", ("index", *_PAIR, "label"), Columns(_PAIR, "label"), ("accuracy",)
    ),  # and WNLI, whose labels differ
    GlueTask("SST-2", ("sentence", "label"), Columns(("sentence",), "label"), ("accuracy",)),
)


def recognise_folder(folder: Path) -> tuple[GlueTask, Path, Path]:
    """(task, train file, dev file) of a GLUE folder; MNLI's dev is the matched one.

    Raises:
        DataError: no such folder or file, a header of no known task, or train and dev of different ones.
    """
    if not folder.is_dir():
        raise DataError(f"no GLUE folder {folder}. data.glue names a folder with train.tsv and dev.tsv, below data_dir")
    train = folder / "train.tsv"
    dev = next((folder / name for name in ("dev.tsv", "dev_matched.tsv") if (folder / name).is_file()), None)
    if dev is None or not train.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10])
        raise DataError(f"{folder} is not a GLUE folder: expected train.tsv and dev.tsv, found {found or 'nothing'}")
    task, other = recognise(train), recognise(dev)
    if task is None:
        names = ", ".join(known.name for known in (*TASKS, COLA))
        raise DataError(
            f"{train}: its first line fits no GLUE task ({names}). Give it as data.train with data.text, data.label"
        )
    if task != other:
        raise DataError(
            f"{folder}: train.tsv is {task.name}, {dev.name} is {other.name if other else 'of no GLUE task'}"
        )
    return task, train, dev


def recognise(path: Path) -> GlueTask | None:
    """The task that a TSV file belongs to, by its header (CoLA: by the shape of its first line)."""
    first = delimited_file(path, "\t", False).columns
    for task in TASKS:
        if set(task.signature) <= set(first):
            return task
    is_cola = len(first) == 4 and first[1] in ("0", "1") and first[2] in ("", "*")
    return COLA if is_cola else None


def open_glue(path: Path, task: GlueTask) -> Source:
    """The rows of a file of `task`."""
    return delimited_file(path, "\t", False, COLA_COLUMNS if task is COLA else None)
