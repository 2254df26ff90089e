"""Copy a table larger than memory from its file into mapped files, in one pass and in blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distilect import ranks
from distilect.config import DataConfig
from distilect.data.arrow_files import BLOCK
from distilect.data.columns import Columns
from distilect.data.on_disk import TableWriter, is_complete, open_table
from distilect.data.source import Rows, Source
from distilect.data.splits import validation_by_draw
from distilect.data.table import Table
from distilect.errors import DataError
from distilect.files import locked
from distilect.progress import track

_FORMAT = 2


def streamed_tables(
    source: Source, columns: Columns, config: DataConfig, seed: int, as_table: Callable[[Rows], Table]
) -> tuple[Table, Table]:
    """Train and the validation rows held out of it, as mapped tables. Rank 0 writes them once for a file and its settings.

    Raises:
        DataError: the source cannot be streamed, or a row does not fit the task.
    """
    assert config.cache is not None
    if source.num_rows is None:
        raise DataError(
            f"{source.label} cannot be streamed: expected Parquet or a `datasets` folder with data.cache; for other files remove that setting"
        )
    folder = Path(config.cache) / _key(source, columns, config, seed)
    if ranks.is_main():
        busy = f"another process is reading {source.label} into {folder}"
        with locked(folder / "lock", DataError, busy, wait=True):
            if not is_complete(folder / "train"):
                _write(source, columns, config, seed, as_table, folder)
    ranks.barrier()
    return open_table(folder / "train"), open_table(folder / "validation")


def _write(
    source: Source, columns: Columns, config: DataConfig, seed: int, as_table: Callable[[Rows], Table], folder: Path
) -> None:
    assert source.num_rows is not None
    rows = min(source.num_rows, config.max_train_rows or source.num_rows)
    size = config.validation_size if config.validation is None else 0.0
    share = size if size < 1 else min(1.0, size / max(1, source.num_rows))
    blocks = source.blocks(columns.names, rows)
    train = validation = None
    for block in track(blocks, f"reading {source.label}", total=-(-rows // BLOCK)):
        table = as_table(block)
        if train is None or validation is None:
            scores = table.labels.dtype.kind == "f"
            train, validation = (
                TableWriter(folder / name, table.num_texts, scores) for name in ("train", "validation")
            )
        drawn = validation_by_draw(table.ids, share, seed)
        train.add(table.take(np.flatnonzero(~drawn)))
        validation.add(table.take(np.flatnonzero(drawn)))
    assert train is not None and validation is not None  # the task was inferred from some rows
    validation.finish()
    train.finish()  # last, as it marks both as complete


def _key(source: Source, columns: Columns, config: DataConfig, seed: int) -> str:
    """The folder's name: a hash of everything that its content depends on."""
    file = Path(config.train or "")
    stat = file.stat() if file.is_file() else None
    what: dict[str, Any] = {
        "format": _FORMAT,
        "train": str(file.resolve()),
        "rows": source.num_rows,
        "columns": columns.names,
        "size": stat.st_size if stat else None,
        "time": stat.st_mtime_ns if stat else None,
        "seed": seed,
        "limit": config.max_train_rows,
        "validation": config.validation,
        "validation_size": config.validation_size,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return f"{Path(source.label).stem}-{digest}"
