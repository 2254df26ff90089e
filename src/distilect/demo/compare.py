"""The built-in data set in a comparison: `data: {train: "builtin:docstrings"}`."""

from __future__ import annotations

from pathlib import Path

from distilect.demo.docstrings import build_docstrings
from distilect.experiments.config import CompareConfig
from distilect.progress import console

BUILTIN = "builtin:docstrings"


def with_builtin_data(config: CompareConfig) -> CompareConfig:
    """The config with the files of the docstring data set in the place of its name; they are written into `OUTPUT/data`.

    Raises:
        DataError: this Python has come without its source files.
    """
    if all(task.data.train != BUILTIN for task in config.tasks):
        return config
    built = build_docstrings(Path(config.output) / "data")
    console.print(built.lines_to_print[0], markup=False)
    files = {"train": str(built.train_path.resolve()), "dev": str(built.dev_path.resolve())}
    tasks = [
        task.model_copy(update={"data": task.data.model_copy(update=files)})
        if task.data.train == BUILTIN
        else task
        for task in config.tasks
    ]
    return config.model_copy(update={"tasks": tasks})
