"""The built-in data set in a comparison: `data: {train: "builtin:docstrings"}`."""

from __future__ import annotations

from pathlib import Path

from distilect.demo.docstrings import DEV, TRAIN, build_docstrings
from distilect.experiments.config import CompareConfig
from distilect.progress import console

BUILTIN = "builtin:docstrings"


def with_builtin_data(config: CompareConfig, *, build: bool = True) -> CompareConfig:
    """The config with the files of the docstring data set in the place of its name; they are written into `OUTPUT/data`.

    Args:
        build: write them. Without, trials have the same settings: enough for a page of results that are there.

    Raises:
        DataError: this Python has come without its source files.
    """
    if all(task.data.train != BUILTIN for task in config.tasks):
        return config
    folder = Path(config.output) / "data"
    if build:
        console.print(build_docstrings(folder).lines_to_print[0], markup=False)
    files = {"train": str((folder / TRAIN).resolve()), "dev": str((folder / DEV).resolve())}
    tasks = [
        task.model_copy(update={"data": task.data.model_copy(update=files)}) if task.data.train == BUILTIN else task
        for task in config.tasks
    ]
    return config.model_copy(update={"tasks": tasks})
