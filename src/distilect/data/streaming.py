"""Copy a table larger than memory from its file into mapped files, in one pass and in blocks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distilect.config import DataConfig
from distilect.data.arrow_files import BLOCK
from distilect.data.columns import Columns
from distilect.data.on_disk import TableWriter, open_table, write_once
from distilect.data.source import Rows, Source
from distilect.data.splits import validation_by_draw
from distilect.data.table import Table
from distilect.errors import DataError
from distilect.progress import track
from distilect.tasks import Task

_FORMAT = 3
VALIDATION = "validation"  # folder in that of train


def streamed_tables(
    source: Source,
    columns: Columns,
    config: DataConfig,
    seed: int,
    as_table: Callable[[Rows], Table],
    *,
    labels: Any,
    task: Task,
) -> tuple[Table, Table]:
    """Train and the validation rows held out of it, as mapped tables. Rank 0 writes them once for a file and its settings.

    Args:
        as_table: checks a block of rows.
        labels: their type, as in `TableWriter`.
        task: whose classes the labels are.

    Raises:
        DataError: the source cannot be streamed, or a row does not fit the task.
    """
    total, limit = source.num_rows, config.max_train_rows
    if total is None:
        raise DataError(
            f"{source.label} cannot be streamed: expected Parquet or a `datasets` folder with data.cache; "
            "for other files remove that setting"
        )
    size = config.validation_size if config.validation is None else 0.0
    share = size if size < 1 else min(1.0, size / max(1, total))
    folder = Path(str(config.cache)) / _key(source, columns, config, seed, task)

    def write() -> None:
        places = folder, folder / VALIDATION
        words = task.kind == "tokens"
        train, validation = (TableWriter(place, len(columns.texts), labels, words) for place in places)
        blocks = source.blocks(columns.names, limit)
        for block in track(blocks, f"reading {source.label}", total=-(-min(total, limit or total) // BLOCK)):
            table = as_table(block)
            drawn = validation_by_draw(table.ids, share, seed)
            train.add(table.take(np.flatnonzero(~drawn)))
            validation.add(table.take(np.flatnonzero(drawn)))
        validation.finish()
        train.finish()  # last, as it marks both as complete

    write_once(folder, write, f"reading {source.label}")
    return open_table(folder), open_table(folder / VALIDATION)


def _key(source: Source, columns: Columns, config: DataConfig, seed: int, task: Task) -> str:
    """The folder's name: a hash of everything that its content depends on."""
    files = [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file in source.files if (stat := file.stat())]
    what: dict[str, Any] = {
        "format": _FORMAT,
        "train": config.train,
        "rows": source.num_rows,
        "columns": columns.names,
        "task": [task.kind, *task.labels],
        "files": files,
        "seed": seed,
        "limit": config.max_train_rows,
        "validation": config.validation,
        "validation_size": config.validation_size,
        **({"delimiter": config.label_delimiter} if config.label_delimiter is not None else {}),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "_", Path(source.label).stem)
    return f"{name}-{digest}"
