"""GLUE folders in the official TSV form: tab-separated, UTF-8, no quoting; the task shows in the first line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distilect.data.columns import Columns
from distilect.data.text_files import DelimitedFile
from distilect.errors import DataError


@dataclass(frozen=True)
class GlueTask:
    """How one GLUE task is laid out and scored.

    Args:
        signature: columns that its header has and no other task's has in this combination; () = it has no header.
    """

    name: str
    signature: tuple[str, ...]
    texts: tuple[str, ...]
    label: str
    metrics: tuple[str, ...]
    regression: bool = False

    @property
    def columns(self) -> Columns:
        """Text and label columns."""
        return Columns(self.texts, self.label)


_PAIR = ("sentence1", "sentence2")
COLA = GlueTask("CoLA", (), ("sentence",), "label", ("matthews",))
COLA_COLUMNS = ("source", "label", "mark", "sentence")
TASKS = (  # more specific headers first
    GlueTask("STS-B", ("genre", "filename", *_PAIR, "score"), _PAIR, "score", ("pearson", "spearman"), regression=True),
    GlueTask("MRPC", ("Quality", "#1 String", "#2 String"), ("#1 String", "#2 String"), "Quality", ("accuracy", "f1")),
    GlueTask("MNLI", ("promptID", *_PAIR, "gold_label"), _PAIR, "gold_label", ("accuracy",)),
    GlueTask(
        "QQP",
        ("question1", "question2", "is_duplicate"),
        ("question1", "question2"),
        "is_duplicate",
        ("accuracy", "f1"),
    ),
    GlueTask("QNLI", ("index", "question", "sentence", "label"), ("question", "sentence"), "label", ("accuracy",)),
    GlueTask("RTE", ("index", *_PAIR, "label"), _PAIR, "label", ("accuracy",)),  # WNLI too: told apart by its labels
    GlueTask("SST-2", ("sentence", "label"), ("sentence",), "label", ("accuracy",)),
)


def glue_files(folder: Path) -> tuple[Path, Path]:
    """(train, dev) of a GLUE folder; MNLI's dev is the matched one.

    Raises:
        DataError: no such folder or file.
    """
    if not folder.is_dir():
        raise DataError(f"no GLUE folder {folder}. data.glue names a folder with train.tsv and dev.tsv, below data_dir")
    dev = next((folder / name for name in ("dev.tsv", "dev_matched.tsv") if (folder / name).is_file()), None)
    if dev is None or not (folder / "train.tsv").is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10])
        raise DataError(f"{folder} is no GLUE folder: expected train.tsv and dev.tsv, found {found or 'nothing'}")
    return folder / "train.tsv", dev


def recognise(path: Path) -> GlueTask | None:
    """The task that a TSV file belongs to, by its header (CoLA: by the shape of its first line)."""
    first = DelimitedFile(path, "\t", False).columns
    for task in TASKS:
        if set(task.signature) <= set(first):
            return task
    is_cola = len(first) == 4 and first[1] in ("0", "1") and first[2] in ("", "*")
    return COLA if is_cola else None


def open_glue(path: Path, task: GlueTask) -> DelimitedFile:
    """The rows of a file of `task`."""
    return DelimitedFile(path, "\t", False, COLA_COLUMNS if task is COLA else None)


def recognise_folder(folder: Path) -> tuple[GlueTask, Path, Path]:
    """(task, train file, dev file).

    Raises:
        DataError: the header is of no known task, or train and dev are of different ones.
    """
    train, dev = glue_files(folder)
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
